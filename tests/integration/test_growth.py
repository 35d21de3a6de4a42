"""Runs that grow: what is done stays, the result is that of a fresh run, and no interruption or late task spoils it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import pipeline
from pipeline import storage
from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.compute.stages.tasks import Task
from pipeline.planning.plan import Plan
from pipeline.store import arrays
from pipeline.store import root as runs
from pipeline.store.clients import CHUNKS, Presence
from tests.bench import RUNS
from tests.late import PLACES, late_task
from tests.running import file_hashes, random_checkpoint

MODELS = ("first", "second")
SHARD = 4
PARTS = 4  # of a test that takes minutes


@pytest.fixture(scope="module")
def frame(mirror: Path) -> pd.DataFrame:
    """64 targets; every fourth begins a batch, so that none of them is in the order of the whole."""
    found = targets.read_targets(str(mirror / "sdss/spectro/redux/specObj-dr17.fits"))
    found["NOTE"] = [f"galaxy {i}" if i % 3 else "" for i in range(len(found))]
    found["MAG"] = np.where(np.arange(len(found)) % 5, np.arange(len(found)) / 7, np.nan)
    return found.iloc[:64].reset_index(drop=True)


def plan(root: Path, rows: pd.DataFrame, mirror: Path, checkpoints: Path, *, extend: bool = False) -> Plan:
    if extend:
        return pipeline.plan(root, targets=rows, keep=("NOTE", "MAG"), extend=True)
    models = [f"{name}={random_checkpoint(checkpoints, seed)}" for seed, name in enumerate(MODELS)]
    return pipeline.plan(root, targets=rows, source=mirror, models=models, shard=SHARD, retries=1, keep=("NOTE", "MAG"))


def run(root: Path) -> None:
    pipeline.run(root, serial=True, progress=False)


def by_target(root: Path, model: str | None) -> xr.Dataset:
    opened = pipeline.open_run(root)
    dataset = (opened.spectra() if model is None else opened.encodings(model)).load()
    return dataset.sortby("target").drop_attrs()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def small(
    frame: pd.DataFrame, mirror: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A finished run of 6 targets, and a copy of it that has grown to 11 without any disturbance."""
    folder = tmp_path_factory.mktemp("small")
    plan(folder / "before", frame.iloc[:6], mirror, checkpoints)
    run(folder / "before")
    shutil.copytree(folder / "before", folder / "after")
    plan(folder / "after", frame.iloc[:11], mirror, checkpoints, extend=True)
    run(folder / "after")
    return folder / "before", folder / "after"


def test_a_run_that_grows_three_times_equals_a_fresh_one(
    frame: pd.DataFrame, mirror: Path, checkpoints: Path, tmp_path: Path
) -> None:
    grown, fresh = tmp_path / "grown", tmp_path / "fresh"
    for batch in range(4):
        rows = frame.iloc[batch::4].iloc[: 16 if batch else 14]
        before = {} if not batch else {file: file.stat().st_mtime_ns for file in objects(grown)}
        whole = pipeline.open_run(grown).plan.n_spectra // SHARD if batch else 0
        plan(grown, rows, mirror, checkpoints, extend=batch > 0)
        run(grown)
        untouched = {file for file, moment in before.items() if file.stat().st_mtime_ns == moment}
        assert untouched == {file for file in before if int(str(file).rpartition("/c/")[2].split("/")[0]) < whole}
    assert plan(grown, frame, mirror, checkpoints, extend=True).n_spectra == 64  # the two that were left out
    run(grown)
    plan(fresh, frame, mirror, checkpoints)
    run(fresh)
    for model in (None, *MODELS):
        xr.testing.assert_identical(by_target(grown, model), by_target(fresh, model))
    assert pipeline.verify(grown).problems == ()
    assert pipeline.status(grown).finished


def objects(root: Path) -> list[Path]:
    """List the data objects of a run, of all variables but coordinates."""
    variables = {"flux", "ivar", "norm", "quality", "latents", "restframe", "chi2", "n_pixels", "amplitude"}
    stores = [root / "spectra.zarr", *(root / "encodings").iterdir()]
    return [
        file
        for store in stores
        for name in variables
        if (store / name).is_dir()
        for file in (store / name / "c").rglob("*")
        if file.is_file()
    ]


