"""A spectrum from its file onto the survey's wavelength grid, masked and scaled.

The recipe of paper I (arXiv:2211.07890), in the arithmetic of upstream's `prepare_spectrum`: float32
throughout, so that both give the same bits wherever upstream gives a usable result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import BadSpectrum, RawSpectrum

NORM_WINDOW = (5300.0, 5850.0)
"""Restframe Angstrom, exclusive: nearly free of lines and observed out to z ~ 0.5 (paper I)."""

MIN_IVAR = 1e-6
"""Inverse variances up to this, in (1e-17 erg s-1 cm-2 Angstrom-1)^-2, count as masked (paper I)."""

MIN_PIXELS = 1000
"""Fewer weighted pixels set FEW_PIXELS: a third of what an SDSS spectrum usually has (about 3,100)."""


class _Instrument(Protocol):
    """What `Grid.of` needs of a spender_core.Instrument, so that this module does not import torch."""

    name: str
    loglam0: float | None
    log_step: float | None

    @property
    def wave_obs(self) -> ArrayLike: ...

    @property
    def skyline_mask(self) -> ArrayLike: ...


@dataclass(frozen=True)
class Grid:
    """A wavelength grid of equal steps, and its sky lines.

    wavelength: shape (L,), Angstrom, in the precision of the instrument's, which decides the edges of the norm's window
    as upstream has them; start, step: of the first bin and between bins, in log10 of Angstrom, or in Angstrom where
    `is_log` is False; skyline: shape (L,), bool, True where the bin is masked for every spectrum.
    """

    wavelength: NDArray[np.floating]
    start: float
    step: float
    skyline: NDArray[np.bool_]
    is_log: bool = True

    @classmethod
    def of(cls, instrument: _Instrument) -> Self:
        """Take the grid of an instrument. Raises ValueError for one whose bins are uniform in neither scale."""
        wavelength = np.asarray(instrument.wave_obs)
        exact = wavelength.astype(np.float64)
        skyline = np.asarray(instrument.skyline_mask, dtype=np.bool_)
        if instrument.loglam0 is not None and instrument.log_step is not None:
            return cls(wavelength, instrument.loglam0, instrument.log_step, skyline)
        step = (exact[-1] - exact[0]) / (len(exact) - 1)
        if not np.allclose(np.diff(exact), step, rtol=1e-3, atol=0):
            raise ValueError(
                f"the bins of instrument {instrument.name!r} are uniform neither in wavelength nor in its logarithm"
            )
        return cls(wavelength, float(exact[0]), float(step), skyline, is_log=False)


@dataclass(frozen=True)
class NormalizedSpectrum:
    """A spectrum on a grid.

    flux: shape (L,), float32, divided by `norm`, 0 where the file has no pixel; ivar: shape (L,), float32,
    inverse variance of that flux, 0 where masked; norm: 1e-17 erg s-1 cm-2 Angstrom-1; quality: its bits.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    norm: np.float32
    quality: Quality


def empty(grid: Grid, quality: Quality) -> NormalizedSpectrum:
    """Return what is stored for a missing spectrum: flux NaN, ivar 0, norm NaN, as the stores' fill values."""
    size = len(grid.wavelength)
    return NormalizedSpectrum(
        np.full(size, np.nan, np.float32), np.zeros(size, np.float32), np.float32(np.nan), quality
    )


def normalize(raw: RawSpectrum, z: float, grid: Grid) -> NormalizedSpectrum:
    """Mask a spectrum, place it on the grid and scale it by its median flux in `NORM_WINDOW`.

    raw: as its survey reads it, its pixels in the scale of the grid's bins. z: the target's redshift, used in float32.
    What is wrong with a spectrum is said by its quality bits. Raises BadSpectrum where its pixels have another step
    than the grid, ValueError where the scales differ.
    Masked are pixels with a masking bit or ivar <= `MIN_IVAR`, and the grid's sky lines; their
    flux is kept. Pixels go to the nearest bin by the place of the first one; those beyond either end of the grid
    are cut. The median is the lower one of an even number. Without a valid pixel in the window the scale is
    the median of all valid flux (NO_NORM); where a median is not positive, that of the absolute valid flux
    (NEGATIVE_NORM); without a redshift, the median of all valid flux.
    """
    with np.errstate(all="ignore"):
        placed = _place(raw, grid)
        if placed.quality & Quality.OFF_GRID:
            return placed
        flux, ivar = placed.flux, placed.ivar
        norm, bits = scale_of(flux, ivar > 0, z, grid)
        scaled = NormalizedSpectrum(flux / norm, ivar * (norm * norm), norm, placed.quality | bits)
        return _count(_zero_overflow(scaled))


