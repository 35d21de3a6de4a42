"""Simple restframe spectra for mock surveys in tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def flat_galaxies(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw a red continuum with H alpha, of random slope and strength."""
    wavelength = np.geomspace(2400, 9500, 6000).astype(np.float32)
    slope, line = rng.normal(0.5, 0.3, (n, 1)), rng.uniform(0, 3, (n, 1))
    continuum = (wavelength / 5575) ** slope
    flux = continuum + line * np.exp(-0.5 * ((wavelength - 6564.6) / 4) ** 2)
    return wavelength, flux.astype(np.float32)
