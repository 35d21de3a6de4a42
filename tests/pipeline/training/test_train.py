from __future__ import annotations

import io
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.store.checkpoint import inspect
from pipeline.training.models import ModelChoice
from pipeline.training.output import Output
from pipeline.training.train import Trained, train
from spender_core.dataset import SPLIT_RULE
from spender_core.instrument import BOSS, SDSS, Instrument
from spender_core.objective import Losses
from spender_core.presets import PRESETS
from spender_core.settings import Settings
from spender_core.weights import checkpoint_sha256, load_model, read_extras
from tests.running import random_checkpoint

pytestmark = pytest.mark.slow

SMALL = ModelChoice(n_latent=3, rest_range=(4000, 4200))
ONCE = Settings(epochs=1, batch_size=16, schedule="constant")


@pytest.fixture(scope="module")
def trained(ingested: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train two epochs on two runs of one instrument and one of another."""
    output = tmp_path_factory.mktemp("trained") / "new" / "m.pt"
    roots = [ingested["sdss"], ingested["more"], ingested["boss"]]
    settings = Settings(epochs=2, batch_size=16)
    return train(roots, output, settings, model=SMALL, where="class == 'GALAXY'", licence="MIT")


@pytest.mark.parametrize("instrument", [SDSS(), BOSS()], ids=["sdss", "boss"])
def test_the_checkpoint_loads_for_every_instrument(trained: Trained, instrument: Instrument) -> None:
    model, losses = load_model(trained.output.url, instrument)
    assert model.n_latent == 3
    assert losses == trained.history
    assert len(losses["train"]) == 2
    assert losses["train"][-1].keys() == trained.spectra.keys() == {"sdss", "boss"}


def test_the_checkpoint_says_what_it_was_made_of(trained: Trained) -> None:
    extras = read_extras(trained.output.url)
    assert extras["instruments"] == ["sdss", "boss"]
    assert extras["domain"]["classes"] == ["GALAXY"]
    assert extras["domain"]["z"][0] < extras["domain"]["z"][1]
    assert extras["split"] == SPLIT_RULE
    assert extras["licence"] == "MIT"
    assert extras["start"] is None
    assert extras["settings"]["epochs"] == 2
    assert extras["data"]["where"] == "class == 'GALAXY'"
    assert [run["instrument"] for run in extras["data"]["runs"]] == ["sdss", "sdss", "boss"]
    assert sum(run["spectra"] for run in extras["data"]["runs"]) == sum(trained.spectra.values())


def test_a_plan_can_read_its_domain(trained: Trained) -> None:
    domain = inspect(trained.output.url, "sdss").domain
    assert domain is not None
    assert domain.classes == ("GALAXY",)


def test_log_and_figure_are_beside_the_checkpoint(trained: Trained) -> None:
    folder = Path(trained.output.url).parent
    assert {file.name for file in folder.iterdir()} == {"m.pt", "m.jsonl", "m.png"}
    records = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    assert [record["train"] for record in records] == trained.history["train"]
    assert [record["epoch"] for record in records] == [1, 2]
    assert (folder / "m.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_repeatable_and_goes_on_to_more_epochs(ingested: dict[str, str], tmp_path: Path) -> None:
    outputs = [tmp_path / name / "m.pt" for name in ("one", "other")]
    settings = Settings(epochs=1, batch_size=16, schedule="constant")
    first, again = (train([ingested["sdss"]], output, settings, model=SMALL) for output in outputs)
    assert first.history == again.history
    stream = io.StringIO()
    more = Settings(epochs=2, batch_size=16, schedule="constant")
    longer = train([ingested["sdss"]], outputs[0], more, model=SMALL, stream=stream)
    assert longer.history["train"][:1] == first.history["train"]
    assert "resumed in epoch 2, after 0 of its 2 steps" in stream.getvalue()
    whole = train([ingested["sdss"]], tmp_path / "whole.pt", more, model=SMALL)
    assert whole.history == longer.history


def test_other_settings_than_the_checkpoints_are_refused(ingested: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "m.pt"
    train([ingested["sdss"]], output, ONCE, model=SMALL)
    with pytest.raises(ConfigError, match="batch_size is 8 here and 16 there"):
        train([ingested["sdss"]], output, replace(ONCE, batch_size=8), model=SMALL)
    with pytest.raises(ConfigError, match="spectra is"):
        train([ingested["sdss"]], output, ONCE, model=SMALL, where="z < 0.2")
    start = str(random_checkpoint(tmp_path))
    with pytest.raises(ConfigError, match="--start is 'random-1-4.pt', expected random weights; .* began with that"):
        train([ingested["sdss"]], output, ONCE, model=ModelChoice(start=start))


def test_training_starts_from_a_checkpoint_and_says_so(ingested: dict[str, str], tmp_path: Path) -> None:
    start = str(random_checkpoint(tmp_path, n_latent=6))
    settings = Settings(epochs=1, batch_size=16, freeze="decoder", lr=1e-4)
    train([ingested["sdss"]], tmp_path / "m.pt", settings, model=ModelChoice(start=start))
    model, _ = load_model(tmp_path / "m.pt", SDSS())
    before, _ = load_model(start, SDSS())
    assert torch.equal(model.decode(torch.ones(1, 6)), before.decode(torch.ones(1, 6)))
    spectrum = torch.ones(1, len(SDSS().wave_obs))
    assert not torch.equal(model.encode(spectrum), before.encode(spectrum))
    begun = read_extras(tmp_path / "m.pt")["start"]
    assert begun == {"checkpoint": "random-1-6.pt", "sha256": checkpoint_sha256(start)}


def test_a_learned_line_spread_function_is_kept_for_each_instrument(ingested: dict[str, str], tmp_path: Path) -> None:
    choice = ModelChoice(n_latent=3, rest_range=(4000, 4200), lsf=5, lsf_symmetric=True, superres=2)
    settings = Settings(epochs=1, batch_size=16, lsf_lr=1e-2)
    train([ingested["sdss"], ingested["boss"]], tmp_path / "m.pt", settings, model=choice)
    kernels = []
    for instrument in (SDSS(), BOSS()):
        lsf = load_model(tmp_path / "m.pt", instrument)[0].encoder.instrument.lsf
        assert lsf is not None
        kernels.append(lsf.weight.detach().numpy().ravel())
    for kernel in kernels:
        np.testing.assert_array_equal(kernel, kernel[::-1])
        assert kernel.sum() == pytest.approx(1, abs=1e-6)
        assert abs(kernel[2] - 1) > 1e-4
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-6


def test_a_signal_saves_and_is_raised_when_all_is_written(ingested: dict[str, str], tmp_path: Path) -> None:
    class Interrupting(io.StringIO):
        """A stream that a user watches who presses Ctrl-C when the first epoch is shown."""

        def write(self, text: str) -> int:
            if text.startswith("epoch 1 "):
                signal.raise_signal(signal.SIGINT)
            return super().write(text)

    stream = Interrupting()
    settings = Settings(epochs=3, batch_size=16)
    with pytest.raises(KeyboardInterrupt):
        train([ingested["sdss"]], tmp_path / "m.pt", settings, model=SMALL, stream=stream)
    assert f"stopped in epoch 2, after 1 of its steps; saved: {tmp_path / 'm.pt'}" in stream.getvalue()
    assert (tmp_path / "m.png").exists()
    resumed = train([ingested["sdss"]], tmp_path / "m.pt", settings, model=SMALL)
    whole = train([ingested["sdss"]], tmp_path / "whole.pt", settings, model=SMALL)
    assert resumed.history == whole.history
    states = [torch.load(tmp_path / name)["model"][0] for name in ("m.pt", "whole.pt")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_a_checkpoint_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--output is '.*', expected a place that can be written"):
        train(["nowhere"], tmp_path / "file" / "model.pt", ONCE)
    with pytest.raises(ConfigError, match="--output is '.*', expected a file, not a folder"):
        train(["nowhere"], tmp_path, ONCE)


@pytest.mark.parametrize("save_every", [0.0, -1.0, float("nan")])
def test_settings_that_train_nothing_are_refused(tmp_path: Path, save_every: float) -> None:
    with pytest.raises(ConfigError, match="--epochs is 0, expected at least 1"):
        train(["nowhere"], tmp_path / "m.pt", Settings(epochs=0))
    with pytest.raises(ConfigError, match="--save-every is .*, expected a positive number of seconds"):
        train(["nowhere"], tmp_path / "m.pt", ONCE, save_every=save_every)


def test_a_loss_that_is_not_finite_is_said_in_one_line(ingested: dict[str, str], tmp_path: Path) -> None:
    settings = Settings(epochs=4, batch_size=16, lr=1e30, schedule="constant")
    with pytest.raises(ConfigError, match="cannot be trained on: loss is"):
        train([ingested["sdss"]], tmp_path / "m.pt", settings, Losses(), model=SMALL)


def test_a_cycle_of_one_step_is_refused(ingested: dict[str, str], tmp_path: Path) -> None:
    """Its only learning rate would be the last one of a cycle, a millionth of the peak."""
    settings = Settings(epochs=1, batch_size=10**6, schedule="step")
    with pytest.raises(
        ConfigError, match="by step has but one step; raise --epochs, or train with --schedule constant"
    ):
        train([ingested["sdss"]], tmp_path / "m.pt", settings, model=SMALL)
    with pytest.raises(ConfigError, match="by epoch has but one epoch"):
        train([ingested["sdss"]], tmp_path / "m.pt", Settings(epochs=1, schedule="epoch"), model=SMALL)


def test_a_similarity_without_slope_is_said(ingested: dict[str, str], tmp_path: Path) -> None:
    stream = io.StringIO()
    losses = Losses(similarity=1.0, slope=PRESETS["paper2"][1].slope)
    choice = ModelChoice(n_latent=3, rest_range=(5200, 5900))
    train(
        [ingested["sdss"]],
        tmp_path / "m.pt",
        Settings(epochs=1, schedule="constant"),
        losses,
        model=choice,
        stream=stream,
    )
    assert "the similarity loss trains nothing: its slope is 0" in stream.getvalue()


def test_two_checkpoints_of_one_stem_keep_their_own_logs() -> None:
    assert Output("runs/m.v1").log == "runs/m.v1.jsonl"
    assert Output("runs/m.pt").log == "runs/m.jsonl"
