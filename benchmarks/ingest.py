"""Ingest a mock survey from a web server that takes its time: files/s, MB/s, memory, bytes stored.

    python benchmarks/ingest.py [--spectra 20000] [--plates 0.5] [--workers 2] [--latency 0.05] [--shard N]

The survey is made once into --work (a temporary folder by default): a share of its spectra as spPlate files, the rest
as spec-lite files. nginx on this machine serves it and delays every answer by the latency. Each part is ingested by the
worker processes of a local cluster, as `spender-pipeline ingest` does it. In flight: the most requests that the server
said it was answering. Memory: the highest resident set of a worker process. Stored: bytes on disk of the whole spectra
store. The last line is the rate of the spec-lite part over that of a script that fetches file by file, and parses none.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from webserver import in_flight, serve

import pipeline
from pipeline.archive.source import Source
from pipeline.catalog import targets
from pipeline.compute import cluster, executor, job
from pipeline.mock.release import write_catalog, write_plates, write_spectra
from pipeline.mock.spectra import decoded, smoothed
from pipeline.monitor.progress import make_progress
from pipeline.planning.memory import projected_memory
from pipeline.store.root import ingest_ledger
from pipeline.surveys.registry import get_survey
from spender_core import SDSS, load_model
from spender_core.weights import read_extras

MODEL = "sdss-demo"
SEED = 20260101
SURVEY = 5_000_000


@dataclass
class Watch:
    """What was seen while a run went on: the most requests in flight, and resident bytes of each worker process."""

    in_flight: int = 0
    memory: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One layout's ingest. size: bytes of the files; stored: of the store."""

    layout: str
    spectra: int
    usable: int
    files: int
    size: int
    stored: int
    seconds: float
    watch: Watch
    projected: int

    def __str__(self) -> str:
        rate = self.spectra / self.seconds
        memory = max(self.watch.memory.values(), default=0)
        return (
            f"{self.layout:9} {self.spectra:8d} {self.usable:7d} {self.files:7d} {self.seconds:7.1f} {rate:9.0f} "
            f"{self.files / self.seconds:8.1f} {self.size / self.seconds / 1e6:6.0f} {self.watch.in_flight:9d} "
            f"{memory / 2**20:7.0f} {self.projected / 2**20:9.0f} {self.stored / self.spectra:10.0f}"
        )


HEADER = (
    f"{'layout':9} {'spectra':>8} {'usable':>7} {'files':>7} {'seconds':>7} {'spectra/s':>9} {'files/s':>8} "
    f"{'MB/s':>6} {'in flight':>9} {'MiB':>7} {'projected':>9} {'B/spectrum':>10}"
)


def make_survey(layout: str, release: Path, n: int) -> Path:
    """Write a mock survey of n spectra in one layout and its catalog, once; return the catalog."""
    catalog = release / "sdss" / "spectro" / "redux" / f"specObj-{layout}.fits"
    if not catalog.exists():
        model, _ = load_model(MODEL, SDSS())
        restframes = decoded(model, smoothed(read_extras(MODEL)["latents"].numpy()))
        write = write_plates if get_survey("sdss").layouts[layout].shared else write_spectra
        write_catalog(write(release, restframes, n, SEED), catalog)
    return catalog


@contextmanager
def watched(url: str | None = None) -> Iterator[Watch]:
    """Look at this process's children and at the server at a URL, again and again, while the context lasts."""
    watch = Watch()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.25):
            watch.in_flight = max(watch.in_flight, in_flight(url) if url else 0)
            for child in psutil.Process().children(recursive=True):
                try:
                    is_worker = "spawn_main" in " ".join(child.cmdline())
                    resident = child.memory_info().rss if is_worker else 0
                except psutil.Error:
                    continue
                watch.memory[child.pid] = max(watch.memory.get(child.pid, 0), resident)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()


