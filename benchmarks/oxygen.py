"""How well a model tells the [O II] line of a galaxy from its red half alone."""

from __future__ import annotations

import numpy as np
import torch
from galaxies import Array, Galaxies
from numpy.typing import NDArray

from spender_core.instrument import SDSS
from spender_core.model import SpectrumModel

LINE = (3717.0, 3740.0)  # Angstrom, both lines of the doublet
SIDES = ((3690.0, 3712.0), (3745.0, 3767.0))  # the continuum
WEAKEST = 3.0  # Angstrom: galaxies with less are not asked about
FLOOR = 0.1  # Angstrom: what counts as nothing


def equivalent_width(wave: Array, flux: Array, ivar: Array | None = None) -> float:
    """Equivalent width of [O II], Angstrom, positive in emission, over a straight continuum.

    wave: shape (R,), restframe. NaN where less than 70 % of the line's bins, or fewer than 20 beside it, have weight.
    """
    line = (wave > LINE[0]) & (wave < LINE[1])
    sides = np.zeros_like(line)
    for low, high in SIDES:
        sides |= (wave > low) & (wave < high)
    if ivar is not None:
        if not line.any() or (ivar[line] > 0).mean() < 0.7 or np.count_nonzero(ivar[sides] > 0) < 20:
            return float("nan")
        line, sides = line & (ivar > 0), sides & (ivar > 0)
    x = wave - np.mean(LINE)
    continuum = np.polyval(np.polyfit(x[sides], flux[sides].astype(np.float64), 1), x[line])
    return float(np.sum((flux[line] / continuum - 1) * np.gradient(wave)[line]))


def observed(galaxies: Galaxies, rows: NDArray[np.intp]) -> Array:
    """Equivalent widths in the spectra themselves, shape (N,), NaN where the line is not observed."""
    wave = SDSS().wave_obs.numpy().astype(np.float64)
    widths = [equivalent_width(wave / (1 + galaxies.z[i]), galaxies.flux[i], galaxies.ivar[i]) for i in rows]
    return np.array(widths, np.float32)


@torch.inference_mode()
def predicted(model: SpectrumModel, galaxies: Galaxies, rows: NDArray[np.intp]) -> Array:
    """Equivalent widths in the restframes of spectra whose blue half is hidden, shape (N,)."""
    flux, z = torch.from_numpy(galaxies.flux[rows]), torch.from_numpy(galaxies.z[rows])
    flux[:, : flux.shape[1] // 2] = 0
    restframes = model.decode(model.encode(flux, z[:, None] if model.encoder.n_aux else None)).numpy()
    wave = model.wave_rest.numpy().astype(np.float64)
    return np.array([equivalent_width(wave, restframe) for restframe in restframes], np.float32)


def errors(width: Array, truth: Array) -> Array:
    """Absolute differences of log10 widths, shape (N,)."""
    return np.abs(np.log10(np.maximum(width, FLOOR)) - np.log10(truth))
