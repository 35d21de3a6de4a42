from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.compute import executor, job
from pipeline.compute.stages.ingest import ingest_shard
from pipeline.compute.stages.tasks import Outcome
from pipeline.monitor.status import GOING, read_status
from pipeline.planning.plan import Plan
from pipeline.store import root as runs
from pipeline.store import stores
from tests.running import make_root

NOW = 1_700_000_000.0


class Silent:
    def start(self, total: int, done_before: int) -> None: ...
    def advance(self, outcome: Outcome) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


def ingest(root: str, plan: Plan, chunks: int, newest: float = NOW, step: float = 4.0) -> None:
    """Ingest the first chunks; their markers are dated `step` seconds apart, the last one at `newest`."""
    stores.create(root, plan, [("ingest", None)])
    for shard in plan.shards()[:chunks]:
        ingest_shard(root, plan.ingest_fingerprint, shard)
        marker = Path(runs.ingest_ledger(root, plan).folder) / f"{shard.index:06d}.json"
        moment = newest - step * (chunks - 1 - shard.index)
        os.utime(marker, (moment, moment))


def test_a_run_that_has_not_begun_is_all_pending(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    spectra, encodings = read_status(root, plan)
    assert (spectra.stage, spectra.model, spectra.chunks, spectra.done, spectra.pending) == ("ingest", None, 3, 0, 3)
    assert (encodings.stage, encodings.model, encodings.spectra) == ("encode", "random", 0)
    assert spectra.rate is None


@pytest.mark.slow
def test_counts_and_quality_are_those_of_the_markers(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=117, shard=20)
    executor.run(job.pending(root, plan, ("ingest", "encode"), ["random"]), None, Silent())
    spectra, encodings = read_status(root, plan)
    assert (spectra.done, spectra.pending, spectra.spectra) == (6, 0, 117)
    assert spectra.quality["FIBER_MASKED"] == 9, "FACTS.md: nine of the files have fiber-level mask bits"
    assert spectra.good <= spectra.usable <= 117
    assert set(encodings.quality) > set(spectra.quality)
    assert spectra.eta is None


def test_rate_and_time_left_come_from_the_times_of_the_markers(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=12)
    ingest(root, plan, chunks=3)
    spectra, encodings = read_status(root, plan, now=NOW + 1)
    assert spectra.rate == pytest.approx(2 / 4)
    assert spectra.eta == pytest.approx(6 / 0.5)
    assert encodings.rate is None


def date(root: str, plan: Plan, index: int, moment: float) -> None:
    os.utime(Path(runs.ingest_ledger(root, plan).folder) / f"{index:06d}.json", (moment, moment))


def test_a_marker_from_the_future_tells_nothing_about_the_rate(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=12)
    ingest(root, plan, chunks=4)
    date(root, plan, 3, NOW + 3600)
    spectra = read_status(root, plan, now=NOW + 1)[0]
    assert spectra.done == 4
    assert spectra.rate == pytest.approx(2 / 4), "of the two intervals between the three others"
    assert spectra.eta == pytest.approx(4 / 0.5)


@pytest.mark.parametrize("skew", [-30.0, -1.0, 30.0])
def test_a_clock_that_is_a_little_wrong_does_not_change_the_rate(tmp_path: Path, mirror: Path, skew: float) -> None:
    root, plan = make_root(tmp_path, mirror, n=12)
    ingest(root, plan, chunks=3)
    spectra = read_status(root, plan, now=NOW + skew)[0]
    assert spectra.rate == pytest.approx(2 / 4)
    assert spectra.eta == pytest.approx(6 / 0.5)


@pytest.mark.parametrize("skew", [-86400.0, -3600.0, 3600.0, 86400.0])
def test_a_clock_that_is_an_hour_wrong_gives_no_rate_rather_than_a_false_one(
    tmp_path: Path, mirror: Path, skew: float
) -> None:
    root, plan = make_root(tmp_path, mirror, n=12)
    ingest(root, plan, chunks=3)
    spectra = read_status(root, plan, now=NOW + skew)[0]
    assert (spectra.done, spectra.rate, spectra.eta) == (3, None, None)


def test_two_markers_of_one_moment_give_no_rate(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=12)
    ingest(root, plan, chunks=2, step=0.001)
    assert read_status(root, plan, now=NOW)[0].rate is None


def test_a_run_that_has_stopped_has_no_rate(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=12)
    ingest(root, plan, chunks=3)
    assert read_status(root, plan, now=NOW + GOING - 1)[0].rate is not None
    assert read_status(root, plan, now=NOW + GOING + 1)[0].rate is None


def test_slow_chunks_do_not_look_like_a_stop(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=12)
    ingest(root, plan, chunks=2, step=200.0)
    assert read_status(root, plan, now=NOW + 2 * GOING)[0].rate == pytest.approx(2 / 200)


def test_failures_are_told_until_the_chunk_is_done(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    ledger = runs.ingest_ledger(root, plan)
    ledger.fail(1, {"reason": "no answer"})
    assert read_status(root, plan)[0].failed == {1: "no answer"}
    ingest(root, plan, chunks=2)
    assert read_status(root, plan)[0].failed == {}


def test_a_status_is_ready_for_json(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    runs.ingest_ledger(root, plan).fail(1, {"reason": "no answer"})
    values = json.loads(json.dumps([each.to_dict() for each in read_status(root, plan)]))
    assert values[0]["failed"] == {"1": "no answer"}
