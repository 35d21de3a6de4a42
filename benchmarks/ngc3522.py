r"""Draw NGC 3522, an elliptical with weak emission, as both embedded models have it.

    python benchmarks/ngc3522.py [--figure ngc3522.png]

The spectrum is the one that PyPI's ppxf ships. Prints the equivalent width of [O II] in each restframe, and by how
much the residual changes from the blue end to the red, in units of the noise of a bin.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import oxygen
import torch
from galaxies import Array

from pipeline import make_batch
from pipeline.cli.demo import real_spectra
from spender_core.instrument import SDSS
from spender_core.weights import load_model

IDS = (2488, 54149, 1)
MODELS = ("sdss-demo", "sdss-galaxies")


@dataclass(frozen=True)
class Seen:
    """A model's view of the spectrum. restframe: shape (R,). residual: shape (L,), in units of the noise, NaN masked.

    width: equivalent width of [O II], Angstrom, positive in emission. tilt: change of the residual over the spectrum.
    chi2: per bin with weight.
    """

    wave_rest: Array
    restframe: Array
    reconstruction: Array
    residual: Array
    width: float
    tilt: float
    chi2: float


def read() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spectrum, shape (1, L), its weights, and redshift, shape (1,)."""
    with tempfile.TemporaryDirectory() as folder:
        real_spectra(Path(folder))
        spec, w, z, *_ = make_batch(folder, [IDS])
    return spec, w, z


@torch.inference_mode()
def look(name: str, spec: torch.Tensor, w: torch.Tensor, z: torch.Tensor) -> Seen:
    """Encode and decode the spectrum by a model."""
    model, _ = load_model(name, SDSS())
    _, restframe, reconstruction, valid = model.reconstruct(spec, z=z)
    weight = (w * valid)[0].numpy()
    residual = np.where(weight > 0, (spec - reconstruction)[0].numpy() * np.sqrt(weight), np.nan)
    there = np.isfinite(residual)
    place = np.linspace(-0.5, 0.5, len(residual))
    tilt = np.polyfit(place[there], residual[there], 1)[0]
    wave = model.wave_rest.numpy()
    width = oxygen.equivalent_width(wave.astype(np.float64), restframe[0].numpy())
    chi2 = float(np.nanmean(residual**2))
    return Seen(wave, restframe[0].numpy(), reconstruction[0].numpy(), residual, width, float(tilt), chi2)


def draw(spec: Array, wave: Array, z: float, seen: dict[str, Seen], file: Path) -> None:
    """Draw the spectrum with both reconstructions, their residuals, and the blue of their restframes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(11, 9), layout="constrained")
    top.plot(wave, spec, color="0.7", lw=0.7, label="NGC 3522")
    for name, color in zip(MODELS, ("tab:orange", "tab:blue"), strict=True):
        view = seen[name]
        top.plot(wave, view.reconstruction, color=color, lw=0.8, label=f"{name}, chi2 {view.chi2:.2f}")
        smooth = np.convolve(np.nan_to_num(view.residual), np.ones(50) / 50, "same")
        middle.plot(wave, smooth, color=color, lw=0.9)
        blue = view.wave_rest < 4100
        bottom.plot(view.wave_rest[blue], view.restframe[blue], color=color, lw=0.9)
    bottom.plot(wave[wave / (1 + z) < 4100] / (1 + z), spec[wave / (1 + z) < 4100], color="0.7", lw=0.7, zorder=0)
    top.set(ylabel="flux / norm", xlabel="observed wavelength / Angstrom")
    top.legend()
    middle.set(ylabel="residual / noise, 50 bins' mean", xlabel="observed wavelength / Angstrom")
    bottom.set(ylabel="restframe flux", xlabel="restframe wavelength / Angstrom")
    bottom.axvspan(*oxygen.LINE, color="0.9")
    figure.savefig(file, dpi=110)


def main() -> None:
    """Print both views, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="file to draw into")
    arguments = parser.parse_args()
    spec, w, z = read()
    seen = {name: look(name, spec, w, z) for name in MODELS}
    for name, view in seen.items():
        line = f"[O II] W {view.width:.2f} A, residual tilt {view.tilt:+.2f} of the noise"
        print(f"{name}: reduced chi2 {view.chi2:.2f}, {line}")
    if arguments.figure:
        draw(spec[0].numpy(), SDSS().wave_obs.numpy(), float(z[0]), seen, arguments.figure)
    print(f"ratio: {seen['sdss-galaxies'].chi2 / seen['sdss-demo'].chi2:.3f}")


if __name__ == "__main__":
    main()
