from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spectra.normalize import MIN_PIXELS, NORM_WINDOW, Grid, NormalizedSpectrum, empty, normalize
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import BadSpectrum, RawSpectrum
from pipeline.surveys.sdss.files import PIXEL_BITS
from spender_core.instrument import BOSS, DESI, SDSS

SDSS_GRID = Grid.of(SDSS())
BOSS_GRID = Grid.of(BOSS())


def assert_usable(spectrum: NormalizedSpectrum) -> None:
    assert not spectrum.quality & Quality.UNUSABLE
    assert np.isfinite(spectrum.flux).all()
    assert np.isfinite(spectrum.ivar).all()
    assert (spectrum.ivar >= 0).all()
    assert spectrum.norm > 0


def raw_spectrum(n: int = 3850, start: float = 3.5795, **arrays: Any) -> RawSpectrum:
    rng = np.random.default_rng(7)
    made = RawSpectrum(
        flux=rng.normal(5, 1, n).astype(np.float32),
        ivar=rng.uniform(0.5, 2, n).astype(np.float32),
        axis=(start + 1e-4 * np.arange(n)).astype(np.float32),
        mask=np.zeros(n, np.int64),
        masking_bits=PIXEL_BITS,
    )
    return replace(made, **arrays)


def changed(raw: RawSpectrum, name: str, index: Any, value: float) -> RawSpectrum:
    array = getattr(raw, name).copy()
    array[index] = value
    return replace(raw, **{name: array})


@dataclass
class Uneven:
    """An instrument of no regular bins."""

    wave_obs: np.ndarray
    skyline_mask: np.ndarray
    name: str = "uneven"
    loglam0: float | None = None
    log_step: float | None = None


def test_grids_take_counts_and_origin_from_the_instrument():
    assert (len(SDSS_GRID.wavelength), int(SDSS_GRID.skyline.sum())) == (3921, 660)
    assert (len(BOSS_GRID.wavelength), int(BOSS_GRID.skyline.sum())) == (4686, 1061)
    assert SDSS_GRID.wavelength.dtype == np.float32
    assert SDSS_GRID.is_log
    assert BOSS_GRID.is_log


def test_a_grid_uniform_in_wavelength_is_taken_and_one_uniform_in_no_scale_refused():
    grid = Grid.of(DESI())
    assert not grid.is_log
    assert (len(grid.wavelength), grid.start, grid.step) == (7781, 3600.0, pytest.approx(0.8))
    uneven = Uneven(wave_obs=np.array([3600.0, 3600.8, 3602.4]), skyline_mask=np.zeros(3, bool))
    with pytest.raises(ValueError, match="'uneven' are uniform neither in wavelength nor in its logarithm"):
        Grid.of(uneven)


def test_pixels_of_another_step_than_the_bins_are_refused():
    wide = replace(raw_spectrum(), axis=(3.5795 + 1.001e-4 * np.arange(3850)).astype(np.float32))
    with pytest.raises(BadSpectrum, match="its pixels are not 0.0001 apart"):
        normalize(wide, 0.1, SDSS_GRID)


def test_normalize_leaves_its_input_alone():
    raw = changed(raw_spectrum(), "flux", 5, np.nan)
    before = [getattr(raw, name).copy() for name in ("flux", "ivar", "axis", "mask")]
    normalize(raw, 0.1, SDSS_GRID)
    for name, array in zip(("flux", "ivar", "axis", "mask"), before, strict=True):
        np.testing.assert_array_equal(getattr(raw, name), array)


@pytest.mark.parametrize("bit", range(16, 32))
def test_each_pixel_level_bit_masks_its_pixel_alone(bit: int):
    clean = normalize(raw_spectrum(), 0.1, SDSS_GRID)
    masked = normalize(changed(raw_spectrum(), "mask", 10, 1 << bit), 0.1, SDSS_GRID)
    assert np.flatnonzero(masked.ivar != clean.ivar).tolist() == [25]
    assert masked.quality == Quality.GOOD


