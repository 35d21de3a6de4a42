from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline import storage
from pipeline.catalog import targets as target_table
from pipeline.compute import planner
from pipeline.errors import ConfigError
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from spender_core.weights import WeightsError
from tests.planner import replan

ARCHIVE = "https://data.sdss.org/sas/dr17"
MakePlan = Callable[..., Plan]


def write_config(folder: Path, frame: pd.DataFrame, text: str) -> str:
    target_table.write_targets(frame, str(folder / "t.parquet"))
    file = folder / "survey.toml"
    file.write_text(text)
    return str(file)


def test_a_config_file_gives_the_plan_of_its_settings(
    root: str, tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = 'targets = "t.parquet"\nsource = "dr17"\ncache = "kept"\nshard = 4\ninstrument = "boss"\n'
    plan = replan(root, config=write_config(tmp_path, frame, text))
    settings = {"source": str(tmp_path / "dr17"), "cache": str(tmp_path / "kept"), "shard": 4, "instrument": "boss"}
    other = str(tmp_path / "other")
    assert plan == planner.plan(other, targets=tmp_path / "t.parquet", settings=settings)
    assert Path(root, "plan.json").read_bytes() == Path(other, "plan.json").read_bytes()


def test_the_models_of_a_config_file_are_planned(
    root: str, tmp_path: Path, frame: pd.DataFrame, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    text = f'[[model]]\nname = "written"\ncheckpoint = "{checkpoint.name}"\nvariables = ["latents"]\n'
    targets = f'targets = "{tmp_path / "t.parquet"}"\nsource = "{ARCHIVE}"\n'
    (model,) = replan(root, config=write_config(tmp_path, frame, targets + text)).models
    assert (model.name, model.checkpoint, model.variables) == ("written", str(checkpoint), ("latents",))


@pytest.mark.parametrize("beside", ["targets", "settings", "models"])
def test_a_config_file_beside_other_options_is_refused(
    root: str, tmp_path: Path, frame: pd.DataFrame, checkpoint: Path, beside: str
) -> None:
    file = write_config(tmp_path, frame, f'targets = "t.parquet"\nsource = "{ARCHIVE}"\n')
    others = {"targets": frame, "settings": {"shard": 4}, "models": [checkpoint]}
    with pytest.raises(ConfigError) as caught:
        replan(root, config=file, **{beside: others[beside]})
    error = caught.value
    assert error.key == "--config"
    assert str(error) == f"--config takes no other options; write them into {file}"
    assert not Path(root).exists()


@pytest.mark.parametrize(
    ("config", "key"),
    [(None, "--config"), (b"\xff\xfe", "--config"), (b"source = ", "config"), (b"nosuch = 1", "survey.nosuch")],
)
def test_a_config_file_that_cannot_be_read_is_refused(
    root: str, tmp_path: Path, config: bytes | None, key: str
) -> None:
    file = tmp_path / "survey.toml"
    if config is not None:
        file.write_bytes(config)
    with pytest.raises(ConfigError) as caught:
        replan(root, config=str(file))
    assert caught.value.key == key
    assert not Path(root).exists()


@pytest.mark.parametrize(
    ("option", "wishes"),
    [
        ("--variables", {"variables": ["latents"]}),
        ("--precision", {"precision": "bf16"}),
        ("--micro-batch", {"micro_batch": 3}),
    ],
    ids=str,
)
def test_settings_of_a_model_are_refused_without_one(
    root: str, make_plan: MakePlan, option: str, wishes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(**wishes)
    assert (caught.value.key, caught.value.value) == (option, *wishes.values())
    assert caught.value.expected == "a --model with it"
    assert not Path(root).exists()


def test_settings_of_a_model_reach_those_that_are_named(
    make_plan: MakePlan, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    settings = ModelConfig(name="settings", checkpoint=checkpoint.name, precision="tf32", micro_batch=2)
    wishes = {"variables": ["chi2", "latents"], "precision": "bf16", "micro_batch": 3}
    (model,) = make_plan(settings={"instrument": "sdss"}, models=[settings], **wishes).models
    assert (model.name, model.checkpoint) == ("settings", str(checkpoint))
    assert (model.variables, model.precision, model.micro_batch) == (("latents", "chi2"), "bf16", 3)


def test_a_model_that_is_planned_again_keeps_its_outputs(make_plan: MakePlan, checkpoint: Path) -> None:
    """Those of new plans may be others in a later version."""
    first = make_plan(settings={"instrument": "sdss"}, models=[checkpoint], variables=["latents", "chi2"])
    assert make_plan(settings={"instrument": "sdss"}, models=[checkpoint]) == first
    with pytest.raises(ConfigError, match="variables of model .*: latents here, latents,chi2 in the existing plan"):
        make_plan(settings={"instrument": "sdss"}, models=[checkpoint], variables=["latents"])


def test_a_model_is_named_by_its_file_or_by_a_label(
    make_plan: MakePlan, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    file = Path(checkpoint.name)
    plan = make_plan(settings={"instrument": "sdss"}, models=[file, f"label={file}"])
    assert [model.name for model in plan.models] == ["label", file.stem]
    assert {model.checkpoint for model in plan.models} == {str(checkpoint)}


def test_a_checkpoint_that_is_not_there_is_refused(root: str, make_plan: MakePlan) -> None:
    with pytest.raises(WeightsError, match=r"nosuch\.pt"):
        make_plan(models=["nosuch.pt"])
    assert not Path(root).exists()


def test_a_model_of_another_grid_is_refused(root: str, make_plan: MakePlan, checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match="trained for sdss, the plan's instrument is 'boss'"):
        make_plan(models=[checkpoint])
    assert not Path(root).exists()


@pytest.mark.parametrize(
    ("settings", "choices"),
    [
        ({"survey": "nosuch"}, "one of desi, sdss"),
        ({"layout": "nosuch"}, "one of spec-lite, spec, spPlate"),
        ({"instrument": "nosuch"}, "one of sdss, boss"),
    ],
    ids=str,
)
def test_names_that_are_not_known_are_refused_with_the_choices(
    root: str, make_plan: MakePlan, settings: dict[str, str], choices: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(settings=settings)
    assert [(caught.value.key, caught.value.value)] == list(settings.items())
    assert caught.value.expected.startswith(choices)
    assert not Path(root).exists()


def test_a_layout_that_lacks_the_reduction_of_any_target_is_refused(
    root: str, frame: pd.DataFrame, make_plan: MakePlan
) -> None:
    last = frame.index == len(frame) - 1
    frame.loc[last, ["target", "run2d"]] = ["v6_0_4/300-51600-4375799055", "v6_0_4"]
    with pytest.raises(ConfigError) as caught:
        make_plan(settings={"layout": "spPlate"})
    error = caught.value
    assert error.key == "layout"
    assert "SDSS-V has no spPlate files, and run2d v6_0_4 is of SDSS-V" in str(error)
    assert error.remedy == "choose spec-lite, or the targets of other reductions"
    assert not Path(root).exists()
    assert make_plan(settings={"layout": "spec-lite"}).n_spectra == 8


@pytest.mark.parametrize("targets", ["nowhere.parquet", "survey.toml"])
def test_a_targets_file_that_is_none_is_refused(root: str, tmp_path: Path, make_plan: MakePlan, targets: str) -> None:
    (tmp_path / "survey.toml").write_text("no Parquet")
    with pytest.raises(ConfigError) as caught:
        make_plan(targets=tmp_path / targets)
    assert (caught.value.key, caught.value.value) == ("targets", str(tmp_path / targets))
    assert not Path(root).exists()


def test_targets_without_a_row_are_refused(root: str, frame: pd.DataFrame, make_plan: MakePlan) -> None:
    with pytest.raises(ConfigError, match="the table of targets has no rows"):
        make_plan(targets=frame.head(0))
    assert not Path(root).exists()


def test_a_root_with_a_secret_is_refused_before_it_is_opened(
    frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(storage, "filesystem", opened.append)
    with pytest.raises(ConfigError) as caught:
        planner.plan("s3://AKIA:secret@bucket/run", targets=frame, settings={"source": ARCHIVE})
    assert caught.value.key == "ROOT"
    assert "secret" not in str(caught.value)
    assert opened == []


def test_a_root_that_cannot_be_written_is_refused(root: str, make_plan: MakePlan) -> None:
    Path(root).write_text("a file in the place of the folder")
    with pytest.raises(ConfigError) as caught:
        make_plan()
    assert (caught.value.key, caught.value.value) == ("ROOT", root)
    assert caught.value.expected == "a place that can be written"


def test_where_there_is_a_plan_its_targets_are_there_too(root: str, make_plan: MakePlan) -> None:
    Path(root, "targets.parquet").mkdir(parents=True)  # where the table cannot be written
    with pytest.raises(OSError, match=r"targets\.parquet"):
        make_plan()
    assert not Path(root, "plan.json").exists()


def test_a_plan_that_cannot_be_read_is_not_replaced(root: str, make_plan: MakePlan) -> None:
    make_plan()
    file = Path(root, "plan.json")
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "shard": 8}))
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=r"plan\.json fingerprint"):
        make_plan(settings={"shard": 8})
    assert file.read_bytes() == before


def test_storage_is_reached_as_the_settings_say_and_the_plan_keeps_them(root: str, make_plan: MakePlan) -> None:
    tables = {"s3://mirror": {"anonymous": True}}
    plan = make_plan(settings={"source": "s3://mirror/dr17", "storage": tables})
    assert storage._options("s3://mirror/dr17")["anon"] is True
    assert plan.config.to_dict()["storage"] == tables
    assert replan(root).config.storage == plan.config.storage
