"""Clusters without workers: adaptive ones, whose workers come when there is work, and those where nobody comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster

import pipeline
from pipeline.cli import main as cli
from pipeline.compute import executor
from pipeline.compute.workers import watch
from tests import clusters
from tests.running import Recorder, make_root

pytestmark = pytest.mark.slow

WORKER = {
    "host": "127.0.0.1",
    "nthreads": 2,
    "dashboard": False,
    "memory_limit": "4 GB",
    "env": {"OMP_NUM_THREADS": "1"},
}


@pytest.fixture
def adaptive() -> Iterator[SpecCluster]:
    """Start a cluster that has no workers before there is work, and no more than one then."""
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    with SpecCluster(scheduler=scheduler, workers={}, worker={"cls": Nanny, "options": WORKER}) as made:
        made.adapt(minimum=0, maximum=1, interval="500ms")
        yield made


def test_work_is_submitted_and_workers_come(tmp_path: Path, mirror: Path, adaptive: SpecCluster) -> None:
    root, _ = make_root(tmp_path, mirror)
    shown = Recorder()
    with Client(adaptive, set_as_default=False) as client:
        assert client.scheduler_info()["workers"] == {}
        summary = pipeline.run(root, client=client, progress=shown)
    assert (summary.done, summary.failed) == (6, ())
    assert shown.said[0] == f"waiting: the scheduler has no workers; {watch._ADVICE}"


def test_a_run_waits_for_an_adaptive_cluster_without_limit_and_says_so(
    tmp_path: Path, mirror: Path, adaptive: SpecCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor.preflight, "PATIENCE", 0.1)  # which holds for an address alone
    monkeypatch.setattr(executor, "LOOK", 0.5)
    monkeypatch.setattr(watch, "MINUTE", 0.9)
    root, _ = make_root(tmp_path, mirror)
    shown = Recorder()
    with Client(adaptive, set_as_default=False) as client:
        adaptive.adapt(minimum=0, maximum=1, interval="5 s")  # as slow as a queue
        pipeline.run(root, client=client, progress=shown)
    assert shown.said.count(f"waiting: the scheduler has no workers; {watch._ADVICE}") > 1


def test_a_cluster_that_stays_without_workers_is_refused(
    tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "LOOK", 0.5)
    root, _ = make_root(tmp_path, mirror)
    with clusters.start(tmp_path / "cluster", workers=0) as running:
        start = time.monotonic()
        assert cli.main(["run", root, "--scheduler", running.address, "--wait", "3"]) == 1
        assert 3 <= time.monotonic() - start < 60
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "waiting up to 3 s for the cluster"
    assert said[-1].startswith(f"error: --scheduler is '{running.address}', expected a scheduler that has workers (")
    assert said[-1].endswith(f" s waited); start some with: dask worker {running.address} --nthreads 2")
