"""Stack restframe spectra on a Dask cluster of this machine: spectra per second, and what five million take.

    python benchmarks/stack.py [FOLDER] [--spectra 20000] [--bins 1000] [--workers 2]

Makes a run of drawn restframes of 5881 bins (`--bins`) in FOLDER (default: a temporary one), unless it is there, and
stacks them in ten bins of redshift, weighted by S/N and masked by what each spectrum covers. The last line is the limit
of two hours over what five million take at this rate.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from distributed import Client, LocalCluster
from survey_store import survey_targets

import pipeline
from pipeline.compute import planner
from pipeline.compute.stages.record import record_of
from pipeline.planning.plan import targets_sha256
from pipeline.store import stores
from pipeline.store.arrays import encodings_url, write_region
from pipeline.store.root import encode_ledger
from spender_core import SDSS
from spender_core.autoencoder import SpectrumAutoencoder

MODEL, SURVEY, LIMIT = "drawn", 5_000_000, 7200.0
VARIABLES = ("latents", "restframe", "chi2", "n_pixels", "rest_first", "rest_last")


def make(root: Path, n: int, bins: int) -> None:
    """Make a run whose encodings are drawn: a continuum with noise, and what a spectrum at its redshift covers."""
    root.mkdir(parents=True, exist_ok=True)
    model = SpectrumAutoencoder(SDSS(), torch.logspace(3.4, 3.97, bins), n_latent=6)
    file = root / "untrained.pt"
    torch.save({"model": [model.state_dict()], "losses": None, "instruments": ["sdss"]}, file)
    planner.require_space = lambda root, estimate: None  # for its spectra, which are never stored
    frame = survey_targets(n)
    plan = pipeline.plan(
        root, targets=frame, source="https://data.sdss.org/sas/dr17", models=f"{MODEL}={file}", variables=VARIABLES
    )
    stores.create(str(root), plan, [store.kind for store in stores.stores_of(str(root), plan)])
    ledger, url = encode_ledger(str(root), plan, MODEL), encodings_url(str(root), MODEL)
    for shard in plan.shards():
        random = np.random.default_rng(shard.start)
        size = len(shard)
        first = random.integers(0, bins // 4, size)
        arrays = {
            "latents": random.normal(size=(size, 6)).astype(np.float32),
            "restframe": (1 + random.normal(0, 0.1, (size, bins))).astype(np.float32),
            "chi2": np.full(size, 3000, np.float32),
            "n_pixels": np.full(size, 3000, np.int32),
            "rest_first": first.astype(np.int32),
            "rest_last": (first + bins // 2).astype(np.int32),
            "quality": np.zeros(size, np.uint32),
        }
        write_region(url, shard, arrays)
        own = targets_sha256(frame.iloc[shard.start : shard.stop], plan.survey.coordinates)
        ledger.mark(shard.index, record_of(shard, own, arrays))


def main() -> None:
    """Make the run, stack it, and print the rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--spectra", type=int, default=20_000)
    parser.add_argument("--bins", type=int, default=5881)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.folder or Path(temporary) / "run"
        if not (root / "plan.json").exists():
            make(root, args.spectra, args.bins)
        options = {"n_workers": args.workers, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options) as cluster:
            with Client(cluster):
                run = pipeline.open_run(root)
                start = time.perf_counter()
                stacked = run.stack(by="z", bins=np.linspace(0, 0.5, 11).tolist(), where="z < 9", weights="sn_median")
                seconds = time.perf_counter() - start
    n = int(stacked["spectra"].sum())
    rate = run.plan.n_spectra / seconds
    print(f"{n} of {run.plan.n_spectra} spectra in 10 bins of redshift: {seconds:.1f} s, {rate:.0f} spectra/s")
    print(f"five million: {SURVEY / rate / 60:.0f} min on these {args.workers} workers")
    print(f"ratio: {LIMIT / (SURVEY / rate):.2f}")


if __name__ == "__main__":
    main()
