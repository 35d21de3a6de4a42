r"""Show that the decoder resolves what no spectrum that it was trained on does: the [O II] doublet.

    python benchmarks/superresolution.py [--device cuda] [--work /tmp/superresolution] [--figure doublet.png]

Mock galaxies on a grid of 1e-4 in log10, like that of SDSS, observed through a line spread function of five bins, which
merges the two lines into one. The model has twice as many restframe bins per observed one, and learns the kernel from a
delta, symmetric and not negative.

On a logarithmic grid a spectrum's redshift shifts it and does nothing else, so that a kernel can be moved into the
restframe without a trace: a delta and the blended lines fit as well as the true kernel and the true lines, at all
redshifts. Something else must tell how narrow some features are. Here it is a second, sharp instrument, which observes
other galaxies, redward of 3739 Angstrom, and so never the doublet.

Prints what the blended instrument learns alone and with the other; last the share of the valley between the lines that
is recovered, as `ratio`. With --work, a run that was interrupted goes on from there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.dataset import SpectrumDataset
from spender_core.instrument import LSF, Instrument
from spender_core.settings import EpochReport, History, Settings
from spender_core.training import fit

Array = NDArray[np.float64]

STEP = 1e-4  # bins in log10(wavelength)
DOUBLET = (3727.09, 3729.88)  # [O II], Angstrom in vacuum
# A core and wings, by which the lines blend, and that damp nothing by more than a factor of seven: scales that a kernel
# extinguishes could not be restored.
KERNEL = np.array([0.11, 0.17, 0.44, 0.17, 0.11])
REACH = len(KERNEL) // 2
DISPERSION = 72 / 299792.458  # of the lines, in units of c
LINES = (*DOUBLET, 3836.48, 3869.86, 3890.16, 3968.59, 3971.20)  # H9, [Ne III], H8, [Ne III], H epsilon
STRENGTH = (5.0, 5.0, 2.0, 4.0, 3.0, 1.5, 3.0)  # of their peaks, the continuum is 1
Z = (0.08, 0.11)
INSTRUMENTS = {
    "blended": ((4000.0, 4450.0), KERNEL),
    "sharp": ((4150.0, 4450.0), np.ones(1)),  # at the highest redshift from 3739 Angstrom on
}
REST = (3602.0, 4125.0)  # all that the instruments see, and a margin
SN = 30.0
BATCH = 32
N_LATENT = 3
SEED = 2


@dataclass(frozen=True)
class Outcome:
    """What training came to.

    fidelity: loss of the blended instrument's spectra kept for validation; noise: what is expected of the true spectra.
    kernel: shape (5,). restframe, truth: means over these spectra, shape (R,), on `rest_grid`.
    """

    fidelity: float
    noise: float
    kernel: Array
    restframe: Array
    truth: Array

    @property
    def kernel_error(self) -> float:
        """Sum of the absolute deviations from the true kernel, whose sum is one."""
        return float(np.abs(self.kernel - KERNEL).sum())

    @property
    def deviation(self) -> float:
        """Largest deviation from the true spectrum around the doublet, in units of its peak above the continuum."""
        near = np.abs(rest_grid() - np.mean(DOUBLET)) < 10
        return float(np.abs(self.restframe - self.truth)[near].max() / np.ptp(self.truth[near]))


def grid(blue: float, red: float, step: float = STEP) -> Array:
    """Wavelengths uniform in their logarithm."""
    return np.asarray(10 ** np.arange(np.log10(blue), np.log10(red), step))


def rest_grid() -> Array:
    """Restframe wavelengths of the model, two bins per observed one."""
    return grid(*REST, STEP / 2)


def restframes(wave: Array, amounts: Array) -> Array:
    """Noise-free spectra at any wavelengths: shapes (N, L) and (N, 3) -> (N, L).

    amounts: of the doublet, of the other lines, and the slope of the continuum.
    """
    spectra = 1 + amounts[:, 2:] * (wave / 3860 - 1)
    for k, (line, strength) in enumerate(zip(LINES, STRENGTH, strict=True)):
        amount = amounts[:, 0 if k < len(DOUBLET) else 1, None]
        spectra = spectra + strength * amount * np.exp(-0.5 * ((wave / line - 1) / DISPERSION) ** 2)
    return np.asarray(spectra)


def observe(wave_obs: Array, z: Array, amounts: Array, kernel: Array) -> Array:
    """Noise-free spectra on a grid: sampled, and the bins weighted by the kernel; shape (N, L)."""
    reach = len(kernel) // 2
    first = np.log10(wave_obs[0])
    wider = 10 ** (first + STEP * np.arange(-reach, len(wave_obs) + reach))
    spectra = restframes(wider / (1 + z[:, None]), amounts)
    return np.array([np.convolve(spectrum, kernel, "valid") for spectrum in spectra])


@dataclass(frozen=True)
class Sample:
    """Mock spectra of an instrument. amounts: shape (N, 3), see `restframes`."""

    instrument: Instrument
    data: SpectrumDataset
    amounts: Array

    @classmethod
    def draw(cls, name: str, n: int, rng: np.random.Generator) -> Sample:
        """Draw n galaxies. No bin counts whose kernel reaches beyond the grid, where the model has nothing."""
        wave_range, kernel = INSTRUMENTS[name]
        wave = grid(*wave_range)
        z = rng.uniform(*Z, n)
        amounts = np.stack([rng.uniform(0.3, 1.5, n), rng.uniform(0.3, 1.5, n), rng.normal(0, 0.5, n)], 1)
        flux = observe(wave, z, amounts, kernel) + rng.standard_normal((n, len(wave))) / SN
        ivar = np.full(flux.shape, SN**2)
        ivar[:, :REACH] = ivar[:, -REACH:] = 0
        instrument = Instrument(name, torch.from_numpy(wave).float(), loglam0=float(np.log10(wave[0])))
        data = SpectrumDataset(flux.astype(np.float32), ivar.astype(np.float32), z, np.arange(n))
        return cls(instrument, data, amounts)


def train(samples: list[Sample], epochs: int, work: Path | None, device: str = "cpu") -> Outcome:
    """Train one decoder, and look at it through the spectra of the first sample, the blended one.

    The others teach the decoder first. The kernel then moves slowly, as the doublet is learned; last, both settle. A
    kernel that widens before the lines are narrow in the restframe comes to hide what it damps, and stays too wide.
    """
    blended, *others = samples
    blended.instrument.lsf = LSF.delta(len(KERNEL), symmetric=True, nonnegative=True)
    torch.manual_seed(SEED)
    rest = torch.from_numpy(rest_grid()).float()
    models = [SpectrumAutoencoder(sample.instrument, rest, N_LATENT) for sample in samples]
    for model in models:
        model.decoder = models[0].decoder
        model.to(device)
    pairs = [(model, sample.data) for model, sample in zip(models, samples, strict=True)]

    def phase(name: str, part: slice, share: float, lr: float, lsf_lr: float, seed: int) -> History:
        settings = Settings(max(1, round(share * epochs)), BATCH, lr=lr, lsf_lr=lsf_lr, seed=seed)
        file = None if work is None else work / f"{name}.pt"
        print(f" {name}: {settings.epochs} epochs", flush=True)
        return fit(pairs[part], settings, file, on_epoch=lambda epoch: _show(epoch, blended.instrument))

    name = "-".join(sample.instrument.name for sample in samples)
    if others:
        phase("sharp", slice(1, None), 0.5, 2e-3, 0.0, SEED)
    phase(name, slice(None), 1.0, 1e-3, 5e-4, SEED)
    history = phase(f"{name}-settled", slice(None), 2 / 3, 5e-4, 1e-3, SEED + 1)
    return look(models[0].cpu(), blended, history["valid"][-1][blended.instrument.name])


def _show(epoch: EpochReport, instrument: Instrument) -> None:
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in epoch.valid.items())
    kernel = _words(kernel_of(instrument))
    print(f"  epoch {epoch.epoch + 1} of {epoch.epochs}: {losses}, kernel {kernel}, {epoch.seconds:.0f} s", flush=True)


def _words(kernel: Array) -> str:
    return " ".join(f"{value:.3f}" for value in kernel)


def kernel_of(instrument: Instrument) -> Array:
    """Return the normalized kernel of an instrument, shape (K,)."""
    assert instrument.lsf is not None
    weight = instrument.lsf.weight.detach().double().flatten().flip(0).cpu().numpy()
    return np.asarray(weight / weight.sum())


@torch.no_grad()
def look(model: SpectrumAutoencoder, sample: Sample, fidelity: float) -> Outcome:
    """Decode the spectra kept for validation."""
    model.eval()
    decoded, used, rows = [], [], []
    for batch in sample.data.batches("valid", 0, 64):
        assert batch.rows is not None
        decoded.append(model.decode(model.encode(batch.spec)).double().numpy())
        used.append((batch.w > 0).numpy())
        rows.append(batch.rows.numpy())
    amounts = sample.amounts[np.concatenate(rows)]
    truth = restframes(np.broadcast_to(rest_grid(), (len(amounts), len(rest_grid()))), amounts)
    noise = float(np.concatenate(used).mean()) / 2
    restframe = np.concatenate(decoded).mean(0)
    return Outcome(fidelity, noise, kernel_of(sample.instrument), restframe, truth.mean(0))


def valley(wave: Array, spectrum: Array) -> float:
    """Measure the valley between the lines of the doublet: its depth below the lower peak, 1 down to the continuum.

    wave: shape (L,), Angstrom. Returns 0 where they are one.
    """
    fine = np.arange(3715.0, 3742.0, 0.02)
    y = np.interp(fine, wave, spectrum)
    y = y - np.median(y[(fine < 3719) | (fine > 3738)])
    peak = np.minimum(np.maximum.accumulate(y), np.maximum.accumulate(y[::-1])[::-1])
    between = (fine > DOUBLET[0]) & (fine < DOUBLET[1]) & (peak > 0)
    return float((1 - y[between] / peak[between]).max(initial=0.0))


def blend(spectrum: Array) -> Array:
    """Show a restframe spectrum as the instrument does, with the same number of bins: shape (R,) -> (R - 8,)."""
    spread = np.zeros(2 * len(KERNEL) - 1)
    spread[::2] = KERNEL
    return np.convolve(spectrum, spread, "valid")


def draw_figure(file: Path, alone: Outcome, together: Outcome) -> None:
    """Draw the doublet and the kernels."""
    from matplotlib.figure import Figure

    wave = rest_grid()
    near = (wave > 3716) & (wave < 3741)
    margin = len(KERNEL) - 1
    blended = np.pad(blend(together.truth), margin, mode="edge")
    figure = Figure(figsize=(9, 4), layout="constrained")
    lines, kernels = figure.subplots(1, 2, width_ratios=(2, 1))
    lines.plot(wave[near], together.truth[near], color="0.6", lw=5, label="true")
    lines.plot(wave[near], blended[near], color="C0", lw=1.5, label="blended, as observed")
    lines.plot(wave[near], alone.restframe[near], color="C2", lw=1.2, ls="--", label="decoded, trained alone")
    lines.plot(wave[near], together.restframe[near], color="C3", lw=1.5, label="decoded, trained with the other")
    lines.set_xlabel("restframe wavelength [Angstrom]")
    lines.set_ylabel("flux, mean of galaxies")
    lines.set_title("[O II] 3727, 3730")
    lines.set_ylim(top=1.45 * max(together.truth[near].max(), alone.restframe[near].max()))
    lines.legend(frameon=False, fontsize="small", loc="upper left")
    place = np.arange(-REACH, REACH + 1)
    kernels.plot(place, KERNEL, color="0.6", lw=5, label="true")
    kernels.plot(place, alone.kernel, "o--", color="C2", label="learned alone")
    kernels.plot(place, together.kernel, "o-", color="C3", label="learned with the other")
    kernels.set_xlabel("bins")
    kernels.set_title("line spread function")
    kernels.set_ylim(0, 1.6 * KERNEL.max())
    kernels.legend(frameon=False, fontsize="small", loc="upper center")
    figure.savefig(file, dpi=150)


def report(found: dict[str, Outcome]) -> float:
    """Print what was found, and return the true depth of the valley."""
    wave, margin = rest_grid(), len(KERNEL) - 1
    truth = found["together"].truth
    depth = valley(wave, truth)
    print(f"true: valley {depth:.3f}, kernel {_words(KERNEL)}")
    print(f"as observed: valley {valley(wave[margin:-margin], blend(truth)):.3f}")
    for key, outcome in found.items():
        print(
            f"decoded, {key}: valley {valley(wave, outcome.restframe):.3f}, largest deviation {outcome.deviation:.1%}"
            f" of the peak; kernel {_words(outcome.kernel)}, L1 {outcome.kernel_error:.3f};"
            f" fidelity loss {outcome.fidelity:.4f} (noise {outcome.noise:.4f})"
        )
    return depth


def main() -> None:
    """Train twice, and compare with the truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spectra", type=int, default=1536, help="of each instrument")
    parser.add_argument("--epochs", type=int, default=30, help="of the longest of three phases")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, help="folder for checkpoints")
    parser.add_argument("--figure", type=Path, help="file to draw the doublet into")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
    found = {}
    for key, names in (("together", ["blended", "sharp"]), ("alone", ["blended"])):
        rng = np.random.default_rng(SEED)  # the blended sample is the same in both
        samples = [Sample.draw(name, arguments.spectra, rng) for name in names]
        print(f"blended {key}", flush=True)
        found[key] = train(samples, arguments.epochs, arguments.work, arguments.device)
    depth = report(found)
    if arguments.figure is not None:
        draw_figure(arguments.figure, found["alone"], found["together"])
    print(f"ratio: {valley(rest_grid(), found['together'].restframe) / depth:.3f}")


if __name__ == "__main__":
    main()
