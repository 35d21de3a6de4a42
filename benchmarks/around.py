"""What the encode stage does around the model: a device that takes 20 microseconds a spectrum, and who keeps it busy.

    python benchmarks/around.py [--spectra 16384] [--device 20] [--threads 1 2 3 4] [--work DIR]

A mock survey is ingested once. Then its encode stage is done with a stand-in for the model: a wait of so many
microseconds a spectrum, which leaves the cores to others as a GPU does, and the model's answer to one batch, again and
again. First in this process, one chunk after the other, without any wait: the milliseconds that all cores together
spend on each part of a spectrum, of which 0.25 in all is the limit. Then on one worker process with so many threads, on
two cores: spectra/s, and the share of time that the device was in use. The last line is the best of these rates over
the 6,000 spectra/s that a worker is to reach.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from distributed import Client
from end_to_end import stages
from ingest import MODEL, make_survey

import pipeline
from pipeline.compute import cluster
from pipeline.compute.stages import encode, infer, process, record
from pipeline.planning.plan import Plan
from pipeline.store import stores
from pipeline.store.ledger import Ledger
from pipeline.store.root import encode_ledger
from spender_core.model import SpectrumModel

GOAL = 6000.0  # spectra/s
LIMIT = 0.25  # ms of a core for each spectrum
CORES = 2
PARTS = ("read", "checksum", "load", "encode", "write", "mark")


def stand_in(plan: Plan, seconds: float) -> None:
    """Put a device that takes so many seconds a spectrum in the place of the plan's model, in this process."""
    config = plan.model(MODEL)
    model, n = process.load(config, plan.config.instrument), config.micro_batch or 1
    noise = torch.randn(n, len(model.wave_obs), generator=torch.Generator().manual_seed(0))
    flux = 1 + torch.linspace(0, 1, len(model.wave_obs)) + 0.1 * noise
    batch = infer._Batch(flux, torch.ones_like(flux), torch.linspace(0.01, 0.2, n))
    blank = infer._blank(n, model, config.variables, n, np.zeros(n, np.uint32))
    with torch.inference_mode():
        answer = infer._compute(model, batch, slice(0, n), blank, None)

    def compute(
        model: SpectrumModel, batch: infer._Batch, rows: slice, result: infer.Encoded, fit: infer.Fit | None
    ) -> infer._Computed:
        time.sleep(seconds * (rows.stop - rows.start))
        return replace(answer, rows=rows)

    infer._compute = compute


def on_two_cores() -> None:
    """Keep this process, and those it starts, to two cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


class Clock:
    """Time of all of this process's threads in place of that on the wall."""

    perf_counter = staticmethod(time.process_time)


class Spent(logging.Handler):
    """Adds up the seconds that chunks spent on each part."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a chunk's summary from its line in the log."""
        self.seconds.update(json.loads(record.getMessage())["seconds"])


def encode_all(root: str, plan: Plan) -> None:
    """Encode all chunks in this process, one after the other."""
    for shard in plan.shards():
        encode.encode_shard(root, plan.encode_fingerprint(MODEL), MODEL, shard)


def parts(root: str, plan: Plan) -> None:
    """Print the time of cores that each part takes, and all of it."""
    record.time = Clock
    spent, logger = Spent(), logging.getLogger("pipeline.compute.stages.record")
    logger.setLevel(logging.INFO)
    logger.addHandler(spent)
    begin = time.process_time()
    encode_all(root, plan)
    seconds = time.process_time() - begin
    record.time = time
    logger.removeHandler(spent)
    for name in PARTS:
        print(f"  {name:9} {spent.seconds[name] / plan.n_spectra * 1e3:6.3f} ms")
    rest = seconds - sum(spent.seconds[name] for name in PARTS)
    print(f"  {'rest':9} {rest / plan.n_spectra * 1e3:6.3f} ms")
    print(f"  {'all':9} {seconds / plan.n_spectra * 1e3:6.3f} ms, of {LIMIT} at most", flush=True)


def forget(ledger: Ledger, plan: Plan) -> None:
    """Take the marks of all chunks away."""
    for shard in plan.shards():
        ledger.unmark(shard.index)


def rate(root: str, plan: Plan, client: Client) -> float:
    """Encode all on a worker, and return spectra/s."""
    forget(encode_ledger(root, plan, MODEL), plan)
    return plan.n_spectra / stages(Path(root), plan, client, "encode")


def main() -> None:
    """Print the parts, the rates and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spectra", type=int, default=16384)
    parser.add_argument("--device", type=float, default=20.0, help="microseconds that the device takes a spectrum")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--shard", type=int, help="spectra per task (default: as the plan chooses)")
    parser.add_argument("--work", type=Path, help="folder to keep the survey in, for another time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        release = (options.work or Path(temporary)) / f"spPlate-{options.spectra}"
        catalog = make_survey("spPlate", release, options.spectra)
        root = str(Path(temporary) / "run")
        frame = pipeline.select_targets(catalog)
        plan = pipeline.plan(root, targets=frame, source=release, layout="spPlate", models=MODEL, shard=options.shard)
        pipeline.run(root, stages="ingest", progress=False, workers=2)
        stores.create(root, plan, [store.kind for store in stores.stores_of(root, plan)])
        print(f"{plan.n_spectra} spectra in {len(plan.shards())} chunks; one after the other, no wait for a device:")
        on_two_cores()
        plain = infer._compute
        stand_in(plan, 0.0)
        with process.deterministic():
            parts(root, plan)
        infer._compute = plain
        print("  threads spectra/s  device in use")
        rates = []
        for threads in options.threads:
            cluster.THREADS = threads
            with cluster.connect(workers=1) as client:
                client.run(stand_in, plan, options.device * 1e-6)
                rate(root, plan, client)  # does not count
                rates.append(float(np.median([rate(root, plan, client) for _ in range(3)])))
            print(f"  {threads:7} {rates[-1]:9.0f} {rates[-1] * options.device * 1e-6:10.1%}", flush=True)
    print(f"ratio: {max(rates) / GOAL:.2f}")


if __name__ == "__main__":
    main()
