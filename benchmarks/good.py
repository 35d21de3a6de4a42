"""What the recommended selection, `Run.good`, keeps of mock spectra in and out of a model's domain.

    python benchmarks/good.py [--data ../shared/data] [--spectra 300] [--model sdss-galaxies]

Mocks of each kind are eigenspectra of the SDSS pipeline (below `templates`) seen through an SDSS-I/II spectrograph:
galaxies within the domain, and stars, quasars, galaxies beyond its redshifts and ones with too little signal. "good":
class, redshift and S/N of the catalog are right; "taken for galaxies": the catalog says GALAXY of all of them, as where
a model has no domain, so that chi2 alone decides. The limit on chi2 per pixel, `MOST_CHI2_N`, is chosen here: the whole
number at which the share that is kept of galaxies within exceeds that of quasars taken for galaxies most. The last line
is the 5 % that may be kept of mocks outside, by a catalog that is right, over what was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from astropy.io import fits
from galaxies import fit_components, read_components, read_galaxies, rest_grid
from numpy.typing import NDArray

from pipeline.compute.stages.infer import encode_spectra
from pipeline.mock.spectra import MockSpectrum, observe
from pipeline.planning.domain import Domain
from pipeline.results.quality import MOST_CHI2_N, NOT_GOOD
from pipeline.spectra.normalize import Grid, normalize
from pipeline.spectra.raw import RawSpectrum
from spender_core import SDSS, load_model
from spender_core.weights import read_extras

MOST_KEPT = 0.05
SEED = 5

LEVEL = (15.0, 0.8)

Drawn = tuple[NDArray[np.float64], NDArray[np.float64], float]
"""Restframe wavelengths and flux, shape (R,), and a redshift."""


@dataclass(frozen=True)
class Kind:
    """Mocks of one kind. level: median and scatter, in the logarithm, of flux in 1e-17 erg s-1 cm-2 Angstrom-1."""

    name: str
    object_class: str
    inside: bool
    drawn: Iterator[Drawn]
    level: tuple[float, float] = LEVEL


def eigenspectra(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the wavelengths, shape (R,), and the eigenspectra, shape (K, R), of a template file."""
    with fits.open(file) as hdus:
        header, data = hdus[0].header, np.asarray(hdus[0].data, np.float64)
    return 10 ** (header["COEFF0"] + header["COEFF1"] * np.arange(data.shape[1])), data


def galaxies(data: Path, rng: np.random.Generator, low: float, high: float) -> Iterator[Drawn]:
    """Draw galaxies between pairs of those that the real clean ones are fitted by, at redshifts of a range."""
    components, real = read_components(data), read_galaxies(data)
    own = fit_components(real, components)[0][real.clean]
    wave = rest_grid().astype(np.float64)
    while True:
        first, second = own[rng.integers(len(own), size=2)]
        share = rng.uniform()
        yield wave, (share * first + (1 - share) * second) @ components, rng.uniform(low, high)


def stars(data: Path, rng: np.random.Generator) -> Iterator[Drawn]:
    """Draw stars of all types."""
    wave, templates = eigenspectra(data / "templates" / "spEigenStar-55734.fits")
    while True:
        yield wave, templates[rng.integers(len(templates))], rng.normal(0, 3e-4)


def quasars(data: Path, rng: np.random.Generator) -> Iterator[Drawn]:
    """Draw quasars: the first eigenspectrum, and a little of the others."""
    wave, (first, *others) = eigenspectra(data / "templates" / "spEigenQSO-55732.fits")
    while True:
        shares = rng.normal(0, 0.2, len(others))
        yield wave, first + shares @ np.array(others), rng.uniform(0.1, 3.0)