def _place(raw: RawSpectrum, grid: Grid) -> NormalizedSpectrum:
    """Put masked flux and ivar on the grid, in the file's units (norm 1)."""
    if raw.is_log != grid.is_log:
        raise ValueError("pixels and bins have different scales: one is uniform in log10, the other is not")
    size = len(grid.wavelength)
    quality = Quality.GOOD
    flux, ivar = raw.flux.copy(), raw.ivar.copy()
    broken = ~(np.isfinite(flux) & np.isfinite(ivar))
    if (broken | (ivar < 0)).any():
        quality |= Quality.BAD_PIXELS
    flux[broken] = 0
    ivar[broken | ((raw.mask & raw.masking_bits) != 0) | (ivar <= np.float32(MIN_IVAR))] = 0
    if (raw.mask & ~raw.masking_bits).any():
        quality |= Quality.FIBER_MASKED

    span = float(raw.axis[-1]) - float(raw.axis[0]) - (len(flux) - 1) * grid.step
    if abs(span) >= grid.step / 2:
        raise BadSpectrum(f"its pixels are not {grid.step:g} apart, as the bins of the grid are")
    # float32 as upstream: the scalar keeps the file's precision, so that both round alike
    offset = np.around((raw.axis[0] - grid.start) / grid.step)
    if not -len(flux) < offset < size:
        return empty(grid, quality | Quality.OFF_GRID)
    start = int(offset)
    first, last = max(start, 0), min(start + len(flux), size)
    if first != start or last != start + len(flux):
        quality |= Quality.TRUNCATED
    placed = NormalizedSpectrum(np.zeros(size, np.float32), np.zeros(size, np.float32), np.float32(1), quality)
    placed.flux[first:last] = flux[first - start : last - start]
    placed.ivar[first:last] = ivar[first - start : last - start]
    placed.ivar[grid.skyline] = 0
    return placed


def _lower_median(values: NDArray[np.float32]) -> np.float32:
    """Return the median, the lower of the two middle values of an even number, as torch.median has it."""
    middle = (len(values) - 1) // 2
    return np.float32(np.partition(values, middle)[middle])


def scale_of(flux: NDArray[np.float32], valid: NDArray[np.bool_], z: float, grid: Grid) -> tuple[np.float32, Quality]:
    """Return the flux that a spectrum is divided by, and the bits that say how it was found.

    flux, valid: shape (L,), valid where a pixel has weight. z: its redshift, used in float32.
    """
    bits = Quality.GOOD
    selected = valid
    redshift = np.float32(z)
    if not (np.isfinite(redshift) and redshift > -1):
        bits |= Quality.NO_REDSHIFT
    else:
        restframe = grid.wavelength / (np.float32(1) + redshift)
        selected = valid & (restframe > np.float32(NORM_WINDOW[0])) & (restframe < np.float32(NORM_WINDOW[1]))
    if not valid.any():
        return np.float32(1), bits | Quality.NO_PIXELS
    if not selected.any():
        bits |= Quality.NO_NORM
        selected = valid
    nonzero = valid & (flux != 0)
    if not nonzero.any():
        return np.float32(1), bits | Quality.ZERO_FLUX
    norm = _lower_median(flux[selected])
    if norm > 0:
        return norm, bits
    return _lower_median(np.abs(flux[nonzero])), bits | Quality.NEGATIVE_NORM


def _zero_overflow(spectrum: NormalizedSpectrum) -> NormalizedSpectrum:
    """Zero what left the range of float32 when it was scaled (absurd flux or norm)."""
    broken = ~(np.isfinite(spectrum.flux) & np.isfinite(spectrum.ivar))
    if not broken.any():
        return spectrum
    spectrum.flux[broken] = 0
    spectrum.ivar[broken] = 0
    return replace(spectrum, quality=spectrum.quality | Quality.BAD_PIXELS)


def _count(spectrum: NormalizedSpectrum) -> NormalizedSpectrum:
    pixels = int(np.count_nonzero(spectrum.ivar))
    bits = Quality.NO_PIXELS if pixels == 0 else Quality.FEW_PIXELS if pixels < MIN_PIXELS else Quality.GOOD
    return replace(spectrum, quality=spectrum.quality | bits)
