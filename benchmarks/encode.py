"""The model's speed beside PyPI spender: encode, decode, transform, all of it, and a training step.

    python benchmarks/encode.py [--batch 64 256] [--rounds 7] [--runs 3] [--competing 2] [--threads 2]

Both models have the same weights and run in this process in turns; the medians over the rounds are shown, in ms per
spectrum, on a quiet machine and, where some are asked for, beside processes that compete for the cores. The input is
noise around mock continua, at redshifts of up to 0.4. Difference: the largest absolute one, relative to the largest
absolute value. The gradient's is that to float64 gradients of the plain layers, theirs and ours, all parameters joined,
as the length of the difference vector: where two pixels of a pooling window are equal to rounding, either may be the
maximum, so single elements differ between any two ways to compute them. The last line is upstream's time to encode over
ours, at the first batch. GPUs: gpu.py.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from spender import SpectrumAutoencoder as UpstreamAutoencoder
from spender.data.sdss import SDSS as UPSTREAM
from torch import Tensor, nn

from spender_core import SDSS, SpectrumAutoencoder, load_model
from spender_core.encoder import N_FEATURE

SEED = 20260101


@dataclass(frozen=True)
class Row:
    """One operation: what both do, and whether gradients flow."""

    name: str
    upstream: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    trains: bool = False


def models(checkpoint: str) -> tuple[nn.Module, SpectrumAutoencoder]:
    """Give a checkpoint's weights to our model and to upstream's, without the redshift's that upstream drops."""
    loaded, _ = load_model(checkpoint, SDSS())
    state = loaded.state_dict()
    first = "encoder.mlp.0.weight"
    state[first] = state[first][:, :N_FEATURE]
    ours = SpectrumAutoencoder(SDSS(), loaded.wave_rest, loaded.n_latent)
    ours.load_state_dict(state)
    theirs = UpstreamAutoencoder(UPSTREAM(), loaded.wave_rest, n_latent=loaded.n_latent)
    missing = theirs.load_state_dict(state, strict=False).missing_keys
    if any(not key.endswith(("skyline_mask", "wave_obs")) for key in missing):
        raise SystemExit(f"upstream's model lacks {missing}")
    return theirs.eval(), ours.eval()


def spectra(model: SpectrumAutoencoder, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make n noisy spectra, their weights and their redshifts."""
    generator = torch.Generator().manual_seed(SEED)
    z = 0.4 * torch.rand(n, generator=generator)
    with torch.no_grad():
        latents = torch.randn(n, model.n_latent, generator=generator)
        continua = model.decoder(latents, instrument=model.encoder.instrument, z=z)
    noise = 0.1 * torch.randn(continua.shape, generator=generator)
    return continua + noise, torch.full_like(continua, 100.0), z


def rows(theirs: nn.Module, ours: SpectrumAutoencoder, batch: int) -> list[Row]:
    """List what is timed."""
    spec, w, z = spectra(ours, batch)
    their_instrument, instrument = theirs.encoder.instrument, ours.encoder.instrument
    with torch.no_grad():
        s = ours.encode(spec)
        restframe = ours.decode(s)

    def step(model: nn.Module, instrument: nn.Module) -> Callable[[], Tensor]:
        def run() -> Tensor:
            model.zero_grad()
            loss: Tensor = model.loss(spec, w, instrument=instrument, z=z)
            loss.backward()
            return loss.detach()

        return run

    return [
        Row("encode", lambda: theirs.encode(spec), lambda: ours.encode(spec)),
        Row(
            "_forward",
            lambda: theirs._forward(spec, instrument=their_instrument, z=z)[2],
            lambda: ours._forward(spec, instrument=instrument, z=z)[2],
        ),
        Row("decode", lambda: theirs.decode(s), lambda: ours.decode(s)),
        Row(
            "transform",
            lambda: theirs.decoder.transform(restframe, instrument=their_instrument, z=z),
            lambda: ours.decoder.transform(restframe, instrument=instrument, z=z),
        ),
        Row("training step", step(theirs, their_instrument), step(ours, instrument), trains=True),
    ]


def timed(row: Row, rounds: int) -> tuple[float, float]:
    """Return the median seconds of both, run in turns after one round that does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for run, found in zip((row.upstream, row.ours), seconds, strict=True):
            with torch.set_grad_enabled(row.trains):
                start = time.perf_counter()
                run()
                found.append(time.perf_counter() - start)
    theirs, ours = (statistics.median(found[1:]) for found in seconds)
    return theirs, ours


def report(condition: str, row: Row, batch: int, rounds: int) -> float:
    """Time a row and print it; return upstream's time over ours."""
    before, after = timed(row, rounds)
    with torch.set_grad_enabled(row.trains):
        error = difference(row.ours(), row.upstream())
    per = 1e3 / batch
    times = f"{before * per:9.3f} {after * per:9.3f} {before / after:6.2f}"
    print(f"{condition:6} {row.name:16} {batch:5d} {times} {error:10.1e}", flush=True)
    return before / after


@contextmanager
def competing(processes: int) -> Iterator[None]:
    """Keep so many other processes busy."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: sum(range(1000))"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def gradients(model: nn.Module, spec: Tensor, w: Tensor, z: Tensor, names: Sequence[str]) -> Tensor:
    """Join the gradients of the loss with respect to the named parameters; the biases ahead of a norm have none."""
    model.zero_grad()
    model.loss(spec, w, instrument=model.encoder.instrument, z=z).backward()
    parameters = dict(model.named_parameters())
    parts = [parameters[name].grad.double() for name in names]
    return torch.cat([(part / part.norm()).flatten() for part in parts])


def gradient_errors(theirs: nn.Module, ours: SpectrumAutoencoder, checkpoint: str) -> tuple[float, float]:
    """Return how far upstream's gradients and ours are from those in float64."""
    spec, w, z = spectra(ours, 8)
    exact = models(checkpoint)[0].double()
    names = [f"encoder.conv{i}.{layer}.weight" for i in (1, 2, 3) for layer in (0, 2)]
    expected = gradients(exact, spec.double(), w.double(), z.double(), names)
    found = (gradients(model, spec, w, z, names) for model in (theirs, ours))
    errors = [((each - expected).norm() / expected.norm()).item() for each in found]
    return errors[0], errors[1]


def main() -> None:
    """Print the table and the ratio."""
    parser = argparse.ArgumentParser(description="The model's speed beside PyPI spender.")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=1, help="how often all of it is done")
    parser.add_argument("--competing", type=int, default=2, help="busy processes beside it; 0: only the quiet machine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="sdss-demo")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # upstream's
    torch.set_num_threads(options.threads)
    theirs, ours = models(options.model)
    print(f"{options.threads} threads, {options.rounds} rounds, torch {torch.__version__}")
    print(f"{'':6} {'':16} {'batch':>5} {'upstream':>9} {'ours':>9} {'ratio':>6} {'difference':>10}")
    ratios = []
    conditions = [("quiet", 0), *([("busy", options.competing)] if options.competing else [])]
    for condition, processes in conditions * options.runs:
        with competing(processes):
            for batch in options.batch:
                for row in rows(theirs, ours, batch):
                    ratios.append(report(condition, row, batch, options.rounds))
    upstream_error, own_error = gradient_errors(theirs, ours, options.model)
    print(f"gradients, error to float64: upstream {upstream_error:.1e}, ours {own_error:.1e}")
    print(f"ratio: {ratios[0]:.2f}")


if __name__ == "__main__":
    main()
