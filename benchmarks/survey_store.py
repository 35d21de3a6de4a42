"""Make the encodings of a whole survey without its spectra: coordinates, latents, chi2 and quality of millions of rows.

    python benchmarks/survey_store.py ROOT [--spectra 5000000] [--latents 10] [--whole 0]

What tables, neighbors, outliers and maps of a survey are measured on. The run is planned as any other, for synthetic
targets, and its encode stage is filled with drawn numbers, each chunk with its marker; its spectra are pending, but for
the first chunks, as many as --whole says, which have restframes, too. Latents are those of a curved sheet with noise
and a few outliers, so that neighbors and densities have something to find. The last line is the limit of ten minutes
over what it took.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from numpy.typing import NDArray

import pipeline
from pipeline.compute import planner
from pipeline.compute.stages.record import record_of
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan, targets_sha256
from pipeline.spectra.quality import Quality
from pipeline.store import finalize, stores
from pipeline.store.arrays import encodings_url, spectra_url, write_region
from pipeline.store.root import encode_ledger
from spender_core import SDSS
from spender_core.autoencoder import SpectrumAutoencoder

LIMIT = 600.0  # seconds
MODEL = "drawn"
VARIABLES = ("latents", "chi2", "n_pixels")
FIBERS, FIRST_PLATE, MJD = 640, 266, 51600
OUTLIERS = 1e-4  # share of spectra whose latents are far from all others


def survey_targets(n: int, seed: int = 0) -> pd.DataFrame:
    """Return n synthetic targets in order, all columns of SDSS, with classes, redshifts and positions drawn."""
    random = np.random.default_rng(seed)
    row = np.arange(n)
    plate, fiber = (FIRST_PLATE + row // FIBERS).astype(np.int32), (1 + row % FIBERS).astype(np.int32)
    kind = random.choice(3, n, p=(0.8, 0.1, 0.1))
    z = np.where(kind == 0, random.gamma(3, 0.05, n), np.where(kind == 1, random.uniform(0.1, 3, n), 0.0))
    frame = pd.DataFrame(
        {
            "target": [f"26/{p}-{MJD}-{f}" for p, f in zip(plate.tolist(), fiber.tolist(), strict=True)],
            "specobjid": (row + 1).astype(np.uint64),
            "plate": plate,
            "mjd": np.full(n, MJD, np.int32),
            "fiberid": fiber,
            "run2d": "26",
            "ra": random.uniform(0, 360, n),
            "dec": np.degrees(np.arcsin(random.uniform(-0.2, 1, n))),
            "z": z.astype(np.float32),
            "z_err": np.full(n, 1e-4, np.float32),
            "zwarning": np.zeros(n, np.int32),
            "class": np.array(["GALAXY", "QSO", "STAR"], dtype=object)[kind],
            "sn_median": random.gamma(4, 3, n).astype(np.float32),
        }
    )
    return frame.astype(dict.fromkeys(("target", "run2d", "class"), "str"))


def drawn(shard: Shard, n_latent: int) -> dict[str, NDArray[Any]]:
    """Return a chunk's encodings, the same whenever they are drawn."""
    random = np.random.default_rng(shard.start)
    n = len(shard)
    sheet = random.uniform(-1, 1, (n, 2))
    waves = np.sin(np.arange(1, n_latent + 1) * sheet[:, :1]) + np.cos(np.arange(n_latent) * sheet[:, 1:])
    latents = waves + random.normal(0, 0.05, (n, n_latent))
    odd = random.random(n) < OUTLIERS
    latents[odd] += random.normal(0, 3, (int(odd.sum()), n_latent))
    bad = random.random(n) < 0.01
    quality = np.where(bad, np.uint32(Quality.NO_FILE), np.uint32(Quality.GOOD))
    n_pixels = np.where(bad, 0, random.integers(3000, 3800, n))
    chi2 = np.where(bad, np.nan, n_pixels * random.gamma(40, 1 / 40, n))
    return {
        "latents": np.where(bad[:, None], np.nan, latents).astype(np.float32),
        "chi2": chi2.astype(np.float32),
        "n_pixels": n_pixels.astype(np.int32),
        "quality": quality.astype(np.uint32),
    }