def test_a_run_keeps_the_codecs_that_it_began_with(
    frame: pd.DataFrame, mirror: Path, checkpoints: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    plan(root, frame.iloc[:6], mirror, checkpoints)
    begun = json.loads((root / "plan.json").read_bytes())
    assert begun.pop("codecs") == 2
    (root / "plan.json").write_bytes(storage.canonical_json(begun))  # as an earlier version wrote it
    run(root)
    plan(root, frame.iloc[:11], mirror, checkpoints, extend=True)
    pipeline.plan(root, models=f"third={random_checkpoint(checkpoints, 3)}")
    run(root)
    assert "codecs" not in json.loads((root / "plan.json").read_bytes())
    for path in ("spectra.zarr/flux", "encodings/third.zarr/restframe"):
        assert zarr.open_array(root / path).compressors[0].cname.value == "zstd"
    assert pipeline.verify(root).problems == ()


def test_repeated_targets_are_skipped_and_counted(
    small: tuple[Path, Path], frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    shutil.copytree(small[0], root)
    kept = pipeline.open_run(root).plan.kept
    targets.write_targets(frame.iloc[3:9], str(tmp_path / "more.parquet"), kept=kept)
    assert cli.main(["plan", str(root), "--targets", str(tmp_path / "more.parquet"), "--extend"]) == 0
    assert "3 targets added, 3 were in the run already" in capsys.readouterr().out
    before = (root / "plan.json").read_bytes()
    assert cli.main(["plan", str(root), "--targets", str(tmp_path / "more.parquet"), "--extend"]) == 0
    assert "0 targets added, 6 were in the run already" in capsys.readouterr().out
    assert pipeline.open_run(root).plan.generations == Plan.from_json(before).generations


@pytest.mark.parametrize(("column", "value"), [("z", 0.25), ("NOTE", "another"), ("MAG", 3.5)])
def test_rows_that_contradict_the_runs_are_refused(
    small: tuple[Path, Path], frame: pd.DataFrame, tmp_path: Path, column: str, value: object
) -> None:
    root = tmp_path / "run"
    shutil.copytree(small[0], root)
    before = file_hashes(root)
    rows = frame.iloc[:9].copy()
    rows.loc[2, column] = value
    with pytest.raises(pipeline.ConfigError, match=rf"target {rows['target'][2]} has {column} {value} here"):
        pipeline.plan(root, targets=rows, keep=("NOTE", "MAG"), extend=True)
    assert file_hashes(root) == before


def test_a_target_may_lack_a_value_in_both(small: tuple[Path, Path], frame: pd.DataFrame, tmp_path: Path) -> None:
    shutil.copytree(small[0], tmp_path / "run")
    rows = frame.iloc[:7]
    assert rows["MAG"].isna().any()
    assert pipeline.plan(tmp_path / "run", targets=rows, keep=("NOTE", "MAG"), extend=True).n_spectra == 7


def test_other_targets_are_refused_without_extend(
    small: tuple[Path, Path], frame: pd.DataFrame, tmp_path: Path
) -> None:
    shutil.copytree(small[0], tmp_path / "run")
    with pytest.raises(pipeline.ConfigError, match="lacks 3 of these 9 targets; pass --extend to add them"):
        pipeline.plan(tmp_path / "run", targets=frame.iloc[:9], keep=("NOTE", "MAG"))
    with pytest.raises(pipeline.ConfigError, match="further columns NOTE .str., those of .* NOTE .str., MAG .float64."):
        pipeline.plan(tmp_path / "run", targets=frame.iloc[:9], keep="NOTE", extend=True)
    with pytest.raises(pipeline.ConfigError, match="has no plan yet; leave --extend out"):
        pipeline.plan(tmp_path / "none", targets=frame, extend=True)


def test_targets_are_not_added_beside_a_client_that_may_be_at_the_last_chunk(
    small: tuple[Path, Path], frame: pd.DataFrame, mirror: Path, checkpoints: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    plan(root, frame.iloc[:6], mirror, checkpoints)
    with Presence(str(root), "run"):
        with pytest.raises(pipeline.ConfigError, match="another client works on .*: `spender-pipeline run` on "):
            plan(root, frame.iloc[:9], mirror, checkpoints, extend=True)
    run(root)
    with Presence(str(root), "run") as client:
        with pytest.raises(pipeline.ConfigError, match="another client works on"):  # it may be closing the stores
            plan(root, frame.iloc[:9], mirror, checkpoints, extend=True)
        client.show(CHUNKS)
        assert plan(root, frame.iloc[:9], mirror, checkpoints, extend=True).n_spectra == 9


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(step: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Have the process die before the step-th object that it writes or removes; return what was written before."""
    done: list[str] = []
    lock = threading.Lock()

    def limited(act: Callable[..., Any]) -> Callable[..., Any]:
        def do(url: str, *values: Any, **options: Any) -> Any:
            if "/clients/" in url:
                return act(url, *values, **options)
            with lock:
                if len(done) >= step:
                    raise Killed
                done.append(url)
            return act(url, *values, **options)

        return do

    for name in ("write_bytes", "remove", "create_bytes"):
        patch.setattr(storage, name, limited(getattr(storage, name)))
    return done


def steps(small: tuple[Path, Path], frame: pd.DataFrame, mirror: Path, checkpoints: Path, folder: Path) -> list[str]:
    root = folder / "counted"
    shutil.copytree(small[0], root)
    with pytest.MonkeyPatch.context() as patch:
        done = killed_at(10**9, patch)
        plan(root, frame.iloc[:11], mirror, checkpoints, extend=True)
    return done


def check_killed_at(
    step: int, small: tuple[Path, Path], frame: pd.DataFrame, mirror: Path, checkpoints: Path, folder: Path
) -> None:
    """Kill an extension at a step; the run is as before or grown, goes on as it is, and grows when asked again."""
    before, after = small
    root = folder / f"killed-{step}"
    shutil.copytree(before, root)
    with pytest.MonkeyPatch.context() as patch:
        killed_at(step, patch)
        with pytest.raises(Killed):
            plan(root, frame.iloc[:11], mirror, checkpoints, extend=True)
    opened = pipeline.open_run(root)
    assert opened.plan.n_spectra == 6
    for model in (None, *MODELS):
        xr.testing.assert_identical(by_target(root, model), by_target(before, model))
    assert not [problem for problem in pipeline.verify(root).problems if "were being added" not in problem]
    other = folder / f"went-on-{step}"
    shutil.copytree(root, other)
    run(other)
    assert file_hashes(other) == file_hashes(before)
    plan(root, frame.iloc[:11], mirror, checkpoints, extend=True)
    run(root)
    assert file_hashes(root) == file_hashes(after)
    shutil.rmtree(root)
    shutil.rmtree(other)


def test_an_extension_killed_at_its_turning_points_does_no_harm(
    small: tuple[Path, Path], frame: pd.DataFrame, mirror: Path, checkpoints: Path, tmp_path: Path
) -> None:
    done = steps(small, frame, mirror, checkpoints, tmp_path)
    assert done[-1].endswith("plan.json")
    marks = ("spectra.zarr/flux/zarr.json", "spectra.zarr/zarr.json", "store.json", "targets.parquet")
    turning = {next(i for i, url in enumerate(done) if url.endswith(mark)) for mark in marks}
    for step in sorted({0, *turning, len(done) - 1}):
        check_killed_at(step, small, frame, mirror, checkpoints, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_an_extension_killed_at_any_step_does_no_harm(
    part: int, small: tuple[Path, Path], frame: pd.DataFrame, mirror: Path, checkpoints: Path, tmp_path: Path
) -> None:
    """Every third step; SPENDER_FAULT_RUNS=3 takes all of them."""
    every = max(1, 3 // RUNS)
    done = steps(small, frame, mirror, checkpoints, tmp_path)
    for step in range(part * every, len(done), PARTS * every):
        check_killed_at(step, small, frame, mirror, checkpoints, tmp_path)


@pytest.mark.parametrize("stage", ["ingest", "encode"])
@pytest.mark.parametrize("place", PLACES)
def test_a_task_that_goes_on_after_the_run_has_grown_spoils_nothing(
    stage: str,
    place: str,
    small: tuple[Path, Path],
    frame: pd.DataFrame,
    mirror: Path,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task is of the last chunk, of which a second one is done meanwhile: its client was thought dead."""
    before, after = small
    root = tmp_path / "run"
    shutil.copytree(before, root)
    made = pipeline.open_run(root).plan
    task = Task(stage, None if stage == "ingest" else MODELS[0], made.shards()[1])
    ledgers = {(each.stage, each.model): each for each in runs.ledgers(str(root), made)}
    ledgers[task.kind].unmark(1)
    with late_task(str(root), made, task, place, monkeypatch) as late:
        run(root)  # by another client, which finds the chunk not done
        plan(root, frame.iloc[:11], mirror, checkpoints, extend=True)
        run(root)
        assert file_hashes(root) == file_hashes(after)
        assert late.go_on().reason is None
    assert file_hashes(root) == file_hashes(after)
    assert pipeline.verify(root).problems == ()


def test_a_chunk_that_a_late_task_spoiled_is_done_again_at_the_end(
    small: tuple[Path, Path], frame: pd.DataFrame, mirror: Path, checkpoints: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    shutil.copytree(small[0], root)
    plan(root, frame.iloc[:11], mirror, checkpoints, extend=True)
    pipeline.run(root, stages="ingest", serial=True, progress=False)
    url = arrays.spectra_url(str(root))
    handle = arrays.open_handle(url, writable=True)
    handle.array("quality")[6:8] = np.uint32(1)  # what rows of an earlier generation leave behind them
    run(root)
    assert file_hashes(root) == file_hashes(small[1])


def test_kept_columns_are_coordinates_and_no_fingerprint_holds_them(
    small: tuple[Path, Path], frame: pd.DataFrame, mirror: Path, tmp_path: Path
) -> None:
    opened = pipeline.open_run(small[1])
    for dataset in (opened.spectra(), opened.encodings("second")):
        assert dataset["NOTE"].values.tolist() == frame["NOTE"].iloc[:11].tolist()
        np.testing.assert_array_equal(dataset["MAG"], frame["MAG"].iloc[:11])
    assert str(opened.encodings("second")["model"].values) == "second"
    without = pipeline.plan(tmp_path / "run", targets=frame.iloc[:11], source=mirror, shard=SHARD)
    assert without.ingest_fingerprint == opened.plan.ingest_fingerprint
    with pytest.raises(pipeline.ConfigError, match="every run has a variable flux; rename the column"):
        pipeline.plan(tmp_path / "other", targets=frame.assign(flux=1.0), source=mirror, keep="flux")


def test_a_model_is_dropped_with_all_that_it_made(
    small: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    shutil.copytree(small[0], root)
    with Presence(str(root), "run"):
        assert cli.main(["plan", str(root), "--drop-model", "first"]) == 1
    assert "another client works on" in capsys.readouterr().err
    assert cli.main(["plan", str(root), "--drop-model", "first"]) == 0
    assert "dropped first and its encodings; models left: second" in capsys.readouterr().out
    assert [file.name for file in (root / "encodings").iterdir()] == ["second.zarr"]
    assert not list((root / "ledger").glob("encode-first-*"))
    assert pipeline.verify(root).problems == ()
    assert cli.main(["plan", str(root), "--drop-model", "first"]) == 1
    assert "model is 'first', expected one of the plan's models: second" in capsys.readouterr().err


def test_a_run_that_will_grow_is_sized_for_it(frame: pd.DataFrame, mirror: Path, tmp_path: Path) -> None:
    sized = pipeline.plan(tmp_path / "a", targets=frame, source=mirror, expect=1_000_000)
    assert (sized.shard, sized.chunk, sized.models[0].micro_batch) == (4096, 32, 64)
    assert pipeline.plan(tmp_path / "b", targets=frame, source=mirror).shard < 10


def test_more_chunks_than_a_run_may_have_are_refused(
    small: tuple[Path, Path], frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small[0], tmp_path / "run")
    monkeypatch.setattr("pipeline.compute.growth.MAX_CHUNKS", 2)
    with pytest.raises(pipeline.ConfigError, match="would have 3 chunks of 4 spectra, at most 2 .* --expect"):
        pipeline.plan(tmp_path / "run", targets=frame.iloc[:11], keep=("NOTE", "MAG"), extend=True)
