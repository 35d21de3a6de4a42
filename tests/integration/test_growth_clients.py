"""Clients that meet: one adds targets, plans or drops models, another plans or runs; none undoes the other's work."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pipeline
from pipeline import storage
from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.compute import planner
from pipeline.store.clients import Presence
from tests.running import file_hashes, make_root, random_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def frame(mirror: Path) -> pd.DataFrame:
    return targets.read_targets(str(mirror / "sdss/spectro/redux/specObj-dr17.fits")).iloc[:16].reset_index(drop=True)


@pytest.fixture(scope="module")
def finished(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 6 targets in chunks of 4."""
    root, _ = make_root(tmp_path_factory.mktemp("finished"), mirror, n=6, shard=4, models=("first", "second"))
    pipeline.run(root, serial=True, progress=False)
    return Path(root)


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def meanwhile(act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen between the reading of a plan and its writing."""
    inner = planner.require_space

    def first(*values: Any) -> None:
        monkeypatch.setattr(planner, "require_space", inner)
        act()
        inner(*values)

    monkeypatch.setattr(planner, "require_space", first)


@pytest.mark.parametrize("other", ["targets", "a model"])
def test_a_plan_that_was_changed_meanwhile_is_not_overwritten(
    root: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    def grow() -> None:
        pipeline.plan(root, targets=frame.iloc[:9], extend=True)
        pipeline.run(root, serial=True, progress=False)

    meanwhile(grow, monkeypatch)
    change: dict[str, Any] = {"models": [f"third={random_checkpoint(root.parent, 3)}"]}
    if other == "targets":
        change = {"targets": frame.iloc[9:12], "extend": True}
    with pytest.raises(pipeline.ConfigError, match="another client has changed the plan .* start the same command"):
        pipeline.plan(root, **change)
    assert pipeline.open_run(root).plan.n_spectra == 9
    assert pipeline.verify(root).problems == ()


def test_two_that_plan_at_once_are_refused(root: Path, frame: pd.DataFrame) -> None:
    with Presence(str(root), "plan"):
        with pytest.raises(pipeline.ConfigError, match="another client works on"):
            pipeline.plan(root, targets=frame.iloc[:9], extend=True)
        with pytest.raises(pipeline.ConfigError, match="another client works on"):
            pipeline.drop_model(root, "first")


@pytest.mark.parametrize("verb", ["run", "finalize", "verify"])
def test_work_begins_when_the_targets_are_added(root: Path, verb: str) -> None:
    do = {
        "run": lambda: pipeline.run(root, serial=True, progress=False),
        "finalize": lambda: pipeline.finalize(root),
        "verify": lambda: pipeline.verify(root, repair=True),
    }[verb]
    before = file_hashes(root)
    described = root / "spectra.zarr" / "z" / "zarr.json"
    thread = threading.Thread(target=do)
    with Presence(str(root), "plan --extend"):
        content = described.read_bytes()
        described.write_bytes(b"half written")
        thread.start()
        thread.join(3)
        assert thread.is_alive()
        described.write_bytes(content)
    thread.join(60)
    assert not thread.is_alive()
    assert file_hashes(root) == before


def test_a_run_whose_targets_grow_meanwhile_says_that_they_are_not_done(
    root: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last chunk is done, so that targets may be added while it does another."""
    from pipeline.compute import executor
    from pipeline.store.root import ledgers

    for ledger in ledgers(str(root), pipeline.open_run(root).plan):
        ledger.unmark(0)
    inner = executor.attempt

    def grow(*values: Any) -> Any:
        monkeypatch.setattr(executor, "attempt", inner)
        pipeline.plan(root, targets=frame.iloc[:9], extend=True)
        return inner(*values)

    monkeypatch.setattr(executor, "attempt", grow)
    assert cli.main(["run", str(root), "--serial"]) == 3
    shown = capsys.readouterr().err
    assert "targets were added to the run meanwhile" in shown
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert pipeline.status(root).finished
    assert pipeline.verify(root).problems == ()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", range(3))
def test_a_model_whose_removal_was_interrupted_is_never_taken_for_done(root: Path, step: int) -> None:
    before = file_hashes(root)
    calls = 0

    def stops(act: Callable[..., Any]) -> Callable[..., Any]:
        def do(url: str, *values: Any, **options: Any) -> Any:
            nonlocal calls
            if "/clients/" in url:
                return act(url, *values, **options)
            calls += 1
            if calls > step:
                raise Killed
            return act(url, *values, **options)

        return do

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "remove", stops(storage.remove))
        patch.setattr(storage, "write_bytes", stops(storage.write_bytes))
        with pytest.raises(Killed):
            pipeline.drop_model(root, "first")
    pipeline.run(root, serial=True, progress=False)
    assert np.isfinite(pipeline.open_run(root).encodings("first")["latents"].values).any()
    assert file_hashes(root) == before
    assert [model.name for model in pipeline.drop_model(root, "first").models] == ["second"]


