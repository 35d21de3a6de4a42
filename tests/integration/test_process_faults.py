"""Whoever is killed, stopped or without room, the same command ends with the objects of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from distributed import Client, Worker, WorkerPlugin

from pipeline import storage
from pipeline.archive.source import Allowance
from pipeline.catalog import targets
from pipeline.compute.stages import ingest as stage
from pipeline.compute.stages.record import Record
from pipeline.planning.partition import Shard
from pipeline.store import root as runs
from tests import clusters
from tests.bench import PATIENCE, RUNS, TASKS, Bench, run, running, shown, wait_until

pytestmark = pytest.mark.long


def test_workers_killed_at_random(bench: Bench, tmp_path: Path) -> None:
    with bench.row("SIGKILL of a worker") as row:
        for _ in range(RUNS):
            root = bench.new_root()
            with running(root, tmp_path, "--workers", "2") as process:
                for moment in sorted(bench.chance.sample(range(TASKS - 8), 2)):
                    wait_until(lambda: bench.marked(root) >= moment, process)  # noqa: B023
                    victims = clusters.children(process.pid)
                    if victims:
                        bench.chance.choice(victims).kill()
                        row.injected += 1
                assert process.wait(PATIENCE) == 0, shown(tmp_path)
            bench.check(row, root)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_client_stopped_at_a_random_moment(
    bench: Bench, cluster: clusters.Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    statuses = {signal.SIGKILL: -9, signal.SIGTERM: 3, signal.SIGINT: 130}
    with bench.row(f"{number.name} of the client") as row:
        for _ in range(RUNS):
            root = bench.new_root()
            moment = bench.chance.randrange(1, TASKS // 2)
            with running(root, tmp_path, "--workers", "2") as process:
                wait_until(lambda: bench.marked(root) >= moment, process)  # noqa: B023
                process.send_signal(number)
                assert process.wait(PATIENCE) == statuses[number], shown(tmp_path)
                row.injected += 1
            assert run(root, "--scheduler", cluster.address) == 0
            bench.check(row, root)


def test_a_scheduler_killed(bench: Bench, cluster: clusters.Cluster, tmp_path: Path) -> None:
    with bench.row("SIGKILL of the scheduler") as row:
        for number in range(RUNS):
            root = bench.new_root()
            with clusters.start(tmp_path / f"first-{number}") as first:
                with running(root, tmp_path, "--scheduler", first.address) as process:
                    wait_until(lambda: bench.marked(root) >= 3, process)  # noqa: B023
                    first.scheduler.kill()
                    row.injected += 1
                    assert process.wait(PATIENCE) == 1, shown(tmp_path)
            assert "is gone; finished chunks are kept" in shown(tmp_path)
            assert "Traceback" not in shown(tmp_path)
            assert run(root, "--scheduler", cluster.address) == 0
            bench.check(row, root)


def test_a_worker_told_to_end_hands_its_chunk_back(bench: Bench, tmp_path: Path) -> None:
    with bench.row("SIGTERM of a worker") as row:
        for number in range(RUNS):
            root = bench.new_root()
            with (
                clusters.start(tmp_path / f"cluster-{number}") as cluster,
                running(root, tmp_path, "--scheduler", cluster.address) as process,
            ):
                wait_until(lambda: bench.marked(root) >= 3, process)  # noqa: B023
                cluster.workers[0].terminate()
                row.injected += 1
                assert cluster.workers[0].wait(PATIENCE) == 0
                assert process.wait(PATIENCE) == 0, shown(tmp_path)
            bench.check(row, root)


def test_a_worker_that_hangs_is_replaced(bench: Bench, tmp_path: Path) -> None:
    with bench.row("SIGSTOP of a worker, for good") as row:
        for number in range(RUNS):
            root = bench.new_root()
            patience = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s"}
            with (
                clusters.start(tmp_path / f"cluster-{number}", **patience) as cluster,
                running(root, tmp_path, "--scheduler", cluster.address) as process,
            ):
                wait_until(lambda: bench.marked(root) >= 3, process)  # noqa: B023
                for hung in clusters.children(cluster.workers[0].pid):
                    hung.suspend()
                row.injected += 1
                assert process.wait(PATIENCE) == 0, shown(tmp_path)
            bench.check(row, root)


def test_a_run_without_workers_says_so_and_goes_on_when_they_are_back(bench: Bench, tmp_path: Path) -> None:
    with bench.row("all workers gone for a while") as row:
        for number in range(RUNS):
            root = bench.new_root()
            (tmp_path / "output.txt").unlink(missing_ok=True)
            with (
                clusters.start(tmp_path / f"cluster-{number}", workers=1) as cluster,
                running(root, tmp_path, "--scheduler", cluster.address) as process,
            ):
                wait_until(lambda: bench.marked(root) >= 3, process)  # noqa: B023
                cluster.workers[0].terminate()
                row.injected += 1
                wait_until(lambda: "waiting: the scheduler has no workers" in shown(tmp_path), process)
                cluster.add_worker()
                assert process.wait(PATIENCE) == 0, shown(tmp_path)
            bench.check(row, root)


class Swelling(WorkerPlugin):
    """Fills its worker's memory while it ingests one of the chunks, the first time that any worker does so."""

    def __init__(self, index: int, once: str) -> None:
        self.index = index
        self.once = Path(once)

    def setup(self, worker: Worker) -> None:
        ingest = stage.ingest_shard

        def swelling(root: str, fingerprint: str, shard: Shard, allowance: Allowance | None = None) -> Record:
            if shard.index == self.index and not self.once.exists():
                self.once.touch()
                held = []
                while True:  # until the nanny ends it
                    held.append(os.urandom(2**24))
            return ingest(root, fingerprint, shard, allowance)

        stage.ingest_shard = swelling


