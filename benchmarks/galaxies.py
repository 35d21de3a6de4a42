"""The real galaxies that the demo model is trained and judged on, and mock galaxies made from eigenspectra.

Reads a folder of the Science Archive Server's layout with a specObj catalog, and the pipeline's galaxy eigenspectra
(spEigenGal-*.fits): idlspec2d fits every galaxy with four of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits as astropy_fits
from astropy.table import Table
from numpy.typing import NDArray

from pipeline.spectra.normalize import Grid, normalize
from pipeline.surveys.sdss.files import read_spec
from spender_core.dataset import Batch, Split
from spender_core.instrument import SDSS
from spender_core.resample import resample, spacing, within

Array = NDArray[np.float32]
# restframe of the demo model: the SDSS grid moved to z = 0.5 at its blue end, the eigenspectra's last bins at its red
LOG_REST = (3.4016, 3.9680)
N_COMPONENT = 4
NORM_WINDOW = (5300.0, 5850.0)


def rest_grid() -> Array:
    """Restframe wavelengths of the demo model, shape (R,), Angstrom, steps of 1e-4 in log10."""
    start, stop = LOG_REST
    return (10 ** np.linspace(start, stop, round((stop - start) / 1e-4) + 1)).astype(np.float32)


def read_components(folder: Path, name: str = "spEigenGal-53724.fits") -> Array:
    """Read the four galaxy eigenspectra on the restframe grid, shape (4, R)."""
    with astropy_fits.open(folder / "templates" / name) as hdus:
        header, data = hdus[0].header, hdus[0].data[:N_COMPONENT].astype(np.float64)
    loglam = header["COEFF0"] + header["COEFF1"] * np.arange(data.shape[1])
    grid = np.log10(rest_grid().astype(np.float64))
    return np.array([np.interp(grid, loglam, row) for row in data], dtype=np.float32)


@dataclass(frozen=True)
class Galaxies:
    """Spectra of the catalog on the SDSS grid.

    flux, ivar: shape (N, L), normalized, 0 weight where masked. sigma: shape (N, L), noise of the normalized flux, also
    under sky lines, NaN where the pipeline has none. residual: shape (N, L), normalized flux less the archive's own
    best model, 0 where the spectrum does not reach. covered: shape (N, L). z, sn: shape (N,). objects: shape (N,), one
    number per object, the same where it was observed again. names: plate-mjd-fiber.
    clean: CLASS GALAXY, ZWARNING 0, z < 0.5, a positive norm. legacy: SDSS-I/II spectrograph.
    """

    flux: Array
    ivar: Array
    sigma: Array
    residual: Array
    covered: NDArray[np.bool_]
    z: Array
    sn: Array
    objects: NDArray[np.intp]
    names: list[str]
    classes: list[str]
    clean: NDArray[np.bool_]
    legacy: NDArray[np.bool_]


def read_galaxies(folder: Path) -> Galaxies:
    """Read every spectrum of the catalog below `folder`, cut to the SDSS grid."""
    release = folder / "sas" / "dr17"
    catalog = Table.read(release / "sdss/spectro/redux/specObj-dr17.fits", hdu=1)
    instrument = SDSS()
    wave, sky = instrument.wave_obs.numpy(), instrument.skyline_mask.numpy()
    grid = Grid(wave, 3.578, 1e-4, sky)
    open_sky = Grid(wave, 3.578, 1e-4, np.zeros_like(sky))
    rows = []
    for row in catalog:
        run2d = str(row["RUN2D"]).strip()
        survey = "sdss" if run2d.isdigit() else "eboss"
        name = f"spec-{row['PLATE']:04d}-{row['MJD']}-{row['FIBERID']:04d}"
        path = release / survey / "spectro/redux" / run2d / "spectra/lite" / f"{row['PLATE']:04d}" / f"{name}.fits"
        data = path.read_bytes()
        raw = read_spec(data)
        spectrum, unmasked = normalize(raw, float(row["Z"]), grid), normalize(raw, float(row["Z"]), open_sky)
        with astropy_fits.open(path) as hdus:
            archive = hdus[1].data
            model = np.asarray(archive.field([c.lower() for c in archive.columns.names].index("model")), np.float32)
        first = round((float(raw.axis[0]) - 3.578) / 1e-4)
        place = np.arange(len(raw.flux)) + first
        on_grid = (place >= 0) & (place < len(wave))
        residual = np.zeros(len(wave), np.float32)
        residual[place[on_grid]] = (raw.flux - model)[on_grid] / spectrum.norm
        covered = np.isin(np.arange(len(wave)), place)
        with np.errstate(divide="ignore"):
            sigma = unmasked.norm / spectrum.norm / np.sqrt(unmasked.ivar)
        clean = (
            str(row["CLASS"]).strip() == "GALAXY"
            and row["ZWARNING"] == 0
            and row["Z"] < 0.5
            and spectrum.norm > 0
            and bool((spectrum.ivar > 0).any())
        )
        subclass = "" if np.ma.is_masked(row["SUBCLASS"]) else str(row["SUBCLASS"]).strip()
        rows.append(
            (
                spectrum.flux,
                spectrum.ivar,
                np.where(np.isfinite(sigma), sigma, np.nan).astype(np.float32),
                residual,
                covered,
                float(row["Z"]),
                float(row["SN_MEDIAN_ALL"]),
                name.removeprefix("spec-"),
                subclass or "GALAXY",
                clean,
                survey == "sdss",
            )
        )
    flux, ivar, sigma, residual, covered, z, sn, names, classes, clean, legacy = zip(*rows, strict=True)
    return Galaxies(
        np.array(flux),
        np.array(ivar),
        np.array(sigma),
        np.array(residual),
        np.array(covered),
        np.array(z, np.float32),
        np.array(sn, np.float32),
        same_objects(np.array(catalog["PLUG_RA"]), np.array(catalog["PLUG_DEC"])),
        list(names),
        list(classes),
        np.array(clean),
        np.array(legacy),
    )


def same_objects(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.intp]:
    """Label each spectrum by the first one of its object: positions, shape (N,), degrees, within 2 arcsec are one.

    That is the archive's own measure of a repeated observation (SPECPRIMARY).
    """
    sky = SkyCoord(ra, dec, unit="deg")
    near = sky[:, None].separation(sky[None]) < 2 * units.arcsec
    return np.argmax(near, axis=1)


def observed_components(components: Array, z: float, wave_obs: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Components at redshift z on the observed grid, shape (L, 4), and the bins they cover, shape (L,)."""
    wave = rest_grid().astype(np.float64) * (1 + z)
    matrix = np.array([np.interp(wave_obs, wave, row) for row in components.astype(np.float64)]).T
    return matrix, (wave_obs > wave[0]) & (wave_obs < wave[-1])


