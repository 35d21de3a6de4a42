"""Spectra that redshift estimates are judged by: mocks of unseen galaxies, these galaxies with noise added, and sky.

None is made as the training's mocks are. A galaxy is the sum of eigenspectra that the SDSS pipeline fitted to it (TFILE
and THETA of its catalog), with a parabola that takes it to the observed continuum; near its own redshift, as the fit
says nothing of what was not observed. Noise is normal with a real spectrum's standard deviations, or, three in ten
times, what real sky fibers hold, sky residuals included. Residuals of galaxies are no noise: the eigenspectra leave
lines and more of them, which are found at the galaxy's redshift.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from astropy.table import Table
from galaxies import NORM_WINDOW, Galaxies
from mocks import Noise
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from torch import Tensor

from spender_core.basis import Basis
from spender_core.instrument import SDSS
from spender_core.model import SpectrumModel

REACH = 0.1  # mocks are this close to their galaxy's redshift
Z_MAX = 0.5
RESIDUALS = 0.3  # share whose noise is a sky fiber's
SHIFT = 200  # bins that residuals are moved by at most
SKY = 1  # ZWARNING's bit of sky fibers
NORMS = (0.3, 3.0)  # of what decoders make of latents, to be a galaxy's
NEGATIVE = 0.01  # share of a noise-free spectrum's bins that may be negative
BRIGHTER = 1.2  # a galaxy's S/N over that which noise takes it to, at least

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Observed:
    """Spectra whose redshifts are known.

    flux, ivar: shape (N, L), float32. z: shape (N,), float64. sn: shape (N,), per bin, the median. who: shape (N,),
    rows of the catalog. added: shape (N,), the share of the variance that is added noise's.
    """

    flux: Tensor
    ivar: Tensor
    z: Array
    sn: Array
    who: NDArray[np.intp]
    added: Array

    def __len__(self) -> int:
        return len(self.z)

    def part(self, where: NDArray[np.bool_]) -> Observed:
        """Take some of them, shape (N,), bool."""
        at = torch.from_numpy(where)
        return Observed(self.flux[at], self.ivar[at], self.z[where], self.sn[where], self.who[where], self.added[where])


@dataclass(frozen=True)
class Noises:
    """Noise of real spectra: vectors in units of each one's median, see `mocks.Noise`, and what sky fibers hold.

    sky: shape (M, L), residuals in units of their noise, NaN where there is none.
    """

    vectors: Noise
    sky: Tensor

    @classmethod
    def of(cls, data: Path, galaxies: Galaxies, which: slice) -> Noises:
        """Take every second of the catalog's spectra, or so: those that thresholds are set by are not judged with."""
        is_sky = np.asarray(read_catalog(data)["ZWARNING"]) & SKY > 0
        rows = np.arange(len(galaxies.z))[which]
        sky = Noise.of(galaxies, rows[is_sky[rows]])
        relative = torch.where(sky.used, sky.residual / sky.sigma, torch.nan)
        return cls(Noise.of(galaxies, rows), relative)

    def _residuals(self, n: int, rng: torch.Generator) -> Tensor:
        """Draw residuals of sky fibers, moved by some bins, of either sign: shape (n, L), normal where there are none.

        Moved, so that few fibers make many spectra.
        """
        length = self.sky.shape[1]
        place = torch.arange(length) + torch.randint(-SHIFT, SHIFT + 1, (n, 1), generator=rng)
        which = torch.randint(len(self.sky), (n, 1), generator=rng)
        drawn = self.sky[which, place.clamp(0, length - 1)]
        is_there = drawn.isfinite() & (place >= 0) & (place < length)
        sign = torch.randint(2, (n, 1), generator=rng) * 2.0 - 1
        return torch.where(is_there, drawn * sign, torch.randn((n, length), generator=rng))

    def draw(self, n: int, rng: torch.Generator, residuals: float = RESIDUALS) -> tuple[Tensor, Tensor, Tensor]:
        """Draw noise: shape (n, L), its inverse variance, 0 where masked, and the bins that there are, bool.

        residuals: share of what is a sky fiber's, the others are normal.
        """
        v = self.vectors
        j = torch.randint(len(v.sigma), (n,), generator=rng)
        of_sky = torch.rand((n, 1), generator=rng) < residuals
        relative = torch.where(of_sky, self._residuals(n, rng), torch.randn(v.sigma[j].shape, generator=rng))
        used = v.used[j] & v.sigma[j].isfinite()
        # where the pipeline has no noise, flux is what it is: no weight is put on it, but encoders see it
        noise = torch.where(v.sigma[j].isfinite(), relative * v.sigma[j], v.residual[j])
        return noise, torch.where(used, v.sigma[j].square().reciprocal(), 0), v.covered[j]


