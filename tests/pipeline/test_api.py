"""The Python surface: everything that the command line does, without printing, on any client."""

from __future__ import annotations

import inspect
import random
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from distributed import Client

import pipeline
from pipeline.cli.main import main
from pipeline.surveys.registry import get_survey
from tests.running import break_file, file_hashes, random_checkpoint

pytestmark = pytest.mark.slow

FUNCTIONS = (
    "drop_model",
    "estimate",
    "export",
    "export_spectra",
    "finalize",
    "make_batch",
    "open_run",
    "open_runs",
    "plan",
    "report",
    "run",
    "select_targets",
    "status",
    "verify",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, mirror: Path, catalog: Path) -> Path:
    """Plan and do a run in one process, through functions alone."""
    folder = tmp_path_factory.mktemp("api")
    targets = pipeline.select_targets(catalog, where="PLATE == 266 and FIBERID < 170")
    model = random_checkpoint(folder)
    plan = pipeline.plan(folder / "run", targets=targets, source=mirror, models=[model], shard=2, instrument="sdss")
    assert plan.n_spectra == len(targets.frame)
    pipeline.run(folder / "run", serial=True, progress=False)
    return folder / "run"


def test_every_public_name_is_there_and_nothing_else() -> None:
    assert set(dir(pipeline)) == set(pipeline.__all__)
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None
    assert [name for name in pipeline.__all__ if inspect.isfunction(getattr(pipeline, name))] == list(FUNCTIONS)


def test_functions_stay_functions_whatever_is_imported() -> None:
    """A module of a function's name would take its place as soon as somebody imported it."""
    folder = Path(pipeline.__file__).parent
    files = [file.relative_to(folder.parent).with_suffix("") for file in folder.rglob("*.py")]
    skipped = ("__main__", "base")
    modules = [".".join(file.parts).removesuffix(".__init__") for file in files if not set(file.parts) & set(skipped)]
    random.Random(20261125).shuffle(modules)
    code = (
        "import importlib, inspect, pipeline\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"for name in {FUNCTIONS!r}: assert inspect.isfunction(getattr(pipeline, name)), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_functions_are_typed_and_documented_and_take_no_namespace() -> None:
    for name in FUNCTIONS:
        function = getattr(pipeline, name)
        signature = inspect.signature(function)
        assert function.__doc__
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, f"{name} {parameter}"
            assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), f"{name} {parameter}"
            assert "Namespace" not in str(parameter.annotation)
            assert re.search(rf"\b{parameter.name}\b", function.__doc__), f"{name} says nothing of {parameter.name}"


def test_nothing_is_printed(finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline.plan(finished)
    pipeline.run(finished, serial=True, progress=False)
    pipeline.status(finished)
    pipeline.verify(finished)
    pipeline.report(finished, tmp_path / "report.html")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_file_is_never_written_under_the_name_of_another_format(tmp_path: Path, catalog: Path) -> None:
    with pytest.raises(pipeline.ConfigError, match=r"expected a name that ends in \.parquet"):
        pipeline.select_targets(catalog, output=tmp_path / "targets.csv")
    with pytest.raises(pipeline.ConfigError, match=r"expected a name that ends in \.html or \.htm"):
        pipeline.report(tmp_path, tmp_path / "report.pdf")
    assert not list(tmp_path.iterdir())


def test_a_client_of_ones_own_does_the_work_and_stays_open(
    finished: Path, mirror: Path, tmp_path: Path, threads: Client
) -> None:
    targets = pd.read_parquet(finished / "targets.parquet")
    model = random_checkpoint(finished.parent)
    pipeline.plan(tmp_path / "run", targets=targets, source=str(mirror), models=[f"{model.stem}={model}"], shard=2)
    summary = pipeline.run(tmp_path / "run", client=threads, progress=False)
    assert threads.submit(sum, (1, 2)).result() == 3
    assert summary.done == summary.total
    assert file_hashes(tmp_path / "run") == file_hashes(finished)


def test_a_client_and_another_place_to_work_in_are_refused(finished: Path, threads: Client) -> None:
    with pytest.raises(pipeline.ConfigError, match="no workers=, scheduler="):
        pipeline.run(finished, client=threads, workers=2, progress=False)


def test_chunks_that_fail_raise_after_all_others_are_done(finished: Path, mirror: Path, tmp_path: Path) -> None:
    source = tmp_path / "release"
    targets = pd.read_parquet(finished / "targets.parquet")
    paths = get_survey("sdss").paths("spec-lite", targets["target"].tolist())
    for path in [*paths[:1], *paths[2:]]:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).symlink_to(mirror / path)
    break_file(source / paths[1])  # the source is asked for the first file before the run
    model = random_checkpoint(finished.parent)
    plan = pipeline.plan(tmp_path / "run", targets=targets, source=source, models=[model], shard=2, retries=0)
    with pytest.raises(pipeline.ChunksFailed, match=f"2 of {2 * len(plan.shards())} chunks failed") as raised:
        pipeline.run(tmp_path / "run", serial=True, progress=False)
    assert set(raised.value.reasons) == {"ingest 000000", f"encode {model.stem} 000000"}
    stages = pipeline.status(tmp_path / "run").stages
    assert [stage.pending for stage in stages] == [1, 1]
    with pytest.raises(pipeline.Unfinished):
        pipeline.finalize(tmp_path / "run")