def fit_components(galaxies: Galaxies, components: Array) -> tuple[NDArray[np.float64], Array]:
    """Weighted least squares of the components in the observed frame.

    Returns coefficients, shape (N, 4), and the fits, shape (N, L), 0 where the components do not reach.
    """
    wave_obs = SDSS().wave_obs.numpy().astype(np.float64)
    coefficients, fitted = [], []
    for flux, ivar, z in zip(galaxies.flux, galaxies.ivar, galaxies.z, strict=True):
        matrix, valid = observed_components(components, float(z), wave_obs)
        weight = ivar * valid
        normal = (matrix * weight[:, None]).T @ matrix
        solution = np.linalg.lstsq(normal, (matrix * weight[:, None]).T @ np.nan_to_num(flux), rcond=None)[0]
        coefficients.append(solution)
        fitted.append(np.where(valid, matrix @ solution, 0))
    return np.array(coefficients), np.array(fitted, np.float32)


@dataclass(frozen=True)
class Basis:
    """Latents of component spectra: s = (c - center) @ whiten, whitened over the galaxies' own coefficients.

    restframe = offset + s @ response; offset shape (R,), response shape (4, R).
    """

    center: Array
    whiten: Array
    offset: Array
    response: Array

    @classmethod
    def of(cls, coefficients: NDArray[np.float64], components: Array) -> Basis:
        """Center and whiten coefficients, shape (N, 4), with outliers held to five robust standard deviations."""
        center = np.median(coefficients, axis=0)
        spread = 1.4826 * np.median(np.abs(coefficients - center), axis=0)
        held = np.clip((coefficients - center) / spread, -5, 5) * spread
        values, vectors = np.linalg.eigh(held.T @ held / len(held))
        whiten = vectors / np.sqrt(values)
        response = np.linalg.inv(whiten) @ components
        parts = (center, whiten, center @ components, response)
        return cls(*(np.asarray(part, np.float32) for part in parts))

    def latents(self, coefficients: NDArray[np.float64]) -> Array:
        """Latents of coefficients, shape (N, 4) -> (N, 4)."""
        return np.asarray((coefficients - self.center) @ self.whiten, np.float32)


