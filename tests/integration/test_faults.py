"""Whatever goes wrong, no spectrum is lost: after a fault the same command ends with the objects of an undisturbed run.

Each test is a row of a table: how often a fault was injected, in how many runs over how many spectra, how many of them
were lost and how many objects differ. SPENDER_FAULT_RUNS=10 repeats every row, those that wait for timeouts, too, and
SPENDER_FAULT_RATE=0.2 spoils so many requests; pytest -s shows the table at its end.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest
from distributed import Client, Worker, WorkerPlugin

from pipeline import cli, finalize, ledger, runs, stages, storage, targets
from pipeline.plan import Chunk, Plan
from pipeline.sources import Share
from pipeline.stages import Record

from .. import clusters, faults, s3
from ..running import make_root

RUNS = int(os.environ.get("SPENDER_FAULT_RUNS", "1"))
RATE = float(os.environ.get("SPENDER_FAULT_RATE", "0.03"))
SPECTRA, SHARD = 32, 2  # 16 chunks
TASKS = 2 * SPECTRA // SHARD
PATIENCE = 240.0  # seconds


patient = pytest.mark.skipif(
    "SPENDER_FAULT_RUNS" not in os.environ, reason="waits for timeouts: set SPENDER_FAULT_RUNS=1 to run it"
)


@dataclass
class Row:
    """One line of the table."""

    fault: str
    injected: int = 0
    runs: int = 0
    spectra: int = 0
    lost: int = 0
    differing: int = 0


@dataclass
class Bench:
    """Where runs are disturbed: a real S3 server behind a proxy, a plan, and what an undisturbed run of it writes."""

    proxy: faults.Proxy
    bucket: str
    plan: Plan
    local: str
    reference: dict[str, bytes] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(2))

    def new_root(self, where: str | None = None) -> str:
        """Copy the plan to a new ROOT, in the bucket or at a place."""
        root = where or f"{self.bucket}/{uuid.uuid4().hex[:12]}"
        for name in ("targets.parquet", "plan.json"):
            storage.write_bytes(storage.join(root, name), storage.read_bytes(storage.join(self.local, name)))
        return root

    def check(self, row: Row, root: str) -> None:
        """Count what a run that has ended has lost, and compare it with the reference."""
        row.runs += 1
        records = [record for kind in self.ledgers(root) for record in kind.records().values()]
        row.spectra += SPECTRA
        row.lost += 2 * SPECTRA - sum(record["spectra"] for record in records)
        found = objects(root)
        row.differing += sum(found.get(name) != self.reference.get(name) for name in found | self.reference)
        assert finalize.verify(root, self.plan) == []

    def ledgers(self, root: str) -> list[ledger.Ledger]:
        return [runs.ingest_ledger(root, self.plan), runs.encode_ledger(root, self.plan, "random")]

    def marked(self, root: str) -> int:
        """Count the chunks that are done."""
        return sum(len(each.done()) for each in self.ledgers(root))

    @contextmanager
    def row(self, fault: str) -> Iterator[Row]:
        """Add a row to the table, and see that nothing was lost in it."""
        row = Row(fault)
        self.rows.append(row)
        yield row
        assert row.injected, "nothing was injected"
        assert (row.lost, row.differing) == (0, 0)


def objects(root: str) -> dict[str, bytes]:
    """Read every object below ROOT that is neither a log nor the record of a failure."""
    fs, path = fsspec.url_to_fs(root)
    names = {name: name.removeprefix(path).strip("/") for name in fs.find(path)}
    return {
        name: fs.cat_file(full)
        for full, name in names.items()
        if not name.startswith("logs/") and "/failed/" not in name
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    with s3.serve(folder / "s3") as server, faults.between(server.endpoint) as proxy:
        s3.client(server).create_bucket(Bucket="faults")
        with s3.as_default(server, endpoint=proxy.endpoint):
            local, plan = make_root(folder, mirror, n=SPECTRA, shard=SHARD)
            made = Bench(proxy, "s3://faults", plan, local)
            root = made.new_root()
            assert run(root, "--serial") == 0
            made.reference = objects(root)
            yield made
    print(f"\n\n{'fault':<40}{'injected':>9}{'runs':>6}{'spectra':>9}{'lost':>6}{'objects differing':>19}")
    for row in made.rows:
        print(f"{row.fault:<40}{row.injected:>9}{row.runs:>6}{row.spectra:>9}{row.lost:>6}{row.differing:>19}")


@pytest.fixture(scope="module")
def cluster(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    with clusters.start(tmp_path_factory.mktemp("cluster")) as started:
        yield started


def run(root: str, *options: str) -> int:
    """Run the command in this process."""
    return cli.main(["run", root, *options])


@contextmanager
def running(root: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command in a process of its own."""
    with (folder / "output.txt").open("ab") as output:  # workers of a killed client may hold a pipe open
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", root, *options], stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for something to be true, or for the process to end."""
    deadline = time.monotonic() + PATIENCE
    while not true() and process.poll() is None:
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def told(folder: Path) -> str:
    return (folder / "output.txt").read_text()