def drawn_spectra(n: int, n_pixels: int, n_rest: int) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the spectra of n rows, a slope with noise, and their restframes."""
    random = np.random.default_rng(1)
    flux = np.linspace(0.5, 1.5, n_pixels) + random.normal(0, 0.1, (n, n_pixels))
    spectra = {
        "flux": flux.astype(np.float32),
        "ivar": np.full((n, n_pixels), 100, np.float32),
        "norm": np.ones(n, np.float32),
        "quality": np.full(n, np.uint32(Quality.GOOD)),
    }
    return spectra, {"restframe": np.tile(np.linspace(0.5, 1.5, n_rest, dtype=np.float32), (n, 1))}


def make_checkpoint(folder: Path, n_latent: int) -> Path:
    """Save an untrained model of so many latents; nothing is encoded with it."""
    torch.manual_seed(0)
    model = SpectrumAutoencoder(SDSS(), torch.logspace(3.4, 3.97, 300), n_latent=n_latent)
    file = folder / f"untrained-{n_latent}.pt"
    torch.save({"model": [model.state_dict()], "losses": None, "instruments": ["sdss"]}, file)
    return file


def fill(root: str, plan: Plan, frame: pd.DataFrame, n_latent: int, whole: int) -> None:
    """Write every chunk's encodings and its marker, then close the store."""
    stores.create(root, plan, [store.kind for store in stores.stores_of(root, plan)])
    url, ledger = encodings_url(root, MODEL), encode_ledger(root, plan, MODEL)
    for shard in plan.shards():
        arrays = drawn(shard, n_latent)
        if shard.index < whole:
            n_rest = zarr.open_array(f"{url}/restframe", mode="r").shape[1]
            spectra, restframes = drawn_spectra(len(shard), plan.n_pixels, n_rest)
            write_region(spectra_url(root), shard, spectra)
            arrays |= restframes
        write_region(url, shard, arrays)
        own = targets_sha256(frame.iloc[shard.start : shard.stop], plan.survey.coordinates)
        ledger.mark(shard.index, record_of(shard, own, arrays))
    try:
        finalize.finalize(root, plan)
    except pipeline.Unfinished as error:  # its spectra, which nobody needs
        if set(error.missing) != {"ingest"}:
            raise


def main() -> None:
    """Make the store, and print how long it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--spectra", type=int, default=5_000_000)
    parser.add_argument("--latents", type=int, default=10)
    parser.add_argument("--whole", type=int, default=0, help="chunks that have spectra and restframes, too")
    args = parser.parse_args()
    start = time.perf_counter()
    frame = survey_targets(args.spectra)
    args.root.mkdir(parents=True, exist_ok=True)
    model = f"{MODEL}={make_checkpoint(args.root, args.latents)}"
    planner.require_space = lambda root, estimate: None  # for its spectra, which are never stored
    variables = (*VARIABLES, "restframe") if args.whole else VARIABLES
    plan = pipeline.plan(
        args.root, targets=frame, source="https://data.sdss.org/sas/dr17", models=model, variables=variables
    )
    print(f"planned {plan.n_spectra} spectra in {len(plan.shards())} chunks: {time.perf_counter() - start:.0f} s")
    fill(str(args.root), plan, frame, args.latents, args.whole)
    size = sum(file.stat().st_size for file in args.root.rglob("*") if file.is_file())
    seconds = time.perf_counter() - start
    print(f"filled: {seconds:.0f} s in all, {size / 1e6:.0f} MB")
    print(f"ratio: {LIMIT / seconds:.2f}")


if __name__ == "__main__":
    main()
