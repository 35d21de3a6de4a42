"""For tests of DESI: the real coadd, restframes and a checkpoint for mock releases, and what a range reader gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.surveys.desi.parts import parts
from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.instrument import DESI

KEY = "special-dark-27247-39089837499744649"
"""The real target."""

FOLDER = "spectro/redux/iron/healpix/special/dark/272/27247"
COADD, REDROCK = f"{FOLDER}/coadd-special-dark-27247.fits", f"{FOLDER}/redrock-special-dark-27247.fits"


def release_of(shared_data: Path) -> Path:
    """Give the release root of the real coadd."""
    return shared_data / "desi" / "dr1"


def restframes(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw smooth continua with an emission line, 2200 to 9900 Angstrom."""
    wavelength = np.arange(2200.0, 9900.0, 2.0, dtype=np.float32)
    flux = 1 + 0.3 * np.sin(wavelength / 400 + rng.uniform(0, 6, (n, 1)))
    return wavelength, (flux + rng.gamma(1, 2, (n, 1)) * np.exp(-0.5 * ((wavelength - 6565) / 5) ** 2)).astype("f4")


def random_checkpoint(folder: Path, n_latent: int = 4) -> Path:
    """Save an untrained autoencoder on the DESI grid, once per folder."""
    file = folder / "random-desi.pt"
    if not file.exists():
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = SpectrumAutoencoder(DESI(), torch.linspace(2000, 9824, 700), n_latent=n_latent)
        torch.save({"model": [model.state_dict()], "losses": None, "instruments": ["desi"]}, file)
    return file


def in_parts(data: bytes, most: int = 60) -> tuple[bytes, list[tuple[int, int]]]:
    """Read a coadd's bytes range by range as an archive does; gives what remains of the file, and the ranges."""
    reading, asked = parts(), []
    wanted = next(reading)
    for _ in range(most):
        asked.append(wanted)
        try:
            wanted = reading.send(data[slice(*wanted)])
        except StopIteration as end:
            return bytes(end.value), asked
    raise AssertionError(f"more than {most} ranges are asked for: {asked}")
