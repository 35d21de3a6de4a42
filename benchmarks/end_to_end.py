"""From spec-lite files on a disk to latents and restframe spectra, beside the script that one writes with upstream.

    python benchmarks/end_to_end.py [--spectra 4000] [--upstream 300] [--workers 2] [--data ../shared/data] [--work DIR]

Both work on mock files in the archive's format, made once into --work (a temporary folder by default), and, where they
are, on the real ones under --data. The script: two processes prepare files, then one model on all cores encodes and
decodes batches of 64, and numpy saves latents and restframes. Here: `spender-pipeline run` on the workers of a local
cluster. Neither clock counts the start of the processes. Lost: spectra without finite latents that nothing says why of;
here each has quality bits. Then the encode stage alone beside the same computation in the same processes without
reading, writing and bookkeeping, and the highest resident set of a worker beside what was projected for its tasks. The
last line is the pipeline's rate over the script's, on the mock files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from distributed import Client
from encode import models
from ingest import MODEL, Watch, make_survey, watched
from spender.data.sdss import SDSS as UPSTREAM

import pipeline
from pipeline.catalog import targets
from pipeline.compute import cluster, executor, job
from pipeline.compute.stages import infer, process
from pipeline.compute.stages.process import load
from pipeline.monitor.progress import make_progress
from pipeline.planning.memory import memory_at_once, memory_needed
from pipeline.planning.plan import Plan
from pipeline.spectra.quality import Quality
from pipeline.surveys.registry import get_survey

BATCH = 64


@dataclass(frozen=True)
class Done:
    """A way's result: spectra asked for, those with finite latents, those without a word, and the time."""

    asked: int
    encoded: int
    lost: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.asked:8d} {self.encoded:8d} {self.lost:6d} {self.seconds:8.1f} {self.asked / self.seconds:9.1f}"


def prepare(file: Path) -> list[torch.Tensor] | None:
    """Prepare a file with upstream; None if it raises."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        return list(UPSTREAM.prepare_spectrum(str(file)))
    except Exception:  # whatever it raises is its way of not taking a file
        return None


def script(files: Sequence[Path], output: Path) -> Done:
    """Do what one writes today: prepare in two processes, then encode, decode and save."""
    model, _ = models(MODEL)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(prepare, files[:2])
        torch.set_num_threads(2)
        start = time.perf_counter()
        prepared = [result for result in pool.map(prepare, files, chunksize=8) if result is not None]
        flux = torch.stack([result[0] for result in prepared])
        latents, restframes = [], []
        with torch.no_grad():
            for batch in flux.split(BATCH):
                s = model.encode(batch)
                latents.append(s.numpy())
                restframes.append(model.decode(s).numpy())
        np.save(output / "latents.npy", np.concatenate(latents))
        np.save(output / "restframes.npy", np.concatenate(restframes))
        seconds = time.perf_counter() - start
    encoded = int(np.isfinite(np.concatenate(latents)).all(axis=1).sum())
    return Done(len(files), encoded, len(files) - encoded, seconds)


def new_run(root: Path, source: Path, catalog: Path) -> Plan:
    """Plan a run of all of a catalog's spectra."""
    return pipeline.plan(root, targets=pipeline.select_targets(catalog), source=source, models=[MODEL])


def stages(root: Path, plan: Plan, client: Client, *names: str) -> float:
    """Do stages of a run, and return the seconds; SystemExit for chunks that fail."""
    start = time.perf_counter()
    summary = executor.run(job.pending(str(root), plan, names, (MODEL,)), client, make_progress())
    if summary.failed:
        raise SystemExit(f"{len(summary.failed)} chunks failed: {summary.failed[0].reason}")
    return time.perf_counter() - start


def run(root: Path, plan: Plan, client: Client, stage_names: tuple[str, ...]) -> Done:
    """Run stages on a cluster, and count."""
    seconds = stages(root, plan, client, *stage_names)
    if "encode" not in stage_names:
        return Done(plan.n_spectra, 0, 0, seconds)
    encodings = pipeline.open_run(str(root)).encodings(MODEL)
    is_encoded = np.isfinite(encodings["latents"].values).all(axis=1)
    quality = encodings["quality"].values
    is_told = (quality & np.uint32(Quality.UNUSABLE | Quality.NOT_FINITE)) != 0
    return Done(plan.n_spectra, int(is_encoded.sum()), int((~is_encoded & ~is_told).sum()), seconds)