@pytest.mark.parametrize("extend", [True, False])
def test_a_target_that_is_there_twice_is_refused(
    root: Path, frame: pd.DataFrame, mirror: Path, tmp_path: Path, extend: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(tmp_path / "more.parquet")
    targets.write_targets(pd.concat([frame.iloc[6:9], frame.iloc[8:10]]), table)
    where = [str(root), "--extend"] if extend else [str(tmp_path / "other"), "--source", str(mirror)]
    assert cli.main(["plan", *where, "--targets", table]) == 1
    assert "targets are there more than once" in capsys.readouterr().err


def test_a_table_of_others_may_lack_values_and_hold_an_index(root: Path, frame: pd.DataFrame, mirror: Path) -> None:
    own = frame.iloc[:4].assign(
        COUNT=pd.array([1, None, 3, 4], dtype="Int64"),
        TEXT=pd.Series(["a", None, "b", "a"], dtype="category"),
    )
    table = root.parent / "own.parquet"
    own[own["target"] != ""].iloc[[0, 1, 3]].to_parquet(table)  # pandas keeps the rows' numbers in a column
    made = pipeline.plan(root.parent / "own", targets=table, source=mirror, models=random_checkpoint(root.parent))
    assert {name: each.dtype for name, each in made.kept.items()} == {"COUNT": "float64", "TEXT": "str"}
    with pytest.raises(pipeline.ConfigError, match="keep is 'NOPE', expected a further column of .*: COUNT, TEXT"):
        pipeline.plan(root.parent / "other", targets=table, source=mirror, keep="NOPE")


@pytest.mark.parametrize("name", ["FLUX", "Plate", "latent"])
def test_a_kept_column_is_no_namesake_of_a_runs_own(
    frame: pd.DataFrame, mirror: Path, tmp_path: Path, name: str
) -> None:
    """Whatever the case: not every disk tells FLUX from flux."""
    with pytest.raises(pipeline.ConfigError, match="every run has"):
        pipeline.plan(tmp_path / "run", targets=frame.assign(**{name: 1.0}), source=mirror, keep=name)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--drop-model", "first", "--extend"], "--drop-model does not go with --extend"),
        (["--extend"], "there are no targets to add"),
        (["--extend", "--config", "x.toml"], "--extend does not go with --config"),
        (["--expect", "1000"], "are sized already: 4 spectra each"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    root: Path, options: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(root), *options]) == 1
    assert shown in capsys.readouterr().err


def test_no_model_is_added_to_a_run_that_has_none_any_more(root: Path) -> None:
    for name in ("first", "second"):
        pipeline.drop_model(root, name)
    assert pipeline.plan(root).models == ()


@pytest.mark.parametrize("obstacle", ["no scheduler", "no files"])
def test_a_retry_that_cannot_begin_removes_no_marker(
    root: Path, tmp_path: Path, obstacle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.store.root import ingest_ledger

    made = pipeline.open_run(root).plan
    ledger = ingest_ledger(str(root), made)
    record = ledger.read(0)
    record["quality"] = {**record["quality"], "NO_FILE": 1}
    ledger.replace(0, record)
    before = file_hashes(root)
    where = ["--scheduler", "tcp://127.0.0.1:1", "--wait", "1"] if obstacle == "no scheduler" else ["--serial"]
    if obstacle == "no files":
        (tmp_path / "gone" / "dr17").mkdir(parents=True)
        pipeline.plan(root, source=tmp_path / "gone" / "dr17")
    assert cli.main(["run", str(root), "--retry", " NO_FILE ,bad_file", *where]) == 1
    assert file_hashes(root) == before
    assert cli.main(["run", str(root), "--retry", "no_file", "--only", "4:6", "--serial"]) == 0
    assert file_hashes(root) == before


def test_only_takes_rows_that_are_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, shown in (("5:2", "no rows 5:2"), ("-3:", "rows that count from 0"), ("6:9", "no rows 6:9")):
        assert cli.main(["run", str(root), f"--only={text}", "--serial"]) == 1
        assert shown in capsys.readouterr().err
    for wrong in (slice("a", "b"), slice(0, 4, 2), slice(-3, None)):
        with pytest.raises(pipeline.ConfigError, match="rows that count from 0"):
            pipeline.run(root, only=wrong, serial=True, progress=False)
    pipeline.run(root, only=slice(np.int64(0).item(), 2), serial=True, progress=False)


def test_strange_entries_among_the_clients_are_no_clients(root: Path) -> None:
    (root / "clients" / "folder.json").mkdir(parents=True)
    (root / "clients" / "notes.txt").touch()
    assert pipeline.status(root).clients == ()