# --- the network and the server ---


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=patient) if fault == "hang" else fault for fault in faults.FAULTS]
)
def test_a_network_at_its_worst(bench: Bench, cluster: clusters.Cluster, fault: str) -> None:
    rate = RATE / 10 if fault == "hang" else RATE  # a hang lasts until the client's timeout, 15 s
    with bench.row(f"{fault}, {rate:.0%} of all requests") as row:
        for _ in range(RUNS):
            root = bench.new_root()
            before = bench.proxy.injected[fault]
            with bench.proxy.spoiling(fault, rate):
                assert run(root, "--scheduler", cluster.address) in (0, 1, 3)
            row.injected += bench.proxy.injected[fault] - before
            assert run(root, "--scheduler", cluster.address) == 0
            bench.check(row, root)


@pytest.mark.parametrize("refusal", faults.REFUSALS)
def test_a_server_that_refuses_us(
    bench: Bench, cluster: clusters.Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: str
) -> None:
    """Before the run, which is refused in one line; and in its middle, as when credentials run out."""
    with bench.row(f"{refusal}: every request, at first and midway") as row:
        for _ in range(RUNS):
            root = bench.new_root()
            before = bench.proxy.injected[refusal]
            capsys.readouterr()
            with bench.proxy.spoiling(refusal, 1.0):
                assert run(root, "--scheduler", cluster.address) == 1
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert bench.proxy.endpoint in line
            assert s3.KEY[:4] in line
            assert not bench.marked(root)
            with running(root, tmp_path, "--scheduler", cluster.address) as process:
                wait_until(lambda: bench.marked(root) >= 3, process)  # noqa: B023
                with bench.proxy.spoiling(refusal, 1.0):
                    assert process.wait(PATIENCE) in (1, 3), told(tmp_path)
            assert "Traceback" not in told(tmp_path)
            row.injected += bench.proxy.injected[refusal] - before
            assert run(root, "--scheduler", cluster.address) == 0
            bench.check(row, root)


# --- processes ---


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
                assert process.wait(PATIENCE) == 0, told(tmp_path)
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
                assert process.wait(PATIENCE) == statuses[number], told(tmp_path)
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
                    assert process.wait(PATIENCE) == 1, told(tmp_path)
            assert "is gone; what is marked is done" in told(tmp_path)
            assert "Traceback" not in told(tmp_path)
            assert run(root, "--scheduler", cluster.address) == 0
            bench.check(row, root)


@patient
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
                assert process.wait(PATIENCE) == 0, told(tmp_path)
            bench.check(row, root)


@patient
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
                assert process.wait(PATIENCE) == 0, told(tmp_path)
            bench.check(row, root)


@patient
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
                wait_until(lambda: "waiting: the scheduler has no workers" in told(tmp_path), process)
                cluster.add_worker()
                assert process.wait(PATIENCE) == 0, told(tmp_path)
            bench.check(row, root)


class Swelling(WorkerPlugin):
    """Fills its worker's memory while it ingests one of the chunks, the first time that any worker does so."""

    def __init__(self, index: int, once: str) -> None:
        self.index = index
        self.once = Path(once)

    def setup(self, worker: Worker) -> None:
        ingest = stages.ingest_chunk

        def swelling(root: str, fingerprint: str, chunk: Chunk, share: Share | None = None) -> Record:
            if chunk.index == self.index and not self.once.exists():
                self.once.touch()
                held = []
                while True:  # until the nanny ends it
                    held.append(os.urandom(2**24))
            return ingest(root, fingerprint, chunk, share)

        stages.ingest_chunk = swelling


@patient
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
                assert (one.wait(PATIENCE), other.wait(PATIENCE)) == (0, 0), told(tmp_path)
            row.injected += 1
            bench.check(row, root)