class EigenGalaxies:
    """Noise-free galaxies of the catalog at any redshift.

    data: folder with sas/dr17 and templates. rows: galaxies of the catalog.
    """

    def __init__(self, data: Path, galaxies: Galaxies, rows: NDArray[np.intp]) -> None:
        catalog = read_catalog(data)
        self.log_wave = np.log10(SDSS().wave_obs.numpy().astype(np.float64))
        self.rows, self.z = rows, galaxies.z[rows].astype(np.float64)
        self._sums: list[tuple[Array, Array]] = []
        self._parabolas: list[Array] = []
        x = np.linspace(-1, 1, len(self.log_wave))
        powers = np.stack([np.ones_like(x), x, x**2])
        for row, z in zip(rows, self.z, strict=True):
            log_rest, spectra = read_eigenspectra(data / "templates" / str(catalog["TFILE"][row]).strip())
            self._sums.append((log_rest, np.asarray(catalog["THETA"][row], np.float64)[: len(spectra)] @ spectra))
            own = self._eigen(len(self._sums) - 1, float(z))
            weight = np.sqrt(galaxies.ivar[row].astype(np.float64))
            columns = np.vstack([own, powers])
            flux = np.where(weight > 0, galaxies.flux[row], 0)
            solution = np.linalg.lstsq((columns * weight).T, flux * weight, rcond=None)[0]
            self._sums[-1] = (log_rest, self._sums[-1][1] * solution[0])
            self._parabolas.append(solution[1:] @ powers)

    def _eigen(self, i: int, z: float) -> Array:
        log_rest, spectrum = self._sums[i]
        return np.interp(self.log_wave - np.log10(1 + z), log_rest, spectrum)

    def at(self, i: int, z: float) -> Array:
        """Observe the i-th of `rows` at redshift z: shape (L,), normalized as ingest does."""
        clean: Array = self._eigen(i, z) + self._parabolas[i]
        wave = 10**self.log_wave / (1 + z)
        norm = np.median(clean[(wave > NORM_WINDOW[0]) & (wave < NORM_WINDOW[1])])
        return clean / norm

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Array, Array, NDArray[np.intp]]:
        """Draw n of them, each as often: spectra, shape (n, L), redshifts, and places in `rows`."""
        which = rng.permutation(np.arange(n) % len(self.rows))
        spectra, redshifts = [], []
        for i in which:
            for _ in range(20):
                z = rng.uniform(max(self.z[i] - REACH, 0), min(self.z[i] + REACH, Z_MAX))
                clean = self.at(i, z)
                if np.isfinite(clean).all() and (clean < 0).mean() <= NEGATIVE:
                    break
            else:
                z = float(self.z[i])
                clean = self.at(i, z)
            spectra.append(clean)
            redshifts.append(z)
        return np.array(spectra), np.array(redshifts), which

    def observe(self, sn: Array, noises: Noises, seed: int) -> Observed:
        """Observe a galaxy for each S/N, shape (N,)."""
        clean, z, which = self.draw(len(sn), np.random.default_rng(seed))
        noise, ivar, covered = noises.draw(len(sn), torch.Generator().manual_seed(seed))
        spectra = torch.from_numpy(clean).float()
        scale = _level(spectra, ivar) / torch.from_numpy(sn).float()
        flux = (spectra + noise * scale[:, None]) * covered
        return Observed(flux, ivar / scale[:, None] ** 2, z, sn, self.rows[which], np.ones(len(sn)))


def read_catalog(data: Path) -> Table:
    """Read the catalog of the spectra of `read_galaxies`, row by row the same."""
    return Table.read(data / "sas/dr17/sdss/spectro/redux/specObj-dr17.fits", hdu=1)


def read_eigenspectra(file: Path) -> tuple[Array, Array]:
    """Read the galaxies' four eigenspectra: log10 of their wavelengths, shape (T,), and spectra, shape (4, T)."""
    with fits.open(file) as hdus:
        header, spectra = hdus[0].header, hdus[0].data[:4].astype(np.float64)
    return header["COEFF0"] + header["COEFF1"] * np.arange(spectra.shape[1]), spectra