@pytest.mark.parametrize("bit", range(16))
def test_fiber_level_bits_mask_nothing_and_are_reported(bit: int):
    clean = normalize(raw_spectrum(), 0.1, SDSS_GRID)
    marked = normalize(changed(raw_spectrum(), "mask", slice(None), 1 << bit), 0.1, SDSS_GRID)
    np.testing.assert_array_equal(marked.ivar, clean.ivar)
    assert marked.quality == Quality.FIBER_MASKED


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_zeroed_and_reported(value: float):
    for name in ("flux", "ivar"):
        spectrum = normalize(changed(raw_spectrum(), name, 10, value), 0.1, SDSS_GRID)
        assert spectrum.quality == Quality.BAD_PIXELS
        assert spectrum.flux[25] == spectrum.ivar[25] == 0
        assert_usable(spectrum)


def test_a_negative_ivar_is_masked_and_reported():
    spectrum = normalize(changed(raw_spectrum(), "ivar", 10, -1.0), 0.1, SDSS_GRID)
    assert spectrum.quality == Quality.BAD_PIXELS
    assert spectrum.ivar[25] == 0
    assert spectrum.flux[25] != 0


def test_the_smallest_ivar_masks():
    limit = np.float32(1e-6)
    spectrum = normalize(changed(raw_spectrum(), "ivar", 10, float(limit)), 0.1, SDSS_GRID)
    assert spectrum.ivar[25] == 0
    spectrum = normalize(changed(raw_spectrum(), "ivar", 10, float(np.nextafter(limit, np.float32(1)))), 0.1, SDSS_GRID)
    assert spectrum.ivar[25] > 0


def test_the_median_of_an_even_number_is_the_lower_one():
    raw = raw_spectrum()
    rest = SDSS_GRID.wavelength / np.float32(1.1)
    placed = np.zeros(3921, bool)
    placed[15 : 15 + 3850] = True
    window = placed & ~SDSS_GRID.skyline & (rest > NORM_WINDOW[0]) & (rest < NORM_WINDOW[1])
    values = np.sort(raw.flux[np.flatnonzero(window) - 15])
    if len(values) % 2:
        raw = changed(raw, "ivar", np.flatnonzero(window)[0] - 15, 0.0)
        values = np.sort(raw.flux[np.flatnonzero(window)[1:] - 15])
    spectrum = normalize(raw, 0.1, SDSS_GRID)
    assert spectrum.norm == values[len(values) // 2 - 1] == torch.median(torch.from_numpy(values)).item()


@given(st.integers(-4500, 4500), st.integers(1, 5000))
def test_pixels_land_on_their_wavelength_wherever_the_file_begins(offset: int, n: int):
    start = 3.578 + offset * 1e-4
    raw = RawSpectrum(
        flux=np.arange(1, n + 1, dtype=np.float32),
        ivar=np.ones(n, np.float32),
        axis=(start + 1e-4 * np.arange(n)).astype(np.float32),
        mask=np.zeros(n, np.int64),
        masking_bits=PIXEL_BITS,
    )
    spectrum = normalize(raw, 0.1, SDSS_GRID)
    covered = [i for i in range(offset, offset + n) if 0 <= i < 3921]
    assert bool(spectrum.quality & Quality.OFF_GRID) == (not covered)
    if covered:
        expected = np.zeros(3921)
        expected[covered] = np.array(covered) - offset + 1
        np.testing.assert_allclose(spectrum.flux * spectrum.norm, expected, rtol=1e-5)
        assert bool(spectrum.quality & Quality.TRUNCATED) == (len(covered) < n)
        assert not spectrum.ivar[SDSS_GRID.skyline].any()


@pytest.mark.parametrize("z", [np.nan, np.inf, -np.inf, -1.0, -2.0, 1e300])
def test_without_a_redshift_the_data_are_kept_and_can_be_encoded(z: float):
    spectrum = normalize(raw_spectrum(), z, SDSS_GRID)
    assert spectrum.quality == Quality.NO_REDSHIFT
    assert not spectrum.quality & Quality.UNUSABLE
    assert np.isfinite(spectrum.flux).all()
    assert np.median(spectrum.flux[spectrum.ivar > 0]) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("z", "no_norm"), [(0.0, False), (0.7, False), (0.76, True), (1.0, True), (6.0, True), (-0.99, True)]
)
def test_high_redshifts_have_no_norm_window(z: float, no_norm: bool):
    spectrum = normalize(raw_spectrum(), z, SDSS_GRID)
    assert bool(spectrum.quality & Quality.NO_NORM) == no_norm
    assert_usable(spectrum)


