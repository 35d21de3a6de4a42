from __future__ import annotations

import pytest

from pipeline.cli.main import parser
from pipeline.cli.train import EPOCHS, settings_of
from pipeline.errors import ConfigError
from spender_core.augment import Augmentation
from spender_core.objective import Losses, Slope
from spender_core.presets import PRESETS
from spender_core.settings import Settings


def chosen(*options: str) -> tuple[Settings, Losses]:
    return settings_of(parser().parse_args(["train", "ROOT", "--output", "m.pt", *options]))


def test_without_options_it_is_fidelity_alone() -> None:
    settings, losses = chosen()
    assert settings == Settings(EPOCHS)
    assert losses == Losses()


@pytest.mark.parametrize("name", ["paper1", "paper2"])
def test_a_preset_is_as_published(name: str) -> None:
    assert chosen("--preset", name) == tuple(PRESETS[name])


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (["--epochs", "7"], "epochs", 7),
        (["--batch-size", "7"], "batch_size", 7),
        (["--learning-rate", "0.5"], "lr", 0.5),
        (["--lsf-learning-rate", "0"], "lsf_lr", 0.0),
        (["--schedule", "constant"], "schedule", "constant"),
        (["--seed", "3"], "seed", 3),
        (["--clip", "2"], "clip", 2.0),
        (["--average", "0.9"], "average", 0.9),
        (["--patience", "4"], "patience", 4),
        (["--freeze", "encoder"], "freeze", "encoder"),
        (["--bf16"], "bf16", True),
    ],
)
def test_each_setting_of_a_preset_can_be_replaced(options: list[str], key: str, value: object) -> None:
    settings, losses = chosen("--preset", "paper2", *options)
    published = PRESETS["paper2"]
    assert getattr(settings, key) == value
    others = set(vars(settings)) - {key}
    assert {name: getattr(settings, name) for name in others} == {
        name: getattr(published.settings, name) for name in others
    }
    assert losses == published.losses


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--similarity", "3"], Losses(similarity=3)),
        (["--similarity", "3", "--form", "paper2"], Losses(similarity=3, form="paper2")),
        (["--similarity", "3", "--slope", "2"], Losses(similarity=3, slope=Slope(value=2))),
        (["--consistency", "2"], Losses(consistency=2, augmentation=Augmentation.SDSS)),
        (["--augment"], Losses(consistency=1, augmentation=Augmentation.SDSS)),
        (["--augment", "--consistency", "2"], Losses(consistency=2, augmentation=Augmentation.SDSS)),
        (["--no-augment"], Losses()),
    ],
)
def test_losses_are_chosen_by_their_weights(options: list[str], expected: Losses) -> None:
    assert chosen(*options)[1] == expected


def test_parts_of_a_presets_losses_can_be_left_out() -> None:
    _, losses = chosen("--preset", "paper2", "--no-augment")
    assert (losses.similarity, losses.consistency, losses.augmentation) == (1.0, 0.0, None)
    assert chosen("--preset", "paper2", "--similarity", "0")[1].similarity == 0
    assert chosen("--preset", "paper2", "--slope", "2")[1].slope == Slope(value=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "--batch-size is 0, expected at least 1"),
        (["--learning-rate", "-1"], "--learning-rate is -1.0, expected a positive number"),
        (["--average", "1"], "--average is 1.0, expected between 0 and 1"),
        (["--clip", "nan"], "--clip is nan, expected a positive number"),
        (["--slope", "3"], "--slope is of the similarity loss, which has no weight; give it one"),
        (["--seed", "-1"], "--seed is -1, expected 0 or more"),
        (["--patience", "0"], "--patience is 0, expected at least 1"),
        (["--similarity", "-1"], "--similarity is -1.0, expected 0 or more"),
        (["--consistency", "nan"], "--consistency is nan, expected 0 or more"),
        (["--no-augment", "--consistency", "1"], "--no-augment leaves nothing to compare"),
    ],
)
def test_values_out_of_range_are_refused_by_the_options_name(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen(*options)


@pytest.mark.parametrize("text", ["4000", "4000:", "a:b", "1:2:3"])
def test_a_range_that_cannot_be_read_is_wrong_usage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        chosen("--rest-range", text)
    assert ended.value.code == 2
    assert "invalid range, such as 2500:9300 value" in capsys.readouterr().err
