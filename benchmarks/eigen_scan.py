"""Redshifts by the pipeline's eigenspectra the way redrock finds them, written independently of `spender_core.scan`.

At every redshift of a grid four eigenspectra and a constant are fitted by weighted least squares in float64. Around the
three lowest minima, more than 1000 km/s apart, chi2 is computed on a finer grid; a parabola gives the lowest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from redshift_mocks import Array, read_eigenspectra

STEP = 3e-4  # of log10(1 + z), redrock's for galaxies
APART = np.log10(1 + 1000 / 299_792.458)
MINIMA = 3
FINE = 15  # redshifts within two steps of a minimum


class EigenScan:
    """Templates in front of an observed grid.

    file: the eigenspectra. log_wave: shape (L,), log10 of the wavelengths. z_range: first and last redshift.
    """

    def __init__(self, file: Path, log_wave: Array, z_range: tuple[float, float]) -> None:
        self._log_wave = log_wave
        self._log_rest, self._spectra = read_eigenspectra(file)
        self._spectra /= np.abs(self._spectra).mean(axis=1, keepdims=True)
        first, last = np.log10(1 + np.array(z_range))
        self.grid = np.arange(first, last, STEP)
        self._columns = np.stack([self._at(q) for q in self.grid])

    def _at(self, log_stretch: float) -> Array:
        """Eigenspectra and a constant at a redshift, shape (5, L); 0 where there are no eigenspectra."""
        place = self._log_wave - log_stretch
        columns = [np.interp(place, self._log_rest, row, left=0, right=0) for row in self._spectra]
        reach = (place >= self._log_rest[0]) & (place <= self._log_rest[-1])
        return np.stack([*columns, reach.astype(float)])

    def __call__(self, flux: Array, ivar: Array) -> float:
        """Find the redshift of one spectrum, shape (L,)."""
        flux = np.where(ivar > 0, flux, 0)
        chi2 = _chi2(self._columns, flux, ivar)
        inner = (chi2[1:-1] < chi2[:-2]) & (chi2[1:-1] <= chi2[2:])
        minima = np.flatnonzero(inner) + 1
        minima = minima[np.argsort(chi2[minima])]
        kept: list[float] = []
        for q in self.grid[minima]:
            if len(kept) < MINIMA and all(abs(q - other) > APART for other in kept):
                kept.append(q)
        if not kept:
            return float(10 ** self.grid[chi2.argmin()] - 1)
        return float(10 ** min(self._refined(q, flux, ivar) for q in kept)[1] - 1)

    def _refined(self, q: float, flux: Array, ivar: Array) -> tuple[float, float]:
        """Give chi2 and log10(1 + z) of the minimum near one of the grid."""
        fine = q + STEP * np.linspace(-2, 2, FINE)
        chi2 = _chi2(np.stack([self._at(each) for each in fine]), flux, ivar)
        i = int(np.clip(chi2.argmin(), 1, FINE - 2))
        bend = chi2[i - 1] - 2 * chi2[i] + chi2[i + 1]
        slope = chi2[i - 1] - chi2[i + 1]
        if bend <= 0:
            return float(chi2[i]), float(fine[i])
        shift = np.clip(0.5 * slope / bend, -1, 1)
        return float(chi2[i] - slope * shift / 4), float(fine[i] + shift * (fine[1] - fine[0]))


def _chi2(columns: Array, flux: Array, ivar: Array) -> Array:
    """chi2 of the best combination of columns, shape (M, K, L) -> (M,)."""
    weighted = columns * ivar
    matrix = weighted @ columns.transpose(0, 2, 1)
    vector = weighted @ flux
    scale = np.sqrt(np.maximum(np.einsum("mkk->mk", matrix), 1e-300))
    matrix = matrix / (scale[:, :, None] * scale[:, None, :]) + 1e-10 * np.eye(matrix.shape[1])
    vector = vector / scale
    solution = np.linalg.solve(matrix, vector[..., None])[..., 0]
    chi2: Array = ivar @ flux**2 - np.einsum("mk,mk->m", vector, solution)
    return chi2