def test_an_all_masked_spectrum_keeps_its_flux():
    raw = changed(raw_spectrum(), "ivar", slice(None), 0)
    spectrum = normalize(raw, 0.1, SDSS_GRID)
    assert (spectrum.quality, spectrum.norm) == (Quality.NO_PIXELS, 1)
    np.testing.assert_array_equal(spectrum.flux[15 : 15 + 3850], raw.flux)


def test_zero_flux_is_unusable():
    spectrum = normalize(changed(raw_spectrum(), "flux", slice(None), 0), 0.1, SDSS_GRID)
    assert spectrum.quality == Quality.ZERO_FLUX
    assert spectrum.norm == 1


def test_negative_flux_is_scaled_by_its_size():
    raw = raw_spectrum()
    spectrum = normalize(replace(raw, flux=-raw.flux), 0.1, SDSS_GRID)
    assert spectrum.quality == Quality.NEGATIVE_NORM
    assert spectrum.norm > 0
    assert np.median(spectrum.flux[spectrum.ivar > 0]) == pytest.approx(-1, rel=1e-3)


def test_few_pixels_are_reported_and_no_pixels_unusable():
    for n, bits in (
        (MIN_PIXELS, Quality.GOOD),
        (MIN_PIXELS - 1, Quality.FEW_PIXELS),
        (1, Quality.FEW_PIXELS),
        (0, Quality.NO_PIXELS),
    ):
        free = np.flatnonzero(~SDSS_GRID.skyline[15 : 15 + 3850])
        raw = changed(raw_spectrum(), "ivar", free[n:], 0.0)
        assert normalize(raw, 0.0, SDSS_GRID).quality & ~Quality.NO_NORM == bits


def test_an_empty_spectrum_is_what_the_store_is_filled_with():
    spectrum = empty(SDSS_GRID, Quality.NO_FILE)
    assert np.isnan(spectrum.flux).all()
    assert not spectrum.ivar.any()
    assert np.isnan(spectrum.norm)
    assert spectrum.quality == Quality.NO_FILE
    assert (spectrum.flux.dtype, spectrum.ivar.dtype, spectrum.flux.shape) == (np.float32, np.float32, (3921,))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-45, 1e-30, 1e-6, 1.0, 1e15, 3e38]),
    st.sampled_from([1e-45, 1e-20, 1.0, 1e20, 3e38]),
    st.floats(width=32),
)
def test_no_data_raises_and_what_is_stored_is_finite(seed: int, flux_scale: float, ivar_scale: float, z: float):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4100))
    specials = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], np.float32)
    flux = (rng.normal(0, 1, n) * flux_scale).astype(np.float64)
    ivar = (rng.uniform(0, 1, n) * ivar_scale).astype(np.float64)
    for array in (flux, ivar):
        array[rng.integers(0, n, n // 10)] = rng.choice(specials, n // 10)
    with np.errstate(over="ignore"):
        raw = raw_spectrum(n, rng.uniform(3.2, 4.0), flux=flux.astype(np.float32), ivar=ivar.astype(np.float32))
    raw = replace(raw, mask=rng.integers(0, 2**32, n) * rng.integers(0, 2, n))
    spectrum = normalize(raw, z, SDSS_GRID)
    if spectrum.quality & Quality.OFF_GRID:
        return
    assert np.isfinite(spectrum.flux).all()
    assert np.isfinite(spectrum.ivar).all()
    assert (spectrum.ivar >= 0).all()
    assert spectrum.norm > 0
    if not spectrum.quality & Quality.UNUSABLE:
        assert spectrum.ivar.any()
