r"""Train mocks of two instruments together, one decoder and two encoders, and compare with each instrument alone.

    python benchmarks/joint.py [--second boss|desi] [--steps 400] [--device cuda] [--work /tmp/joint] [--together]

Mock galaxies of two surveys, the near one seen by SDSS, the far one by BOSS or DESI; each alone and both together get
the same number of steps per instrument. Restframes cover what instruments see between the first and 99th percentile of
their redshifts, as `spender-pipeline train` chooses them. Prints the fidelity of spectra kept for validation, in each
case on the restframe range that the instrument alone would have; the ranges; and how well the decoder of both predicts,
from SDSS spectra, the ultraviolet that SDSS never sees. Of galaxies that both see, it prints the rms of the difference
of their restframes, over the wavelengths that both cover, in units of the norm; beside it that of two observations by
the same instrument, which differ in their noise alone; --together: this alone. With --work, a run that was interrupted
goes on from there. The last line is the worse of the two instruments' fidelity loss together over alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.dataset import Batch, Split
from spender_core.instrument import LOG_STEP, get_instrument
from spender_core.losses import fidelity
from spender_core.settings import EpochReport, Settings
from spender_core.training import fit

Array = NDArray[np.float64]

FIRST = "sdss"
REDSHIFTS = {FIRST: (0.02, 0.35), "boss": (0.20, 0.60), "desi": (0.02, 0.60)}
SN = (5.0, 20.0)  # per bin, of the continuum
WAVE = 10 ** np.arange(3.3, 4.03, 0.5e-4)  # of the mocks' restframes, Angstrom
LEVEL = (5300.0, 5850.0)  # Angstrom: where spectra are 1
EMISSION = {  # Angstrom in vacuum, strength, from ionized gas and from hard radiation
    **{2799.1: (0.3, 0.0), 3728.5: (2.0, 0.5), 3869.9: (0.1, 0.6), 4102.9: (0.3, 0.0), 4341.7: (0.6, 0.1)},
    **{4862.7: (1.2, 0.2), 4960.3: (0.2, 1.0), 5008.2: (0.6, 3.0), 6549.9: (0.5, 0.1), 6564.6: (4.0, 0.5)},
    **{6585.3: (1.5, 0.3), 6718.3: (0.8, 0.1), 6732.7: (0.6, 0.1)},
}
ABSORPTION = {  # Angstrom in vacuum, depth
    **{2799.1: 0.4, 3934.8: 0.5, 3969.6: 0.5, 4305.6: 0.25, 5176.0: 0.25, 5270.0: 0.12, 5895.6: 0.2, 8544.4: 0.2},
}
N_LATENT = 6
N_VALID = 8  # batches
N_BOTH = 200  # galaxies that are observed by both
EPOCHS = 10
SEED = 18


@cache
def components() -> Array:
    """Return what mock spectra are sums of, shape (5, R): young and old stars, a tilt, gas, hard radiation."""
    x = np.log(WAVE / 5500)
    young = np.exp(-1.2 * x)
    old = np.exp(0.3 * x) * (0.35 + 0.65 / (1 + np.exp(-(WAVE - 4000) / 40))) * (WAVE / (WAVE + 600))
    for line, depth in ABSORPTION.items():
        old = old * (1 - depth * _profile(line, 400.0))
    gas, hard = (sum(_profile(line, 150.0) * both[k] for line, both in EMISSION.items()) for k in (0, 1))
    level = (WAVE > LEVEL[0]) & (WAVE < LEVEL[1])
    return np.array([young / young[level].mean(), old / old[level].mean(), x, gas, hard])


def _profile(line: float, dispersion: float) -> Array:
    """Gaussian of height 1; dispersion in km/s."""
    return np.asarray(np.exp(-0.5 * ((WAVE / line - 1) * 299792.458 / dispersion) ** 2))


class Mocks:
    """Batches of mock galaxies of one survey, drawn afresh in every epoch; those for validation are always the same."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self._steps = name, steps
        self.wave = get_instrument(name).wave_obs.double().numpy()
        self.identity = f"{name} mocks, seed {SEED}, {steps} steps"

    def steps(self, split: Split, batch_size: int) -> int:
        """Batches per epoch, whatever their size."""
        return self._steps if split == "train" else N_VALID

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `begin` on."""
        for i in range(begin, self.steps(split, batch_size)):
            key = (SEED, *self.name.encode(), epoch, i, 0) if split == "train" else (SEED, *self.name.encode(), 0, i, 1)
            yield self.draw(batch_size, np.random.default_rng(key))

    def draw(self, n: int, rng: np.random.Generator) -> Batch:
        """Draw n galaxies, and observe them."""
        return self.observe(galaxies(n, rng), rng.uniform(*REDSHIFTS[self.name], n), rng)

    def observe(self, truth: Array, z: Array, rng: np.random.Generator) -> Batch:
        """Observe galaxies, shape (N, R) on the grid of `components`, each with noise of its own."""
        clean = np.array([np.interp(self.wave / (1 + k), WAVE, row) for k, row in zip(z, truth, strict=True)])
        sigma = np.broadcast_to(1 / rng.uniform(*SN, (len(z), 1)), clean.shape)
        arrays = (clean + sigma * rng.standard_normal(clean.shape), sigma**-2.0, z)
        spec, w, redshift, rest = (torch.from_numpy(np.asarray(a, np.float32)) for a in (*arrays, truth))
        return Batch(spec, w, redshift, truth=rest)


def galaxies(n: int, rng: np.random.Generator) -> Array:
    """Draw restframe spectra, shape (n, R)."""
    age = rng.beta(0.7, 0.7, n)
    gas = (1 - age) * rng.lognormal(0, 0.6, n) + 0.05 * rng.random(n)
    hard = gas * rng.lognormal(-0.7, 0.7, n)
    amounts = np.stack([1 - age, age, rng.normal(0, 0.25, n), gas, hard], 1)
    return np.asarray(amounts @ components())


def rest_range(names: Sequence[str]) -> tuple[float, float]:
    """Return the restframe wavelengths that instruments see between the 1st and 99th percentile of redshift."""
    ends = []
    for name in names:
        wave, (low, high) = get_instrument(name).wave_obs, np.percentile(REDSHIFTS[name], (1, 99))
        ends.append((wave[0].item() / (1 + high), wave[-1].item() / (1 + low)))
    return float(min(blue for blue, _ in ends)), float(max(red for _, red in ends))


@dataclass(frozen=True)
class Trained:
    """A model per instrument, and the restframe range of their decoder, Angstrom."""

    models: dict[str, SpectrumAutoencoder]
    rest: tuple[float, float]


def train(names: Sequence[str], steps: int, batch: int, work: Path | None, device: str = "cpu") -> Trained:
    """Train one decoder for these instruments, so many steps with the spectra of each."""
    torch.manual_seed(SEED)
    rest = rest_range(names)
    bins = round(np.log10(rest[1] / rest[0]) / LOG_STEP) + 1
    wave_rest = torch.logspace(float(np.log10(rest[0])), float(np.log10(rest[1])), bins)
    models = {name: SpectrumAutoencoder(get_instrument(name), wave_rest, N_LATENT) for name in names}
    for model in models.values():
        model.decoder = models[names[0]].decoder
        model.to(device)
    epochs = min(EPOCHS, steps)
    fit(
        [(model, Mocks(name, steps // epochs)) for name, model in models.items()],
        Settings(epochs=epochs, batch_size=batch, seed=SEED),
        None if work is None else work / f"{'-'.join(names)}.pt",
        on_epoch=_show,
        save_every=60,
    )
    return Trained({name: model.cpu().eval() for name, model in models.items()}, rest)


def _show(report: EpochReport) -> None:
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in report.valid.items())
    print(f"  epoch {report.epoch + 1} of {report.epochs}: {losses}, {report.seconds:.0f} s", flush=True)


@dataclass(frozen=True)
class Losses:
    """Mean fidelity losses of validation spectra: of a model, of the mean spectrum, and of the noise alone."""

    model: float
    mean: float
    noise: float


@torch.no_grad()
def losses_of(trained: Trained, name: str, batch_size: int) -> Losses:
    """Judge on the pixels that the instrument's own restframe range covers."""
    blue, red = rest_range([name])
    model, mocks = trained.models[name], Mocks(name, 1)
    batches = list(mocks.batches("valid", 0, batch_size))
    mean = np.mean([_truth(batch).mean(0) for batch in batches], axis=0)
    sums = np.zeros(3)
    for batch in batches:
        place = model.wave_obs / (1 + batch.z[:, None])
        _, _, reconstruction, valid = model.reconstruct(batch.spec, z=batch.z)
        w = batch.w * (valid & (place > blue) & (place < red))
        of_mean = torch.from_numpy(np.interp(place.numpy(), WAVE, mean)).float()
        losses = [fidelity(batch.spec, w, made).mean().item() for made in (reconstruction, of_mean)]
        sums += [*losses, (w > 0).double().mean().item() / 2]  # as is expected of the true spectra
    return Losses(*(sums / len(batches)).tolist())


