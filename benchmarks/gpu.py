"""What a GPU makes of a model: encoding and training per second, share of what the card can do, runs from a store.

    python benchmarks/gpu.py [--batch 1024] [--spectra 16384] [--device cuda] [--work DIR]

For each precision: spectra/s that are encoded and that a training step takes, medians over rounds, and what the
encoding is of the card's roofline: the multiply-adds of the encoder's convolutions, done plainly, per second, over
those of a product of two large matrices, which is timed here in the same precision. Then the encode stage of a run of
mock spectra from a store, by one worker with the card: its spectra/s, and the share of the time that the card computes,
which is that rate times the time that the card takes for a batch when nothing else goes on. Then what a blind redshift
costs, and refined latents beside it, in encodes. The last line is the encoding's share of the roofline over a half, in
float32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from encode import spectra
from end_to_end import compute, run
from ingest import MODEL, make_survey

import pipeline
from pipeline.compute import cluster
from pipeline.compute.stages.process import device_name, load
from pipeline.planning.model import ModelConfig
from spender_core import SDSS, SpectrumAutoencoder, load_model
from spender_core.basis import Basis
from spender_core.encoder import CHANNELS, KERNELS
from spender_core.latent_fit import fit_latents
from spender_core.precision import PRECISIONS, arithmetic
from spender_core.redshift import RedshiftEstimator
from spender_core.weights import read_extras

BLIND = "sdss-galaxies"  # what redshifts are found with
Z_RANGE = (-0.002, 0.503)
NOISE = 0.2  # of a pixel, in units of the norm
HALF = 0.5  # of the roofline: what encoding is to reach
SIDE = {"cuda": 8192, "cpu": 1024}  # of the matrices that the roofline is measured by


def multiply_adds(length: int) -> int:
    """Count those of the encoder's convolutions for one spectrum, done plainly."""
    total, n_in = 0, 1
    for n_out, kernel in zip(CHANNELS, KERNELS, strict=True):
        total += length * n_in * n_out * kernel
        length, n_in = -(-length // kernel), n_out
    return total


def timed(work: Callable[[], object], device: torch.device, rounds: int = 7) -> float:
    """Return the median seconds of some work, after a round that does not count."""
    seconds = []
    for _ in range(rounds + 1):
        _finish(device)
        start = time.perf_counter()
        work()
        _finish(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Rates:
    """Spectra/s: encoded, encoded and decoded, and of a training step."""

    encode: float
    reconstruct: float
    train: float


def roofline(device: torch.device, precision: str) -> float:
    """Return the multiply-adds per second of a product of large matrices."""
    side = SIDE[device.type]
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return float(side**3 / timed(lambda: a @ a, device))


def rates(model: SpectrumAutoencoder, batch: int, device: torch.device) -> Rates:
    """Time a model with whole batches on the device."""
    spec, weight, z = (values.to(device) for values in spectra(model.cpu(), batch))
    model.to(device)

    def step() -> None:
        model.zero_grad()
        model.loss(spec, weight, z=z).backward()

    with torch.inference_mode():
        encode = timed(lambda: model.encode(spec, aux=z[:, None] if model.encoder.n_aux else None), device)
        reconstruct = timed(lambda: model.reconstruct(spec, z=z), device)
    return Rates(batch / encode, batch / reconstruct, batch / timed(step, device))


@torch.no_grad()
def fits(batch: int, device: torch.device) -> dict[str, float]:
    """Return what is done per second: encoding, blind redshifts, and refined latents, z fixed and free."""
    model, _ = load_model(BLIND, SDSS())
    latents = read_extras(BLIND)["latents"].float()
    basis = Basis.of(model.eval(), latents)
    estimator = RedshiftEstimator(SDSS(), basis.templates, Z_RANGE).to(device)
    model.to(device)
    random = torch.Generator().manual_seed(1)
    s = latents[torch.randint(len(latents), (batch,), generator=random)].to(device)
    z = (0.02 + 0.4 * torch.rand(batch, generator=random)).to(device)
    clean = model.decoder(s, model.encoder.instrument, z)
    flux = clean + NOISE * torch.randn(clean.shape, generator=random).to(device)
    ivar = (clean != 0) * NOISE**-2
    data = model, flux, ivar, model.encode(flux), z.double(), basis.prior.to(device)
    parts: dict[str, Callable[[], object]] = {
        "encode": lambda: model.encode(flux),
        "blind redshift": lambda: estimator(flux, ivar),
        "refined latents": lambda: fit_latents(*data),
        "refined latents, z free": lambda: fit_latents(*data, free_z=True),
    }
    return {name: batch / timed(part, device) for name, part in parts.items()}


def prepared(model: ModelConfig, instrument: str) -> None:
    """Load a model where this is called; it stays there, as a card's tensors do not travel."""
    load(model, instrument)


def from_store(precision: str, release: Path, catalog: Path, work: Path) -> float:
    """Return the spectra/s of a run's encode stage on one worker."""
    root = Path(tempfile.mkdtemp(dir=work))
    frame = pipeline.select_targets(catalog)
    plan = pipeline.plan(root, targets=frame, source=release, layout="spPlate", models=MODEL, precision=precision)
    pipeline.run(root, stages="ingest", progress=False)
    with cluster.connect(workers=1) as client:
        client.run(prepared, plan.model(MODEL), plan.config.instrument)
        client.run(compute, plan, plan.shard)
        found = run(root, plan, client, ("encode",))
    return found.asked / found.seconds


def main() -> None:
    """Print the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--spectra", type=int, default=16384)
    parser.add_argument("--device", choices=sorted(SIDE), default="cuda", help="cpu: to try this script")
    parser.add_argument("--work", type=Path, help="folder to keep the mock survey in, for another time")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing measured")
    device = torch.device(options.device)
    os.environ["SPENDER_DEVICE"] = options.device  # of the workers, too
    model, _ = load_model(MODEL, SDSS())
    print(f"{device_name(device)}, torch {torch.__version__}, batch {options.batch}; spectra/s")
    print(f"{'':8} {'encode':>9} {'of the roofline':>15} {'train':>9} {'from a store':>12} {'card computes':>13}")
    shares = []
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        release = (options.work or Path(temporary)) / f"spPlate-{options.spectra}"
        catalog = make_survey("spPlate", release, options.spectra)
        for precision in PRECISIONS:
            with arithmetic(precision, device):
                found = rates(model, options.batch, device)
                shares.append(found.encode * multiply_adds(len(model.wave_obs)) / roofline(device, precision))
            stored = from_store(precision, release, catalog, Path(temporary))
            print(
                f"{precision:8} {found.encode:9.0f} {shares[-1]:15.0%} {found.train:9.0f} {stored:12.0f} "
                f"{stored / found.reconstruct:13.0%}",
                flush=True,
            )
        with arithmetic("float32", device):
            rate = fits(options.batch, device)
    for name, found_rate in rate.items():
        print(f"{BLIND}, {name}: {found_rate:.0f}/s, {rate['encode'] / found_rate:.2f} encodes")
    print(f"ratio: {shares[0] / HALF:.2f}")


if __name__ == "__main__":
    main()