def test_the_command_line_gives_what_the_functions_give(finished: Path, mirror: Path, tmp_path: Path) -> None:
    table = finished / "targets.parquet"
    model = random_checkpoint(finished.parent)
    options = ["--targets", str(table), "--source", str(mirror), "--model", str(model), "--shard", "2"]
    assert main(["plan", str(tmp_path / "run"), *options]) == 0
    assert main(["run", str(tmp_path / "run"), "--serial"]) == 0
    assert file_hashes(tmp_path / "run") == file_hashes(finished)


def test_status_says_when_a_run_is_finished(finished: Path) -> None:
    status = pipeline.status(finished)
    assert status.finished
    assert status.to_dict()["stages"][0]["stage"] == "ingest"
    assert status.spectra == pipeline.open_run(finished).plan.n_spectra


def test_models_may_be_settings(finished: Path) -> None:
    model = random_checkpoint(finished.parent, seed=7)
    asked = pipeline.ModelConfig(name="latents-only", checkpoint=str(model), variables=("latents",))
    plan = pipeline.plan(finished, models=[asked])
    assert plan.model("latents-only").variables == ("latents",)
    assert pipeline.plan(finished).models == plan.models


def test_settings_without_a_model_are_refused(finished: Path) -> None:
    with pytest.raises(pipeline.ConfigError, match="a --model with it"):
        pipeline.plan(finished, precision="bf16")


@pytest.mark.parametrize("option", ["source", "cache", "targets"])
def test_nothing_is_no_place(finished: Path, mirror: Path, tmp_path: Path, option: str) -> None:
    places = {"targets": str(finished / "targets.parquet"), "source": str(mirror), option: ""}
    with pytest.raises(pipeline.ConfigError, match=f"{option} is ''"):
        pipeline.plan(tmp_path / "run", **places)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "run2d"}, "the columns run2d are missing"),
        ({"plate": float("nan")}, "targets column plate"),
        ({"plate": 266.5}, "targets column plate"),
        ({"run2d": "../x"}, "targets row 0 column run2d is '../x'"),
        ({"target": "26/../../x"}, "targets row 0 column target"),
        ({"twice": True}, "targets are there more than once"),
    ],
)
def test_targets_in_memory_are_checked_as_those_in_files(
    finished: Path, mirror: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    frame = pd.read_parquet(finished / "targets.parquet")
    ((name, value),) = change.items()
    if name == "drop":
        frame = frame.drop(columns=str(value))
    elif name == "twice":
        frame = pd.concat([frame, frame.iloc[:1]])
    else:
        frame[name] = [value, *frame[name].tolist()[1:]]
    with pytest.raises(pipeline.ConfigError, match=re.escape(message)):
        pipeline.plan(tmp_path / "run", targets=frame, source=mirror)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"stages": ("ingst",)}, "stages is 'ingst', expected one of ingest, encode"),
        ({"stages": ()}, "some of ingest, encode"),
        ({"models": "nowhere"}, "model is 'nowhere'"),
        ({"wait": -1.0}, "wait is -1.0"),
        ({"client": "tcp://127.0.0.1:1"}, "a Dask client"),
    ],
)
def test_what_a_run_is_asked_is_checked(finished: Path, wish: dict[str, object], message: str) -> None:
    with pytest.raises(pipeline.ConfigError, match=re.escape(message)):
        pipeline.run(finished, progress=False, **wish)  # type: ignore[arg-type]


def test_one_stage_and_one_model_need_no_list(finished: Path) -> None:
    name = random_checkpoint(finished.parent).stem
    summary = pipeline.run(finished, serial=True, stages="encode", models=name, progress=False)
    assert summary.done_before == summary.total > 0


def test_paths_are_taken_wherever_a_place_is(finished: Path) -> None:
    assert pipeline.Run(finished).plan == pipeline.open_run(str(finished)).plan