def _truth(batch: Batch) -> Array:
    assert batch.truth is not None
    return batch.truth.double().numpy()


@torch.no_grad()
def unseen(trained: Trained, name: str, batch_size: int) -> tuple[float, float]:
    """Median relative deviation from the truth, blueward of all that the instrument sees: decoded, mean spectrum."""
    model = trained.models[name]
    end = get_instrument(name).wave_obs[0].item() / (1 + REDSHIFTS[name][1])
    wave = model.wave_rest.double().numpy()
    part = wave < end
    decoded, truth = [], []
    for batch in Mocks(name, 1).batches("valid", 0, batch_size):
        decoded.append(model.decode(model.encode(batch.spec)).double().numpy()[:, part])
        truth.append([np.interp(wave[part], WAVE, row) for row in _truth(batch)])
    expected = np.concatenate(truth)
    deviations = [np.abs(made / expected - 1) for made in (np.concatenate(decoded), expected.mean(0))]
    return float(np.median(deviations[0])), float(np.median(deviations[1]))


@dataclass(frozen=True)
class Agreement:
    """Rms of differences of restframes, in units of the norm: of two instruments, and of each with itself."""

    between: float
    within: dict[str, float]

    @property
    def ratio(self) -> float:
        """That of two instruments over that of the noisier one with itself."""
        return self.between / max(self.within.values())


