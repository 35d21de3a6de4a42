"""For tests that disturb a run: each is a row of a table, which says what was injected, lost, and left different.

SPENDER_FAULT_RUNS=10 repeats every row, SPENDER_FAULT_RATE=0.2 spoils so many requests; pytest -s shows the table.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fsspec

from pipeline import storage
from pipeline.cli import main as cli
from pipeline.planning.plan import Plan
from pipeline.store import ledger
from pipeline.store import root as runs
from pipeline.store import verify as verification
from tests import faults, s3
from tests.running import make_root

RUNS = int(os.environ.get("SPENDER_FAULT_RUNS", "1"))
RATE = float(os.environ.get("SPENDER_FAULT_RATE", "0.03"))
SPECTRA, SHARD = 32, 2  # 16 chunks
TASKS = 2 * SPECTRA // SHARD
PATIENCE = 240.0  # seconds


@dataclass
class Row:
    """One line of the table."""

    fault: str
    injected: int = 0
    runs: int = 0
    spectra: int = 0
    lost: int = 0
    differing: list[str] = field(default_factory=list)


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

    def copy(self, found: dict[str, bytes]) -> str:
        """Give another ROOT in the bucket the objects of one."""
        root = f"{self.bucket}/{uuid.uuid4().hex[:12]}"
        fs, path = fsspec.url_to_fs(root)
        fs.pipe({f"{path}/{name}": data for name, data in found.items()})
        return root

    def check(self, row: Row, root: str) -> None:
        """Count what a run that has ended has lost, and compare it with the reference."""
        row.runs += 1
        records = [record for kind in self.ledgers(root) for record in kind.records(kind.done()).values()]
        row.spectra += SPECTRA
        row.lost += 2 * SPECTRA - sum(record["spectra"] for record in records)
        found = objects(root)
        row.differing += [name for name in found | self.reference if found.get(name) != self.reference.get(name)]
        assert verification.verify(root, self.plan).problems == ()

    def ledgers(self, root: str) -> list[ledger.Ledger]:
        return runs.ledgers(root, self.plan)

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
        assert (row.lost, row.differing) == (0, [])


def objects(root: str) -> dict[str, bytes]:
    """Read every object below ROOT that is neither a log, a client's, nor the record of a failure."""
    fs, path = fsspec.url_to_fs(root)
    names = {name: name.removeprefix(path).strip("/") for name in fs.find(path)}
    return {
        name: fs.cat_file(full)
        for full, name in names.items()
        if not name.startswith(("logs/", "clients/")) and "/failed/" not in name
    }


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


def shown(folder: Path) -> str:
    return (folder / "output.txt").read_text()


@contextmanager
def serving(folder: Path, mirror: Path, n: int) -> Iterator[Bench]:
    """Start the server and its proxy, and plan a run of so many targets; print the table at the end."""
    with s3.serve(folder / "s3") as server, faults.between(server.endpoint) as proxy:
        s3.client(server).create_bucket(Bucket="faults")
        with s3.as_default(server, endpoint=proxy.endpoint):
            local, plan = make_root(folder, mirror, n=n, shard=SHARD)
            made = Bench(proxy, "s3://faults", plan, local)
            yield made
    print(f"\n\n{'fault':<40}{'injected':>9}{'runs':>6}{'spectra':>9}{'lost':>6}{'objects differing':>19}")
    for row in made.rows:
        print(f"{row.fault:<40}{row.injected:>9}{row.runs:>6}{row.spectra:>9}{row.lost:>6}{len(row.differing):>19}")


@contextmanager
def start(folder: Path, mirror: Path) -> Iterator[Bench]:
    """Serve, and do the run that is not disturbed."""
    with serving(folder, mirror, SPECTRA) as made:
        root = made.new_root()
        assert run(root, "--serial") == 0
        made.reference = objects(root)
        yield made