class MockGalaxies:
    """Mock spectra, drawn afresh in every epoch: component spectra with the noise of real files.

    Latents come from a smoothed distribution: a galaxy's, scattered by `SMOOTHING` standard deviations in all four
    directions, so that no single galaxy is repeated. Redshifts are scattered too, a quarter is uniform in (0, 0.5).
    Noise is a real spectrum's: either Gaussian with its sigma, or its own residuals with a random sign; always the
    latter where it has no sigma (masked pixels, whose flux the encoder sees all the same).
    """

    SMOOTHING = 0.5

    def __init__(self, galaxies: Galaxies, basis: Basis, latents: Array, steps: int, seed: int = 0) -> None:
        self._basis, self._latents, self._steps, self._seed = basis, latents, steps, seed
        self.identity = f"mocks of {len(latents)} galaxies, seed {seed}"
        usable = galaxies.clean & galaxies.legacy
        self._z = galaxies.z[usable]
        tensors = (galaxies.ivar, galaxies.sigma, galaxies.residual, galaxies.covered)
        self._ivar, self._sigma, self._residual, self._covered = (torch.from_numpy(a[usable]) for a in tensors)
        self._wave_obs = SDSS().wave_obs
        self._wave_rest = torch.from_numpy(rest_grid())
        self._spacing = spacing(self._wave_rest)

    def steps(self, split: Split, batch_size: int) -> int:
        """Batches per epoch, whatever their size; an eighth as many to validate."""
        return self._steps if split == "train" else max(self._steps // 8, 1)

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield freshly drawn batches; the validation ones are the same in every epoch."""
        rng = np.random.default_rng((self._seed, epoch, 0) if split == "train" else (self._seed, 0, 1))
        for i in range(self.steps(split, batch_size)):
            batch = self.draw(rng, batch_size)
            if i >= begin:
                yield batch

    def draw(self, rng: np.random.Generator, n: int) -> Batch:
        """Draw n mock spectra with their known latents."""
        parts: list[Batch] = []
        while sum(len(part.spec) for part in parts) < n:
            parts.append(self._draw(rng, n + n // 8 + 1))
        spec, w, z, s = (torch.cat([getattr(part, name) for part in parts])[:n] for name in ("spec", "w", "z", "s"))
        return Batch(spec, w, z, s=s)

    def _draw_parameters(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        around = self._latents[rng.integers(len(self._latents), size=n)]
        reach = self.SMOOTHING * (1 + 0.2 * np.linalg.norm(around, axis=1, keepdims=True))
        s = around + reach * rng.standard_normal(around.shape)
        near = np.exp(np.log(rng.choice(self._z, n) + 0.01) + 0.5 * rng.standard_normal(n)) - 0.01
        z = np.where(rng.random(n) < 0.25, 0.5 * rng.random(n), near)
        return s.astype(np.float32), np.clip(z, 0, 0.5).astype(np.float32)

    def _draw(self, rng: np.random.Generator, n: int) -> Batch:
        """Draw n mock spectra, fewer those without a norm."""
        parameters, z_drawn = self._draw_parameters(rng, n)
        s, z = torch.from_numpy(parameters), torch.from_numpy(z_drawn)
        rest = torch.from_numpy(self._basis.offset) + s @ torch.from_numpy(self._basis.response)
        clean = resample(rest, self._wave_rest, self._wave_obs, z, self._spacing)
        clean = torch.where(within(self._wave_rest, self._wave_obs, z), clean, 0)
        j = torch.from_numpy(rng.integers(len(self._ivar), size=n))
        scale = torch.from_numpy(np.exp(0.35 * rng.standard_normal((n, 1))).astype(np.float32))
        sign = torch.from_numpy(rng.choice(np.array([-1, 1], np.float32), (n, 1)))
        gauss = self._sigma[j] * torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        own = torch.from_numpy(rng.random((n, 1)) < 0.3) | gauss.isnan()
        noise = torch.where(own, self._residual[j] * sign, gauss) * scale
        spec = (clean + noise) * self._covered[j]
        w = self._ivar[j] / scale**2
        rest_wave = self._wave_obs / (1 + z[:, None])
        window = (w > 0) & (rest_wave > NORM_WINDOW[0]) & (rest_wave < NORM_WINDOW[1])
        norm = torch.where(window, spec, torch.nan).nanmedian(dim=1).values
        ok = norm > 0.2  # a mock that noise or scatter left without a norm is not a spectrum of the sample
        spec, w, norm = spec[ok] / norm[ok, None], w[ok] * norm[ok, None] ** 2, norm[ok]
        whiten, center = torch.from_numpy(self._basis.whiten), torch.from_numpy(self._basis.center)
        coefficients = (s[ok] @ torch.linalg.inv(whiten) + center) / norm[:, None]
        known = (coefficients - center) @ whiten
        return Batch(spec, w, z[ok], s=known)