def noised(
    galaxies: Galaxies, rows: NDArray[np.intp], sn: float, count: int, noises: Noises, seed: int, each: int = 0
) -> Observed:
    """Take real galaxies to a S/N by added noise: each of those that are brighter equally often, some `count` spectra.

    each: how often, if it is given.
    A galaxy's S/N is that of its smoothed flux, as the median over its bins; the noise that it has stays in it.
    """
    smooth = torch.from_numpy(np.stack([median_filter(galaxies.flux[i], 51, mode="nearest") for i in rows]))
    ivar = torch.from_numpy(galaxies.ivar[rows])
    bright = (_level(smooth, ivar) >= BRIGHTER * sn).nonzero()[:, 0]
    which = bright.repeat(each or -(-count // max(len(bright), 1)))
    noise, added, _ = noises.draw(len(which), torch.Generator().manual_seed(seed))
    own, level = ivar[which], smooth[which]
    both = (own > 0) & (added > 0)
    variance, extra = (torch.where(both, w, 1).reciprocal() for w in (own, added))
    low, high = torch.full((len(which),), 1e-4), torch.full((len(which),), 1e4)
    for _ in range(40):  # the factor of the noise at which the median S/N is right
        scale = (low * high).sqrt()
        total = torch.where(both, (variance + extra * scale[:, None] ** 2).reciprocal(), 0)
        is_faint = _level(level, total) < sn
        low, high = torch.where(is_faint, low, scale), torch.where(is_faint, scale, high)
    total = torch.where(both, (variance + extra * scale[:, None] ** 2).reciprocal(), 0)
    share = torch.where(both, extra * scale[:, None] ** 2 * total, torch.nan).nanmedian(dim=1).values
    flux = torch.from_numpy(galaxies.flux[rows])[which] + noise * scale[:, None]
    at = rows[which.numpy()]
    return Observed(
        torch.where(torch.from_numpy(galaxies.covered[at]), flux, 0),
        total,
        galaxies.z[at].astype(np.float64),
        np.full(len(at), sn),
        at,
        share.double().numpy(),
    )


@torch.no_grad()
def decoded(model: SpectrumModel, basis: Basis, sn: Array, noises: Noises, seed: int) -> tuple[Observed, Tensor]:
    """Observe what a decoder makes of latents drawn from its prior, for each S/N, shape (N,); and these latents.

    Redshifts are uniform. Normalized by their noise-free norm; latents of spectra without one, or negative ones, which
    ingest would not take for galaxies, are left out.
    """
    n, rng = len(sn), torch.Generator().manual_seed(seed)
    factor = torch.linalg.cholesky(basis.prior.covariance)
    z = Z_MAX * torch.rand(n, generator=rng, dtype=torch.float64)
    inside = (model.wave_rest > NORM_WINDOW[0]) & (model.wave_rest < NORM_WINDOW[1])
    drawn = basis.prior.mean + torch.randn((4 * n, len(factor)), generator=rng, dtype=torch.float64) @ factor.T
    rest = model.decode(drawn.float())
    norm = rest[:, inside].median(dim=1).values
    is_galaxy = (norm > NORMS[0]) & (norm < NORMS[1]) & ((rest < 0).float().mean(dim=1) <= NEGATIVE)
    chosen = is_galaxy.nonzero()[:n, 0]
    assert len(chosen) == n, "the prior is of spectra that are no galaxies"
    s, rest = drawn[chosen], rest[chosen] / norm[chosen, None]
    clean, valid = model.decoder.observe(rest, model.encoder.instrument, z.float())
    noise, ivar, covered = noises.draw(n, rng)
    ivar = ivar * valid
    scale = (_level(clean, ivar) / torch.from_numpy(sn).float())[:, None]
    flux = torch.where(valid & covered, clean + noise * scale, 0)
    return Observed(flux, ivar / scale**2, z.numpy(), sn, np.full(n, -1), np.ones(n)), s


def _level(flux: Tensor, ivar: Tensor) -> Tensor:
    """Median of |flux| over its noise where there is weight, shape (N,)."""
    ratio = torch.where(ivar > 0, flux.abs() * ivar.sqrt(), torch.nan)
    level: Tensor = ratio.nanmedian(dim=1).values
    return level