@torch.no_grad()
def agreement(trained: Trained, n: int) -> Agreement:
    """Observe n unseen galaxies twice by each of two instruments, at redshifts that both have."""
    first, second = trained.models
    ends = [REDSHIFTS[name] for name in (first, second)]
    rng = np.random.default_rng((SEED, 2))
    truth, z = galaxies(n, rng), rng.uniform(max(low for low, _ in ends), min(high for _, high in ends), n)
    made = {
        name: [model.decode(model.encode(Mocks(name, 1).observe(truth, z, rng).spec)).double() for _ in range(2)]
        for name, model in trained.models.items()
    }
    wave = trained.models[first].wave_rest.double()
    stretch = 1 + torch.from_numpy(z)[:, None]
    seen = torch.ones((n, len(wave)), dtype=torch.bool)
    for model in trained.models.values():
        seen &= (wave * stretch >= model.wave_obs[0]) & (wave * stretch <= model.wave_obs[-1])

    def rms(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other)[seen].square().mean().sqrt())

    return Agreement(rms(made[first][0], made[second][0]), {name: rms(*both) for name, both in made.items()})


def compare(trained: dict[tuple[str, ...], Trained], both: tuple[str, str], batch: int) -> list[float]:
    """Print what trainings alone and together came to; return fidelity losses together over alone."""
    for names, one in trained.items():
        print(f"restframe of {' and '.join(names)}: {one.rest[0]:.0f}-{one.rest[1]:.0f} Angstrom")
    ratios = []
    for name in both:
        alone, together = (losses_of(trained[names], name, batch) for names in ((name,), both))
        ratios.append(together.model / alone.model)
        print(
            f"{name}: fidelity loss alone {alone.model:.4f}, together {together.model:.4f}, ratio {ratios[-1]:.3f}"
            f" (mean spectrum {alone.mean:.2f}, noise {alone.noise:.4f})"
        )
    decoded, mean = unseen(trained[both], FIRST, batch)
    print(f"ultraviolet that {FIRST} never sees: median deviation {decoded:.1%}, of the mean spectrum {mean:.1%}")
    return ratios


def main() -> None:
    """Train three times, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--second", choices=[name for name in REDSHIFTS if name != FIRST], default="boss")
    parser.add_argument("--steps", type=int, default=400, help="per instrument, a multiple of 10")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, help="folder for checkpoints")
    parser.add_argument("--together", action="store_true", help="do not train each alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
    both = (FIRST, arguments.second)
    trained: dict[tuple[str, ...], Trained] = {}
    for names in (*(() if arguments.together else ((name,) for name in both)), both):
        print(" and ".join(names), flush=True)
        trained[names] = train(names, arguments.steps, arguments.batch, arguments.work, arguments.device)
    ratios = [] if arguments.together else compare(trained, both, arguments.batch)
    found = agreement(trained[both], N_BOTH)
    alike = ", ".join(f"{name} with itself {value:.2%}" for name, value in found.within.items())
    print(
        f"restframes of {N_BOTH} galaxies by {' and '.join(both)} differ by {found.between:.2%} of the norm (rms); "
        f"{alike}: {found.ratio:.2f} of the noisier one"
    )
    if ratios:
        print(f"ratio: {max(ratios):.3f}")


if __name__ == "__main__":
    main()
