"""What a survey of millions of spectra costs beside the work itself: planning, submission, scheduling, status.

    python benchmarks/scale.py [--spectra 5000000] [--workers 2] [--work FOLDER]

A synthetic catalog of so many spectra is planned with the embedded model, a shard of 4096 per task. Then all of it is
run on a local cluster whose tasks do nothing but mark their chunk as done: what is left is the pipeline's and the
scheduler's own. Each command runs in a process of its own. Bounds: 60 s to plan, 10 s from the run's pending tasks to
their submission, 50 ms per chunk until all are done, 3 s of status, 2 GB resident in any of these processes. The last
line is the smallest bound over what was measured.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from catalog import run as run_command
from catalog import write_catalog
from distributed import Client

from pipeline.archive.source import Allowance
from pipeline.catalog import targets
from pipeline.compute import cluster, executor, job
from pipeline.compute.stages import encode, ingest
from pipeline.compute.stages.record import Record
from pipeline.compute.stages.tasks import Outcome
from pipeline.planning.partition import Shard
from pipeline.store.root import encode_ledger, ingest_ledger, read_plan
from pipeline.surveys.registry import get_survey

MODEL = "sdss-demo"
# The command, on any disk: the spectra that it would need room for are never written.
COMMAND = """
import sys
from pipeline.compute import planner
planner.require_space = lambda root, estimate: None
from pipeline.cli.main import main
sys.exit(main())
"""
BOUNDS = {"plan, s": 60, "submission, s": 10, "run, ms per chunk": 50, "status, s": 3, "memory, MB": 2000}


class Clock:
    """Notes when a run's tasks are known, and counts those that have ended."""

    def __init__(self) -> None:
        self.started = 0.0
        self.ended = 0

    def start(self, total: int, done_before: int) -> None:
        """Start the clock: what is pending is known, and the stores stand."""
        self.started = time.perf_counter()

    def advance(self, outcome: Outcome) -> None:
        """Count a task."""
        if outcome.reason is not None:
            raise SystemExit(f"{outcome.task}: {outcome.reason}")
        self.ended += 1

    def say(self, text: str) -> None:
        """Write it."""
        print(text)

    def close(self) -> None:
        """Do nothing."""


def _marked(shard: Shard) -> Record:
    return {
        "start": shard.start,
        "stop": shard.stop,
        "spectra": len(shard),
        "good": len(shard),
        "usable": len(shard),
        "quality": {},
        "checksums": {},
    }


def do_nothing() -> None:
    """Make this worker's tasks mark their chunk, and do nothing else."""

    def ingest_shard(root: str, fingerprint: str, shard: Shard, allowance: Allowance | None = None) -> Record:
        ingest_ledger(root, read_plan(root)).mark(shard.index, _marked(shard))
        return _marked(shard)

    def encode_shard(root: str, fingerprint: str, model_name: str, shard: Shard) -> Record:
        encode_ledger(root, read_plan(root), model_name).mark(shard.index, _marked(shard))
        return _marked(shard)

    ingest.ingest_shard, encode.encode_shard = ingest_shard, encode_shard


def run_all(root: Path, client: Client) -> tuple[float, float]:
    """Run everything; return the seconds of the submission, and those from its beginning to the last chunk."""
    plan = read_plan(str(root))
    client.run(do_nothing)
    submit, submission = executor._Cluster.submit_all, 0.0

    def timed(*arguments: object) -> object:
        nonlocal submission
        start = time.perf_counter()
        futures = submit(*arguments)  # type: ignore[arg-type]
        submission = time.perf_counter() - start
        return futures

    executor._Cluster.submit_all = timed  # type: ignore[assignment]
    clock = Clock()
    try:
        executor.run(job.pending(str(root), plan, ("ingest", "encode"), (MODEL,)), client, clock)
    finally:
        executor._Cluster.submit_all = submit
    if clock.ended != 2 * len(plan.shards()):
        raise SystemExit(f"{clock.ended} of {2 * len(plan.shards())} tasks ended")
    return submission, time.perf_counter() - clock.started


def make_source(folder: Path, table: Path) -> None:
    """Make a release root that has the first spectrum's file, empty: enough not to look mistyped."""
    (path,) = get_survey("sdss").paths("spec-lite", targets.read_rows(str(table), 0, 1)["target"])
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).touch()


def main() -> None:
    """Make the catalog, plan, run, ask for the status; print the table and the ratio."""
    parser = argparse.ArgumentParser(description="What a survey of millions costs beside the work itself.")
    parser.add_argument("--spectra", type=int, default=5_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder to keep the catalog in, for another time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        folder = Path(temporary)
        catalog = (options.work or folder) / f"specObj-{options.spectra}.fits"
        if not catalog.exists():
            write_catalog(catalog, options.spectra)
        ours = [sys.executable, "-c", COMMAND]
        table, source, root = folder / "targets.parquet", folder / "sas", folder / "run"
        run_command([*ours, "targets", catalog, "--output", table])
        make_source(source, table)
        planned = run_command([*ours, "plan", root, "--targets", table, "--source", source, "--model", MODEL])
        with cluster.connect(workers=options.workers) as client:
            assert client is not None
            submission, ran = run_all(root, client)
        shown = run_command([*ours, "status", root])
        chunks = len(read_plan(str(root)).shards())
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {
        "plan, s": planned[0],
        "submission, s": submission,
        "run, ms per chunk": 1e3 * ran / chunks,
        "status, s": shown[0],
        "memory, MB": max(planned[1], own, shown[1]) / 1e6,
    }
    print(f"{options.spectra} spectra in {chunks} chunks: {2 * chunks} tasks on {options.workers} workers")
    print(f"{'':20} {'found':>9} {'at most':>8}")
    for name, bound in BOUNDS.items():
        print(f"{name:20} {found[name]:9.2f} {bound:8d}")
    print(f"ratio: {min(bound / found[name] for name, bound in BOUNDS.items()):.2f}")


if __name__ == "__main__":
    main()
