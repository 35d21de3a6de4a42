"""Make the quasars' and stars' templates of spender_core/data from the SDSS pipeline's eigenspectra.

    python benchmarks/make_templates.py --data ../shared/data --output spender_core/data

Quasars: the four components of spEigenQSO-55732, as they are. Stars: of the 123 spectra of spEigenStar-55734 those that
make the others, each times a parabola in log10(wavelength) of sum, best: the worst fitted is added next.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

STARS = 24
OPTICAL = (3.58, 3.965)  # log10 of the wavelengths where stars are compared

Array = NDArray[np.float64]


def read(file: Path) -> tuple[float, Array, list[str]]:
    """Read eigenspectra: log10 of the first wavelength, spectra in steps of 1e-4, names."""
    with fits.open(file) as hdus:
        header, data = hdus[0].header, hdus[0].data.astype(np.float64)
    names = [str(header[key]) for key in header if key.startswith("NAME")]
    return float(header["COEFF0"]), data, names


def misfit(star: Array, by: Array) -> float:
    """Share of a star's variance that another, times a free factor, and a parabola leave."""
    x = np.linspace(-1, 1, len(star))
    columns = np.stack([by, np.ones_like(x), x, x**2], axis=1)
    left = star - columns @ np.linalg.lstsq(columns, star, rcond=None)[0]
    return float(left.var() / star.var())


def chosen(stars: Array, count: int) -> list[int]:
    """Choose stars: first the one that fits the others best, then always the one that is fitted worst."""
    every = np.array([[misfit(star, by) for by in stars] for star in stars])
    kept = [int(np.median(every, axis=0).argmin())]
    while len(kept) < count:
        kept.append(int(every[:, kept].min(axis=1).argmax()))
    return sorted(kept)


def main() -> None:
    """Write both files and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with templates/")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    start, quasars, _ = read(options.data / "templates" / "spEigenQSO-55732.fits")
    first, stars, names = read(options.data / "templates" / "spEigenStar-55734.fits")
    stars = stars / np.median(np.abs(stars), axis=1, keepdims=True)
    begin, end = (round((edge - first) / 1e-4) for edge in OPTICAL)
    kept = chosen(stars[:, begin:end], STARS)
    print("stars:", ", ".join(names[i] for i in kept))
    quasars /= quasars.std(axis=1, keepdims=True)
    for kind, begin_at, flux in (("qso", start, quasars), ("star", first, stars[kept])):
        file = options.output / f"templates-{kind}.npz"
        np.savez_compressed(file, start=begin_at, flux=flux.astype(np.float32))
        print(f"{file}: {flux.shape}, {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
