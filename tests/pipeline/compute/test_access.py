"""An archive that lacks most of a run's files, judged from the markers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.catalog import targets
from pipeline.compute import access, executor, job
from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError
from pipeline.planning.plan import Plan
from pipeline.spectra.quality import Quality
from pipeline.store.root import ingest_ledger, targets_url
from tests.pipeline.conftest import MakeTargets
from tests.running import Recorder

SHARD = 10


@pytest.fixture
def frame(make_targets: MakeTargets) -> pd.DataFrame:
    return make_targets(600)


def planned(tmp_path: Path, frame: pd.DataFrame) -> tuple[str, Plan]:
    root = str(tmp_path / "run")
    config = SurveyConfig(source=str(tmp_path / "sas"), targets="t", shard=SHARD, retries=0)
    targets.write_targets(frame, targets_url(root), row_group=SHARD)
    return root, Plan.create(config, frame)


def mark(root: str, plan: Plan, chunks: range, **quality: int) -> None:
    """Mark chunks as ingested, with so many spectra of each bit."""
    for index in chunks:
        shard = plan.shards()[index]
        counts = {"spectra": len(shard), "good": 0, "usable": 0, "quality": quality, "checksums": {}}
        ingest_ledger(root, plan).mark(index, {"start": shard.start, "stop": shard.stop, **counts})


def judged(root: str, plan: Plan, accept_missing: bool = False, stages: tuple[str, ...] = ("ingest",)) -> None:
    access.Access(job.pending(root, plan, stages, []), accept_missing).judge()


@pytest.mark.parametrize("quality", [{"NO_FILE": 6}, {"BAD_FILE": 6}, {"NO_FILE": 3, "BAD_FILE": 3}])
def test_what_earlier_clients_ingested_counts_and_is_asked_for_again(
    tmp_path: Path, frame: pd.DataFrame, quality: dict[str, int]
) -> None:
    root, plan = planned(tmp_path, frame)
    mark(root, plan, range(48), **quality)
    mark(root, plan, range(48, 49))
    judged(root, plan)  # 490 are too few
    mark(root, plan, range(49, 50))
    with pytest.raises(ConfigError, match=r"^288 of 500 spectra have no file in .*; .* --accept-missing") as caught:
        judged(root, plan)
    assert caught.value.key == "source"
    assert ingest_ledger(root, plan).done() == {48, 49}


def test_half_of_the_files_are_enough_and_it_is_judged_once(tmp_path: Path, frame: pd.DataFrame) -> None:
    root, plan = planned(tmp_path, frame)
    mark(root, plan, range(50), NO_FILE=5)
    judged(root, plan)
    mark(root, plan, range(50, 59), NO_FILE=10)
    judged(root, plan)
    assert len(ingest_ledger(root, plan).done()) == 59


def test_what_is_accepted_stays_accepted(tmp_path: Path, frame: pd.DataFrame) -> None:
    root, plan = planned(tmp_path, frame)
    mark(root, plan, range(50), NO_FILE=10)
    judged(root, plan, stages=("encode",))  # says nothing of the archive
    judged(root, plan, accept_missing=True)
    judged(root, plan)
    assert len(ingest_ledger(root, plan).done()) == 50


@pytest.mark.parametrize(("count", "refused"), [(19, False), (20, True)])
def test_a_small_run_is_judged_as_a_whole(tmp_path: Path, frame: pd.DataFrame, count: int, refused: bool) -> None:
    root, plan = planned(tmp_path, frame[:count])
    mark(root, plan, range(1), NO_FILE=9)
    state = access.Access(job.pending(root, plan, ("ingest",), []), False)
    state.judge()
    last = job.pending(root, plan, ("ingest",), []).tasks[0]
    outcome = executor.Outcome(last, {"spectra": count - 10, "quality": {"NO_FILE": 9}})
    if refused:
        with pytest.raises(ConfigError, match="18 of 20 spectra"):
            state.add(outcome)
    else:
        state.add(outcome)


def test_chunks_that_end_after_the_refusal_are_asked_for_again(tmp_path: Path, frame: pd.DataFrame) -> None:
    """Workers go on with what they do: what they mark late is no part of the next run."""
    root, plan = planned(tmp_path, frame)
    mark(root, plan, range(50), NO_FILE=6)
    with pytest.raises(ConfigError):
        judged(root, plan)
    mark(root, plan, range(50, 52), NO_FILE=1)
    mark(root, plan, range(52, 53))
    assert access.to_retry(root, plan) == access.WITHOUT
    again = job.pending(root, plan, ("ingest",), [], retry=access.to_retry(root, plan))
    assert again.ingested == {52}
    assert {index for _, index in again.again} == {50, 51}
    access.Access(again, accept_missing=False).reopen()
    assert ingest_ledger(root, plan).access() == ""
    assert access.to_retry(root, plan) == Quality.GOOD


def test_nothing_is_started_where_the_markers_tell_enough(tmp_path: Path, frame: pd.DataFrame) -> None:
    root, plan = planned(tmp_path, frame)
    mark(root, plan, range(50), BAD_FILE=10)
    with pytest.raises(ConfigError, match="500 of 500 spectra"):
        executor.run(job.pending(root, plan, ("ingest",), []), None, Recorder())
    assert not (tmp_path / "run" / "spectra.zarr").exists()