def compute(plan: Plan, n: int) -> int:
    """Encode and decode n made-up spectra as a task does, and throw the result away."""
    config = plan.model(MODEL)
    flux = np.ones((n, plan.n_pixels), np.float32) + np.linspace(0, 1, plan.n_pixels, dtype=np.float32)
    model = load(config, plan.config.instrument)
    with process.compute_lock:
        process.make_deterministic()
        infer.encode_spectra(
            model,
            flux,
            np.ones_like(flux),
            np.full(n, 0.1, np.float32),
            np.zeros(n, np.uint32),
            outputs=config.variables,
            micro_batch=config.micro_batch or 1,
            device=process.device(),
            precision=config.precision,
        )
    return n


def compute_alone(plan: Plan, client: Client) -> float:
    """Return the seconds that the plan's chunks take in the same processes when they are only computed."""
    start = time.perf_counter()
    futures = [client.submit(compute, plan, len(shard), pure=False) for shard in plan.shards()]
    client.gather(futures)
    return time.perf_counter() - start


def mock(work: Path, options: argparse.Namespace) -> float:
    """Do the mock survey both ways, and tell; return the ratio of the rates."""
    source = work / f"spec-lite-{options.spectra}"
    catalog = make_survey("spec-lite", source, options.spectra)
    paths = get_survey("sdss").paths("spec-lite", targets.read_targets(str(catalog))["target"])
    before = script([source / path for path in paths[: options.upstream]], work)
    print(f"{'script with upstream':24} {before}", flush=True)
    root = Path(tempfile.mkdtemp(dir=work))
    plan = new_run(root, source, catalog)
    needed = memory_needed(plan, [("ingest", None), ("encode", MODEL)])
    with cluster.connect(workers=options.workers) as client, watched() as watch:
        client.run(load, plan.model(MODEL), plan.config.instrument)
        after = run(root, plan, client, ("ingest", "encode"))
    print(f"{'spender-pipeline run':24} {after}", flush=True)
    print_stages(work, source, catalog, options.workers)
    print_memory(watch, memory_at_once(needed, cluster.THREADS))
    return (after.asked / after.seconds) / (before.asked / before.seconds)


def print_stages(work: Path, source: Path, catalog: Path, workers: int) -> None:
    """Time ingest, encode, and computing alone, one after the other on one cluster."""
    root = Path(tempfile.mkdtemp(dir=work))
    plan = new_run(root, source, catalog)
    with cluster.connect(workers=workers) as client:
        client.run(load, plan.model(MODEL), plan.config.instrument)
        ingested = run(root, plan, client, ("ingest",))
        alone = [compute_alone(plan, client)]
        encoded = run(root, plan, client, ("encode",))
        alone.append(compute_alone(plan, client))
    print(f"{'  ingest alone':24} {ingested}")
    print(f"{'  encode alone':24} {encoded}")
    rate = plan.n_spectra / (sum(alone) / len(alone))
    print(f"  computing alone: {rate:.1f} spectra/s; the encode stage reaches {sum(alone) / 2 / encoded.seconds:.0%}")


def print_memory(watch: Watch, projected: int) -> None:
    """Tell the highest resident set of a worker process."""
    highest = max(watch.memory.values(), default=0)
    print(f"  memory of a worker: {highest / 2**20:.0f} MiB of {projected / 2**20:.0f} projected")


def real(data: Path, work: Path, workers: int) -> None:
    """Do the real files both ways, and tell."""
    source = data / "sas" / "dr17"
    catalog = source / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"
    paths = get_survey("sdss").paths("spec-lite", targets.read_targets(str(catalog))["target"])
    print(f"{'real: script':24} {script([source / path for path in paths], work)}", flush=True)
    root = Path(tempfile.mkdtemp(dir=work))
    plan = new_run(root, source, catalog)
    with cluster.connect(workers=workers) as client:
        client.run(load, plan.model(MODEL), plan.config.instrument)
        print(f"{'real: spender-pipeline':24} {run(root, plan, client, ('ingest', 'encode'))}", flush=True)


def main() -> None:
    """Print the table and the ratio."""
    parser = argparse.ArgumentParser(description="From files to encodings, beside a script with upstream.")
    parser.add_argument("--spectra", type=int, default=4000)
    parser.add_argument("--upstream", type=int, default=300, help="mock files that the script does")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="real spectra; skipped if not there")
    parser.add_argument("--work", type=Path, help="folder to keep the mock files in, for another time")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # upstream's
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        work = options.work or Path(temporary)
        print(f"{'':24} {'spectra':>8} {'encoded':>8} {'lost':>6} {'seconds':>8} {'spectra/s':>9}")
        ratio = mock(work, options)
        if options.data.exists():
            real(options.data, Path(temporary), options.workers)
    print(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