def mocks(kind: Kind, n: int, rng: np.random.Generator) -> list[MockSpectrum]:
    """Observe n mocks of a kind; spectra that are not positive, or do not cover the grid, are drawn again."""
    found: list[MockSpectrum] = []
    for wave, flux, z in kind.drawn:
        seen = (wave * (1 + z) > 3900) & (wave * (1 + z) < 9000)
        middle = float(np.median(flux[seen])) if seen.any() else 0.0
        if middle <= 0:
            continue
        level = kind.level[0] * rng.lognormal(0, kind.level[1]) / middle
        try:
            found.append(observe(rng, wave.astype(np.float32), flux.astype(np.float32), z, level))
        except ValueError:
            continue
        if len(found) == n:
            return found
    raise AssertionError("the source of mocks has ended")


def encoded(spectra: list[MockSpectrum], model: str) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    """Return the quality bits, but for that of the domain, and chi2 per pixel, as a run would have them."""
    grid = Grid.of(SDSS())
    raw = [
        RawSpectrum(
            each.flux.astype(np.float32),
            each.ivar.astype(np.float32),
            each.loglam.astype(np.float32),
            each.and_mask.astype(np.int64),
            masking_bits=~0xFFFF,
        )
        for each in spectra
    ]
    made = [normalize(one, each.z, grid) for one, each in zip(raw, spectra, strict=True)]
    loaded, _ = load_model(model, SDSS())
    result = encode_spectra(
        loaded,
        np.stack([each.flux for each in made]),
        np.stack([each.ivar for each in made]),
        np.array([each.z for each in spectra], np.float32),
        np.array([each.quality for each in made], np.uint32),
        outputs=("latents", "chi2", "n_pixels"),
        micro_batch=32,
        device=torch.device("cpu"),
    )
    n = result.outputs["n_pixels"]
    return result.quality, np.where(n > 0, result.outputs["chi2"] / np.maximum(n, 1), np.nan)


def main() -> None:
    """Print what is kept of each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--spectra", type=int, default=300)
    parser.add_argument("--model", default="sdss-galaxies")
    args = parser.parse_args()
    rng = np.random.default_rng(SEED)
    domain = Domain.from_dict(read_extras(args.model)["domain"])
    low, high = domain.z
    kinds = [
        Kind("galaxies within", "GALAXY", True, galaxies(args.data, rng, max(low, 0.02), high)),
        Kind("stars", "STAR", False, stars(args.data, rng)),
        Kind("quasars", "QSO", False, quasars(args.data, rng)),
        Kind("galaxies beyond", "GALAXY", False, galaxies(args.data, rng, high + 0.01, high + 0.15)),
        Kind("galaxies, mere noise", "GALAXY", False, galaxies(args.data, rng, 0.02, high), (0.15, 0.5)),
    ]
    kept_outside, chi2 = [], {}
    print("kind                   good  taken for galaxies  median chi2/n  90 %  98 %")
    for kind in kinds:
        spectra = mocks(kind, args.spectra, rng)
        bits, chi2_n = encoded(spectra, args.model)
        rows = {"class": kind.object_class, "z": [each.z for each in spectra]}
        outside = domain.outside(pd.DataFrame({**rows, "sn_median": [each.sn_median for each in spectra]}))
        fits_well = (chi2_n <= MOST_CHI2_N) & ((bits & np.uint32(NOT_GOOD)) == 0)
        good = fits_well & ~outside
        percentiles = np.nanpercentile(chi2_n, (50, 90, 98))
        shown = "  ".join(f"{value:6.2f}" for value in percentiles)
        print(f"{kind.name:22} {np.mean(good):5.1%}  {np.mean(fits_well):18.1%}  {shown}")
        chi2[kind.name] = chi2_n
        if not kind.inside:
            kept_outside.append(good)
    kept = float(np.mean(np.concatenate(kept_outside)))
    gains = {
        limit: np.mean(chi2["galaxies within"] <= limit) - np.mean(chi2["quasars"] <= limit) for limit in range(1, 31)
    }
    print(f"limit: {max(gains, key=lambda each: gains[each])} by these mocks, {MOST_CHI2_N:g} in use")
    print(f"kept outside of the domain: {kept:.1%}")
    print(f"ratio: {min(MOST_KEPT / kept if kept else 99, 99):.2f}")


if __name__ == "__main__":
    main()