def test_a_worker_out_of_memory(bench: Bench, tmp_path: Path) -> None:
    with bench.row("a worker killed for its memory") as row:
        for number in range(RUNS):
            root = bench.new_root()
            with clusters.start(tmp_path / f"cluster-{number}", workers=0) as cluster:
                cluster.add_worker("--memory-limit", "2 GiB")
                once = tmp_path / f"once-{number}"
                with Client(cluster.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
                    client.register_plugin(Swelling(bench.chance.randrange(TASKS // 2), str(once)))
                    assert run(root, "--scheduler", cluster.address) == 0
                assert once.exists()
                assert "memory" in cluster.output()
                row.injected += 1
            bench.check(row, root)


class Poison(WorkerPlugin):
    """Kills its worker each time that it ingests one of the chunks."""

    def __init__(self, index: int, deaths: str) -> None:
        self.index = index
        self.deaths = Path(deaths)

    def setup(self, worker: Worker) -> None:
        ingest = stage.ingest_shard

        def deadly(root: str, fingerprint: str, shard: Shard, allowance: Allowance | None = None) -> Record:
            if shard.index == self.index:
                (self.deaths / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return ingest(root, fingerprint, shard, allowance)

        stage.ingest_shard = deadly


def test_a_chunk_that_kills_every_worker(
    bench: Bench, cluster: clusters.Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bench.row("a chunk that kills its workers") as row:
        for number in range(RUNS):
            root = bench.new_root()
            poisoned = bench.chance.randrange(TASKS // 2)
            deaths = tmp_path / f"deaths-{number}"
            deaths.mkdir()
            few = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
            with clusters.start(tmp_path / f"cluster-{number}", **few) as deadly:
                with Client(deadly.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
                    client.register_plugin(Poison(poisoned, str(deaths)))
                    capsys.readouterr()
                    assert run(root, "--scheduler", deadly.address) == 3
            row.injected += len(list(deaths.iterdir()))
            assert f"ingest {poisoned:06d}: quarantined: 4 worker processes died" in capsys.readouterr().err
            assert bench.marked(root) == TASKS - 2
            assert run(root, "--scheduler", cluster.address) == 0
            bench.check(row, root)


def test_a_disk_that_is_full(bench: Bench, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    small = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if small.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {small.stderr.strip()}")
    try:
        with bench.row("a full disk") as row:
            for number in range(RUNS):
                root = bench.new_root(str(disk / f"run-{number}"))
                room = targets.count(runs.targets_url(root))  # too little for all
                (disk / "filler").write_bytes(bytes(7 * 2**20 + room))
                assert run(root, "--workers", "2") == 3
                row.injected += sum(len(each.failures()) for each in bench.ledgers(root)) or 1
                (disk / "filler").unlink()
                assert run(root, "--workers", "2") == 0
                bench.check(row, root)
                storage.remove(root, recursive=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_runs_at_once(bench: Bench, tmp_path: Path) -> None:
    with bench.row("two runs of one ROOT at once") as row:
        for _ in range(RUNS):
            root = bench.new_root()
            with (
                running(root, tmp_path, "--workers", "1") as one,
                running(root, tmp_path, "--workers", "1") as other,
            ):
                assert (one.wait(PATIENCE), other.wait(PATIENCE)) == (0, 0), shown(tmp_path)
            row.injected += 1
            bench.check(row, root)
