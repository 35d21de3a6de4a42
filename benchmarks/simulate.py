"""How long a survey takes on machines that are not at hand: constants measured here, a simulation, and its test.

    python benchmarks/simulate.py [--spectra 4000] [--rounds 3] [--gpu 20] [--survey 5000000] [--work DIR]

Rounds of runs of a mock survey from nginx, which delays every answer by 50 ms. Each measures what a spectrum takes:
its ingest and its encoding by one worker, its encoding by two, which disturb each other, or beside an ingest. Each also
does three whole runs: one and two workers, two with limited requests. A virtual machine's speed changes, so everything
stands between two timings of one fixed piece of work, in units of which it is; medians over the rounds count. The whole
runs stand beside their simulation (simulation.py). The table is of DR17, 5,000,000 spectra; what its machines have, and
the --gpu microseconds that a spectrum takes on a GPU, are assumed. Nothing else may run meanwhile. The last line is
15 % over the largest difference.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import psutil
import torch
from around import encode_all, forget, stand_in
from distributed import Client
from end_to_end import compute, stages
from ingest import MODEL, make_survey
from simulation import BATCH, Constants, Machine, Run
from webserver import serve

import pipeline
from pipeline.catalog import targets
from pipeline.compute import cluster
from pipeline.compute.stages import infer, process
from pipeline.compute.stages.ingest import ingest_shard
from pipeline.compute.stages.process import load
from pipeline.planning.partition import choose_shard
from pipeline.planning.plan import Plan
from pipeline.store import stores
from pipeline.store.arrays import encodings_url, spectra_url
from pipeline.store.root import encode_ledger

LATENCY = 0.05
TASK = 4.7e-3  # seconds: half of a chunk's two tasks (RESULTS.md, "Plans of five million spectra")
FILE = 145e3  # bytes of a spec-lite file
TOLERANCE = 0.15


@dataclass(frozen=True)
class Case:
    """A whole run: its workers, its limit of requests per second, and what there is to do."""

    name: str
    workers: int
    limit: float | None
    spectra: int
    chunk: int


@dataclass(frozen=True)
class Survey:
    """A mock survey: where it is served, its catalog, and a folder for runs."""

    url: str
    catalog: Path
    work: Path

    def plan(self, per_second: float | None = None) -> tuple[Path, Plan]:
        """Plan a run of all of it."""
        root = Path(tempfile.mkdtemp(dir=self.work))
        frame = targets.read_targets(str(self.catalog))
        return root, pipeline.plan(
            root, targets=frame, source=self.url, models=MODEL, max_requests_per_second=per_second
        )


@contextmanager
def workers(count: int, plan: Plan) -> Iterator[Client]:
    """Yield a cluster whose workers have their model."""
    with cluster.connect(workers=count) as client:
        client.run(load, plan.model(MODEL), plan.config.instrument)
        client.run(compute, plan, 256)
        yield client


def pace() -> float:
    """Return the seconds that a fixed piece of work takes now: Python, and products of matrices, by one thread."""
    torch.set_num_threads(1)
    a = torch.ones(512, 512)
    begin = time.perf_counter()
    for _ in range(300):
        torch.mm(a, a)
        sum(range(20_000))
    return time.perf_counter() - begin


def paced(work: Callable[[], object]) -> float:
    """Do some work, and return how long it took, in units of the pace before and after."""
    before = pace()
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    return 2 * seconds / (before + pace())


def size(folder: str) -> int:
    """Return the bytes of all files below a folder."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def beside(survey: Survey) -> float:
    """Return how much longer this process computes while it also ingests, as a worker with two tasks does."""

    def computed() -> float:
        begin = time.perf_counter()
        compute(plan, BATCH)
        return time.perf_counter() - begin

    def ingest_all() -> None:
        for shard in plan.shards():
            ingest_shard(str(root), plan.ingest_fingerprint, shard)

    root, plan = survey.plan()
    stores.create(str(root), plan, [stores.stores_of(str(root), plan)[0].kind])
    with process.deterministic():
        computed()
        alone = [computed() for _ in range(10)]
        with ThreadPoolExecutor(1) as pool:
            ingest = pool.submit(ingest_all)
            both = []
            while not ingest.done():
                both.append(computed())
            ingest.result()
    return max(1.0, statistics.median(both) / statistics.median(alone))


def around_model(root: Path, plan: Plan) -> float:
    """Return what a spectrum takes around its model, in units of the pace."""
    forget(encode_ledger(str(root), plan, MODEL), plan)
    plain = infer._compute
    stand_in(plan, 0.0)
    try:
        with process.deterministic():
            return paced(lambda: encode_all(str(root), plan)) / plan.n_spectra
    finally:
        infer._compute = plain


