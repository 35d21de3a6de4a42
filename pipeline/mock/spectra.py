"""Spectra of a survey that never was: noise-free restframes seen through an SDSS-I/II spectrograph.

Restframe spectra (of a model's decoder, or any other source) are redshifted and given sky, noise and masks;
`mock.release` writes them as the archive has them.

The noise model was read off 87 SDSS-I/II spectra of plates 266 to 2880 in DR17 (columns ivar, sky,
wdisp, model and the masks): the variance of a pixel is its photons, object and sky, times a gain that
depends on the wavelength alone, times a factor of the exposure. Its median noise lies within 15 % of
theirs at all wavelengths. Pixel-to-pixel correlations (0.08 in the files) and residuals of the sky
subtraction are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from spender_core.instrument import sky_lines
from spender_core.model import SpectrumModel

Floats = NDArray[np.floating]
Restframes = Callable[[np.random.Generator, int], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""(rng, n) -> wavelength (R,) in Angstrom, vacuum, ascending; flux (n, R), 1 around 5300-5850 Angstrom."""

Latents = Callable[[np.random.Generator, int], NDArray[np.float32]]
"""(rng, n) -> latents (n, S)."""

RUN2D = "26"
PLATE = 9901  # the first; real plates of this reduction end below 3000, so that no mock is taken for one
MJD = 51544
FIBERS = 640  # per plate
LOG_STEP = 1e-4

# Wavelength, variance over flux (object and sky), sky continuum relative to its median, and resolution:
# medians over 80 Angstrom. Units: Angstrom; 1e-17 erg s-1 cm-2 Angstrom-1; dimensionless; pixels of
# LOG_STEP.
_NODES = np.array(
    [
        (3750.0, 0.640, 0.83, 1.17),
        (3800.0, 0.524, 0.83, 1.161),
        (3900.0, 0.336, 0.63, 1.134),
        (4000.0, 0.206, 0.83, 1.110),
        (4200.0, 0.115, 0.89, 1.073),
        (4500.0, 0.0762, 0.96, 1.003),
        (5000.0, 0.0499, 0.95, 0.907),
        (5500.0, 0.0427, 1.00, 0.841),
        (5800.0, 0.0469, 1.27, 0.817),
        (5900.0, 0.0376, 1.53, 0.895),
        (6150.0, 0.0279, 1.07, 0.959),
        (6600.0, 0.0220, 0.82, 0.894),
        (7000.0, 0.0205, 0.73, 0.838),
        (7500.0, 0.0213, 0.82, 0.779),
        (8000.0, 0.0276, 0.98, 0.739),
        (8500.0, 0.0410, 0.61, 0.721),
        (9000.0, 0.0729, 0.62, 0.723),
        (9250.0, 0.1100, 0.47, 0.730),
    ]
).T
_EXPOSURE_SCATTER = 0.42  # of the log of the variance, between spectra
_SKY_LEVEL = 7.7  # median sky, 1e-17 erg s-1 cm-2 Angstrom-1
_SKY_SCATTER = 0.4  # of the log of the sky's level, between spectra
_SKY_LINE_SCALE = 6.0  # peak of a line, times its width in pixels, per unit of the line list's intensity
_SKY_LINE_CAP = 80.0  # the list's sodium lines are those of another site's sky
_FLUX_LEVEL, _FLUX_SCATTER = 18.0, 1.0  # median flux of a galaxy and the scatter of its log
_REDSHIFT_SHAPE, _REDSHIFT_SCALE = 2.0, 0.06  # gamma distribution: the main galaxy sample's median of 0.1
_LOGLAM_START = (3.5784, 3.5832)  # first pixel, uniform between
_LOGLAM_END = (3.9630, 3.9648)  # last pixel
AXIS = _LOGLAM_START[0] + LOG_STEP * np.arange(round((_LOGLAM_END[1] - _LOGLAM_START[0]) / LOG_STEP) + 1)
"""log10 of the wavelengths (Angstrom) of a plate's pixels; every spectrum has a run of them."""

_NEIGHBORS = 3  # of one of a sample, that another is drawn towards: some galaxies were observed twice

_DEAD_SPAN, _DEAD_FRACTION = (2, 60), 0.12  # pixels without data; the fraction of spectra that have them
_CAMERA_SPLIT = 6000.0  # Angstrom, where the blue camera hands over to the red
_FIBER_FLAGGED = 0.08  # fraction of spectra with a fiber-level flag over one camera's half

