"""Starlight of mock galaxies: stars and populations of MaStar, with the ultraviolet of galaxy eigenspectra.

The templates are those of MaNGA's analysis pipeline (`pip download --no-deps sdss-mangadap==4.5.0`, unpacked; BSD-3,
SDSS-IV data): 65 clusters of MaStar stars and 54 populations. They begin at 3632 Angstrom. Below, a spectrum goes on as
the galaxy eigenspectra of the SDSS pipeline (spEigenGal-55740) do that follow it in the blue.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from galaxies import Array, rest_grid

SEAM = 3640.0  # Angstrom, where the templates begin, and a little
FOLLOWED = (SEAM, 5200.0)  # Angstrom, where eigenspectra follow a template to be continued
JOINT = (SEAM, 3760.0)  # Angstrom, where both must be level
NORM = (5300.0, 5850.0)


@dataclass(frozen=True)
class Stars:
    """Templates on the restframe grid of the demo models.

    stars: shape (65, R); populations: shape (54, R); both of mean 1 within `NORM`, 0 below the seam.
    follow: shape (R, 4), what gives a spectrum's coefficients of the eigenspectra. ultraviolet: shape (4, R), the
    eigenspectra, 0 above the seam. joint: shape (R,), weights of the mean near the seam. level: shape (4,), the
    eigenspectra's own mean there.
    """

    stars: Array
    populations: Array
    follow: Array
    ultraviolet: Array
    joint: Array
    level: Array


def read_stars(templates: Path, eigenspectra: Path) -> Stars:
    """Read the folders `mastarhc_v2` and `mastar_ssp_v1.0` below `templates`, and the file of eigenspectra."""
    wave = rest_grid().astype(np.float64)
    return Stars(
        _templates(templates / "mastarhc_v2", wave),
        _templates(templates / "mastar_ssp_v1.0", wave),
        *_continuation(eigenspectra, wave),
    )


def _templates(folder: Path, wave: np.ndarray) -> Array:
    rows = []
    for file in sorted(folder.glob("*.fits.gz")):
        with fits.open(file) as hdus:
            header, flux = hdus[0].header, hdus[0].data.astype(np.float64)
        loglam = header["CRVAL1"] + header["CDELT1"] * np.arange(len(flux))
        row = np.interp(np.log10(wave), loglam, flux, left=0, right=0)
        row[wave < SEAM] = 0
        rows.append(row / row[(wave > NORM[0]) & (wave < NORM[1])].mean())
    if not rows:
        raise FileNotFoundError(f"{folder} has no templates: unpack the wheel of sdss-mangadap 4.5.0 there")
    return np.array(rows, np.float32)


def _continuation(eigenspectra: Path, wave: np.ndarray) -> tuple[Array, Array, Array, Array]:
    with fits.open(eigenspectra) as hdus:
        header, data = hdus[0].header, hdus[0].data[:4].astype(np.float64)
    loglam = header["COEFF0"] + header["COEFF1"] * np.arange(data.shape[1])
    own = np.array([np.interp(np.log10(wave), loglam, row) for row in data])
    own /= np.abs(own).mean(axis=1, keepdims=True)
    inside = (wave > FOLLOWED[0]) & (wave < FOLLOWED[1])
    part = own[:, inside]
    gram = part @ part.T
    # a small ridge: what the blue hardly tells of stays small in the ultraviolet
    solve = np.linalg.solve(gram + 1e-3 * np.trace(gram) / 4 * np.eye(4), part)
    follow = np.zeros((len(wave), 4))
    follow[inside] = solve.T
    joint = ((wave > JOINT[0]) & (wave < JOINT[1])).astype(np.float64)
    joint /= joint.sum()
    ultraviolet = np.where(wave < SEAM, own, 0)
    parts = (follow, ultraviolet, joint, own @ joint)
    return tuple(np.asarray(p, np.float32) for p in parts)  # type: ignore[return-value]