def measured(survey: Survey) -> Constants:
    """Measure what a spectrum takes, in units of the pace where it is computing."""
    root, plan = survey.plan()
    n = plan.n_spectra
    with workers(1, plan) as client:
        ingest = paced(lambda: stages(root, plan, client, "ingest")) / n
        encode = paced(lambda: stages(root, plan, client, "encode")) / n
    forget(encode_ledger(str(root), plan, MODEL), plan)
    with workers(2, plan) as client:
        both = 2 * paced(lambda: stages(root, plan, client, "encode")) / n
    return Constants(
        ingest=ingest,
        encode=encode,
        around=around_model(root, plan),
        gpu=0.0,
        task=TASK,
        latency=LATENCY,
        spectrum=size(spectra_url(str(root))) / n,
        encoding=size(encodings_url(str(root), MODEL)) / n,
        crowded=max(1.0, both / encode),
        beside=beside(survey),
    )


def whole(survey: Survey, case: Case) -> float:
    """Do a whole run, and return how long it took, in units of the pace."""
    root, plan = survey.plan(case.limit)
    with workers(case.workers, plan) as client:
        return paced(lambda: stages(root, plan, client, "ingest", "encode"))


def median(rounds: Sequence[Constants]) -> Constants:
    """Return the medians of constants."""
    return Constants(
        **{field.name: statistics.median(getattr(each, field.name) for each in rounds) for field in fields(Constants)}
    )


def at(constants: Constants, pace: float) -> Constants:
    """Return constants in seconds."""
    computing = {name: pace * getattr(constants, name) for name in ("ingest", "encode", "around")}
    return replace(constants, **computing)


def compared(constants: Constants, runs: dict[Case, list[float]], now: float) -> float:
    """Print whole runs beside simulated ones, in seconds at a pace, and return the largest difference."""
    print(f"{'run':28} {'seconds':>8} {'simulated':>9} {'difference':>10}  {'by round'}")
    largest = 0.0
    for case, lengths in runs.items():
        machine = Machine(psutil.cpu_count() or 1, case.workers, limit=case.limit or float("inf"))
        if case.limit:
            machine = replace(machine, slots=min(machine.slots, case.workers * machine.threads))
        simulated = Run(machine, at(constants, now), case.spectra, case.chunk).seconds()
        off = [simulated / (length * now) - 1 for length in lengths]
        middle = statistics.median(off)
        largest = max(largest, abs(middle))
        each = " ".join(f"{value:.0%}" for value in off)
        print(f"{case.name:28} {statistics.median(lengths) * now:8.1f} {simulated:9.1f} {middle:10.1%}  {each}")
    return largest


def machines() -> dict[str, Machine]:
    """Return those of the table. The archive's rates: what the line or its rules let through."""
    laptop = Machine(8, 8, files=100e6 / 8 / FILE, bytes=0.5e9)
    node = Machine(64, 64, bytes=2e9)
    mirror = replace(node, files=25e9 / 8 / FILE, slots=32)  # --max-requests 2048
    return {
        "laptop of 8 cores, 100 Mbit/s": laptop,
        "64 cores, public archive, 200 files/s": replace(node, files=200.0),
        "64 cores, mirror of 25 Gbit/s": mirror,
        "the same, a worker lives half an hour": replace(mirror, lifetime=1800.0),
        "64 cores and 8 GPUs, the same mirror": replace(mirror, workers=56, gpus=8, threads=3),
    }


def main() -> None:
    """Print the constants, the comparison, the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spectra", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpu", type=float, default=20.0, help="microseconds that a GPU takes a spectrum")
    parser.add_argument("--survey", type=int, default=5_000_000, help="spectra of the survey that is simulated")
    parser.add_argument("--work", type=Path, help="folder to keep the mock survey in, for another time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        release = (options.work or Path(temporary)) / f"spec-lite-{options.spectra}"
        catalog = make_survey("spec-lite", release, options.spectra)
        with serve(release, Path(temporary) / "nginx", LATENCY) as url:
            survey = Survey(url, catalog, Path(temporary))
            shard = survey.plan()[1].shard
            runs: dict[Case, list[float]] = {
                Case("1 worker", 1, None, options.spectra, shard): [],
                Case("2 workers", 2, None, options.spectra, shard): [],
                Case("2 workers, 150 requests/s", 2, 150.0, options.spectra, shard): [],
            }
            rounds = []
            for _ in range(options.rounds):
                rounds.append(measured(survey))
                for case, lengths in runs.items():
                    lengths.append(whole(survey, case))
            constants, now = replace(median(rounds), gpu=options.gpu * 1e-6), pace()
            print(f"{at(constants, now)}, at a pace of {now:.3f} s\n")
            largest = compared(constants, runs, now)
    print(f"\n{f'{options.survey:,} spectra':42} {'hours':>6} {'spectra/s':>9} {'GPUs in use':>11}")
    shard, _ = choose_shard(options.survey)
    for name, machine in machines().items():
        simulated = Run(machine, at(constants, now), options.survey, shard)
        seconds = simulated.seconds()
        used = f"{simulated.busy / seconds / machine.gpus:11.0%}" if machine.gpus else ""
        print(f"{name:42} {seconds / 3600:6.2f} {options.survey / seconds:9.0f} {used}", flush=True)
    print(f"ratio: {TOLERANCE / largest:.2f}")


if __name__ == "__main__":
    main()