def ingest(layout: str, url: str, catalog: Path, root: Path, workers: int, shard: int | None) -> Result:
    """Plan and ingest one layout's survey, and say what it took; the workers are started before the clock is."""
    frame = targets.read_targets(str(catalog))
    plan = pipeline.plan(root, targets=frame, source=url, layout=layout, models=MODEL, shard=shard)
    with cluster.connect(workers=workers) as client, watched(url) as watch:
        start = time.perf_counter()
        summary = executor.run(job.pending(str(root), plan, ("ingest",), ()), client, make_progress())
        seconds = time.perf_counter() - start
    if summary.failed:
        raise SystemExit(f"{len(summary.failed)} chunks failed: {summary.failed[0].reason}")
    ledger = ingest_ledger(str(root), plan)
    usable = sum(ledger.read(shard.index)["usable"] for shard in plan.shards())
    files = {catalog.parents[3] / path for path in get_survey("sdss").paths(layout, frame["target"])}
    stored = sum(path.stat().st_size for path in (root / "spectra.zarr").rglob("*") if path.is_file())
    size = sum(file.stat().st_size for file in files)
    projected = projected_memory(plan, "ingest")
    return Result(layout, len(frame), usable, len(files), size, stored, seconds, watch, projected)


def one_by_one(url: str, catalog: Path, files: int = 60) -> float:
    """Return the files/s of a script that asks for one file after the other."""
    paths = get_survey("sdss").paths("spec-lite", targets.read_targets(str(catalog))["target"])[:files]
    start = time.perf_counter()
    for path in paths:
        with urllib.request.urlopen(f"{url}/{path}") as answer:
            answer.read()
    return len(paths) / (time.perf_counter() - start)


def fetching_alone(url: str, catalog: Path, files: int = 3000) -> float:
    """Return the files/s of one process that fetches as a worker does, and throws the files away."""
    paths = get_survey("sdss").paths("spec-lite", targets.read_targets(str(catalog))["target"])[:files]
    start = time.perf_counter()
    for _ in Source(url).stream(paths):
        pass
    return len(paths) / (time.perf_counter() - start)


def extrapolated(result: Result, workers: int) -> str:
    """Say what a whole survey would take at a result's rate."""
    hours = result.seconds / result.spectra * SURVEY / 3600
    size, stored = (total / result.spectra * SURVEY / 1e9 for total in (result.size, result.stored))
    return (
        f"  {SURVEY:,} spectra: {hours:.1f} h with {workers} workers, {size:,.0f} GB fetched, {stored:,.0f} GB stored"
    )


def main() -> None:
    """Make the surveys, ingest them, print the table and the ratio."""
    parser = argparse.ArgumentParser(description="Ingest a mock survey from a web server that takes its time.")
    parser.add_argument("--spectra", type=int, default=20_000)
    parser.add_argument("--plates", type=float, default=0.5, help="share of the spectra that is in spPlate files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds added to every answer")
    parser.add_argument("--shard", type=int, help="spectra per task (default: as the plan chooses)")
    parser.add_argument("--work", type=Path, help="folder to keep the survey in, for another time")
    options = parser.parse_args()
    in_plates = round(options.spectra * options.plates)
    shares = {"spec-lite": options.spectra - in_plates, "spPlate": in_plates}
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        ratio = 0.0
        print(HEADER)
        for layout, n in shares.items():
            if not n:
                continue
            release = work / f"{layout}-{n}"
            catalog = make_survey(layout, release, n)
            root = Path(temporary) / f"run-{layout}"
            with serve(release, Path(temporary) / "nginx", options.latency) as url:
                result = ingest(layout, url, catalog, root, options.workers, options.shard)
                print(f"{result}\n{extrapolated(result, options.workers)}", flush=True)
                if layout == "spec-lite":
                    single = one_by_one(url, catalog)
                    print(f"  one process, fetching alone: {fetching_alone(url, catalog):.1f} files/s")
                    print(f"  file by file, without parsing: {single:.1f} files/s")
                    ratio = result.files / result.seconds / single
    print(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