# SPPIXMASK bits (SDSS bitmask documentation), those that these files have.
_MANY_BAD_PIXELS = 1 << 4  # fiber-level: set on every pixel of one camera
_NEAR_BAD_PIXEL = 1 << 16
_FULL_REJECT = 1 << 18
_BRIGHT_SKY = 1 << 23
_COMBINE_REJECT = 1 << 25


@dataclass(frozen=True)
class MockSpectrum:
    """One spectrum as a spec-lite file holds it.

    loglam, flux, ivar, and_mask, or_mask, wdisp, sky, model: shape (n,), units as in the archive's
    files; model is the noise-free spectrum. z: the redshift that it was made with.
    """

    loglam: Floats
    flux: Floats
    ivar: Floats
    and_mask: NDArray[np.int32]
    or_mask: NDArray[np.int32]
    wdisp: Floats
    sky: Floats
    model: Floats
    z: float

    @property
    def sn_median(self) -> float:
        """Median of flux over its noise, over the pixels that have data."""
        good = self.ivar > 0
        return float(np.median(self.flux[good] * np.sqrt(self.ivar[good])))


def decoded(model: SpectrumModel, latents: Latents) -> Restframes:
    """Make a model's decoder the source of restframe spectra; `latents` draws what it decodes."""
    wavelength = model.wave_rest.numpy().astype(np.float32)

    def restframes(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.no_grad():
            flux = model.decode(torch.from_numpy(np.asarray(latents(rng, n), dtype=np.float32)))
        return wavelength, flux.numpy()

    return restframes


def smoothed(sample: NDArray[np.float32]) -> Latents:
    """Draw latents like those of a sample, shape (M, S), but none of them twice: a smoothed bootstrap.

    Each is one of the sample plus noise of the sample's covariance, by Silverman's bandwidth, drawn back to the
    mean so that the covariance stays (Silverman 1986, sections 4.3.2 and 6.4.1).
    """
    count, dimension = sample.shape
    bandwidth = (4 / (count * (dimension + 2))) ** (1 / (dimension + 4))
    mean = sample.mean(axis=0)
    covariance = np.atleast_2d(np.cov(sample, rowvar=False))

    def latents(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
        chosen = sample[rng.integers(count, size=n)] - mean
        noise = bandwidth * rng.multivariate_normal(np.zeros(dimension), covariance, size=n)
        drawn = mean + (chosen + noise) / np.sqrt(1 + bandwidth**2)
        return np.asarray(drawn, dtype=np.float32)

    return latents


def interpolated(sample: NDArray[np.float32]) -> Latents:
    """Draw latents between those of a sample, shape (M, S), M at least 2: each on the way from one to a near neighbor.

    For samples with few members and long tails: nothing lies further out than they do, where a decoder has never been.
    """
    distance = np.linalg.norm(sample[:, None] - sample, axis=2)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, : min(_NEIGHBORS, len(sample) - 1)]

    def latents(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
        first = rng.integers(len(sample), size=n)
        second = near[first, rng.integers(near.shape[1], size=n)]
        drawn = sample[first] + rng.uniform(size=(n, 1)) * (sample[second] - sample[first])
        return np.asarray(drawn, dtype=np.float32)

    return latents


@cache
def _sky() -> Floats:
    """Sky brightness over `AXIS`, relative to the median continuum's: airglow lines on top of the continuum."""
    wavelength = 10**AXIS
    wdisp = np.interp(wavelength, _NODES[0], _NODES[3])
    lines, intensity = (np.asarray(values) for values in sky_lines())
    visible = (lines > wavelength[0]) & (lines < wavelength[-1])
    lines, intensity = lines[visible], np.minimum(intensity[visible], _SKY_LINE_CAP)
    pixels = np.log10(wavelength[:, None] / lines) / LOG_STEP
    width = np.interp(lines, wavelength, wdisp)
    profile = _SKY_LINE_SCALE * intensity / width * np.exp(-0.5 * (pixels / width) ** 2)
    continuum = np.interp(wavelength, _NODES[0], _NODES[2])
    return np.asarray(continuum + profile.sum(axis=1) / _SKY_LEVEL)


def _bright_sky(sky: Floats, model: Floats, sigma: Floats) -> NDArray[np.bool_]:
    """SPPIXMASK BRIGHTSKY: more than flux + 10 sigma, and than 1.25 times the sky's median over 99 pixels."""
    padded = np.pad(sky, 49, mode="reflect")
    median = np.median(np.lib.stride_tricks.sliding_window_view(padded, 99), axis=1)
    return (sky > model + 10 * sigma) & (sky > 1.25 * median)


def observe(
    rng: np.random.Generator,
    wave_rest: NDArray[np.float32],
    restframe: NDArray[np.float32],
    z: float,
    level: float,
) -> MockSpectrum:
    """Make one observed spectrum.

    wave_rest, restframe: shape (R,), Angstrom and relative flux. z: redshift. level: what a restframe
    flux of 1 is in 1e-17 erg s-1 cm-2 Angstrom-1. Raises ValueError where the restframe does not cover
    the observed range.
    """
    first = round((rng.uniform(*_LOGLAM_START) - AXIS[0]) / LOG_STEP)
    last = round((rng.uniform(*_LOGLAM_END) - AXIS[0]) / LOG_STEP)
    count = last + 1 - first
    loglam = AXIS[first : last + 1]
    wavelength = 10**loglam
    if wavelength[0] < wave_rest[0] * (1 + z) or wavelength[-1] > wave_rest[-1] * (1 + z):
        raise ValueError(
            f"a restframe range of {wave_rest[0]:.0f}-{wave_rest[-1]:.0f} Angstrom does not cover redshift {z:.4f}"
        )
    model = level * np.interp(wavelength, wave_rest * (1 + z), restframe)
    wdisp = np.interp(wavelength, _NODES[0], _NODES[3])
    sky = _SKY_LEVEL * rng.lognormal(0, _SKY_SCATTER) * _sky()[first : last + 1]
    gain = np.interp(wavelength, _NODES[0], _NODES[1]) * rng.lognormal(0, _EXPOSURE_SCATTER)
    sigma = np.sqrt(gain * (sky + np.clip(model, 0, None)))
    flux = model + sigma * rng.standard_normal(count)
    ivar = sigma**-2

    bright = _bright_sky(sky, model, sigma)
    and_mask = np.where(bright & (rng.random(count) < 0.5), _BRIGHT_SKY, 0)
    or_mask = np.where(bright, _BRIGHT_SKY, 0) | np.where(rng.random(count) < 0.02, _COMBINE_REJECT, 0)
    if rng.random() < _DEAD_FRACTION:
        length = int(rng.integers(*_DEAD_SPAN))
        begin = int(rng.integers(1, count - length - 1))
        dead = slice(begin, begin + length)
        ivar[dead] = 0
        flux[dead] = np.linspace(flux[begin - 1], flux[begin + length], length)
        and_mask[dead] |= _NEAR_BAD_PIXEL | _FULL_REJECT
    if rng.random() < _FIBER_FLAGGED:
        and_mask[(wavelength > _CAMERA_SPLIT) == (rng.random() < 0.5)] |= _MANY_BAD_PIXELS
    or_mask |= and_mask
    masks = and_mask.astype(np.int32), or_mask.astype(np.int32)
    return MockSpectrum(loglam, flux, ivar, *masks, wdisp, sky, model, float(np.float32(z)))


@dataclass(frozen=True)
class MockTarget:
    """A fiber of a mock survey: its number on its plate, its position on the sky in degrees, and what it saw."""

    plate: int
    fiberid: int
    ra: float
    dec: float
    spectrum: MockSpectrum


def draw(restframes: Restframes, n: int, seed: int = 0) -> Iterator[MockTarget]:
    """Draw n fibers, plate by plate of `FIBERS`, from `PLATE` on.

    The same arguments give the same spectra, and the first ones of a longer survey are those of a shorter one.
    """
    for index in range(n):
        # one stream per spectrum, so that a spectrum depends on the seed and its own number only
        rng = np.random.default_rng((seed, index))
        wave_rest, flux = restframes(rng, 1)
        z_max = min(10 ** _LOGLAM_START[0] / float(wave_rest[0]) - 1, 0.5)
        z_min = max(10 ** (_LOGLAM_END[1] + LOG_STEP) / float(wave_rest[-1]) - 1, 0.005)
        z = float(np.clip(rng.gamma(_REDSHIFT_SHAPE, _REDSHIFT_SCALE), z_min, z_max))
        spectrum = observe(rng, wave_rest, flux[0], z, _FLUX_LEVEL * rng.lognormal(0, _FLUX_SCATTER))
        ra, dec = float(rng.uniform(0, 360)), float(np.degrees(np.arcsin(rng.uniform(-1, 1))))
        yield MockTarget(PLATE + index // FIBERS, index % FIBERS + 1, ra, dec, spectrum)
