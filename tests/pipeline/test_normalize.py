from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits as astropy_fits
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fits import RawSpectrum, read_spec
from pipeline.normalize import MIN_PIXELS, NORM_WINDOW, Grid, NormalizedSpectrum, empty, normalize
from pipeline.quality import Quality
from spender_core.instrument import BOSS, DESI, SDSS

SDSS_GRID = Grid.of(SDSS())
BOSS_GRID = Grid.of(BOSS())

# Files that upstream's prepare_spectrum gets wrong or cannot read: everything else must come out equal, bit for bit.
FIBER_BITS = "upstream masks good pixels for fiber-level and_mask bits"
NO_WINDOW = "no valid pixel in restframe 5300-5850 A: upstream divides by zero"
NEGATIVE = "upstream divides by a negative norm"
EXCEPTIONS = {
    "0266-51602-0526": FIBER_BITS,
    "0266-51630-0174": FIBER_BITS,
    "0411-51873-0101": FIBER_BITS,
    "0446-51899-0173": FIBER_BITS,  # those bits leave upstream no norm either
    "0675-52590-0105": FIBER_BITS,  # those bits leave upstream no norm either
    "0995-52731-0137": FIBER_BITS,
    "1229-52723-0306": FIBER_BITS,
    "1722-53852-0175": FIBER_BITS,
    "2515-54180-0377": FIBER_BITS,
    "0285-51930-0378": NO_WINDOW,
    "1944-53385-0159": NO_WINDOW,
    "1944-53385-0536": NO_WINDOW,
    "1944-53385-0552": NO_WINDOW,
    "2297-53738-0095": NO_WINDOW,
    "2342-53742-0023": NO_WINDOW,
    "2341-53738-0604": NEGATIVE,
}
NO_WINDOW_ON_BOSS_GRID = {
    "3655-55240-0635": NO_WINDOW,
    "3655-55240-0714": NO_WINDOW,
    "3655-55240-0864": NO_WINDOW,
    "5328-55982-0218": NO_WINDOW,
    "7301-56746-0454": NO_WINDOW,
    "9162-58040-0016": NO_WINDOW,
}
# Every BOSS and eBOSS file overruns the red end of the SDSS grid: upstream raises, we cut.
NO_WINDOW_ON_SDSS_GRID = {"3655-55240-0262": NO_WINDOW, **NO_WINDOW_ON_BOSS_GRID}

Prepare = Callable[[Path], tuple[Any, ...]]


@pytest.fixture(scope="module")
def upstream() -> dict[str, Prepare]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spender.data import sdss

    def quiet(instrument: Any) -> Prepare:
        def prepare(path: Path) -> tuple[Any, ...]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # from memory: upstream never closes the files that it opens
                return tuple(instrument.prepare_spectrum(io.BytesIO(path.read_bytes())))

        return prepare

    return {"sdss": quiet(sdss.SDSS), "boss": quiet(sdss.BOSS)}


def files(mirror: Path, survey: str) -> dict[str, Path]:
    return {path.stem.removeprefix("spec-"): path for path in sorted(mirror.glob(f"{survey}/**/spec-*.fits"))}


def ours(path: Path, grid: Grid) -> NormalizedSpectrum:
    raw = read_spec(path.read_bytes())
    assert raw.z is not None
    return normalize(raw, raw.z, grid)


def equal(spectrum: NormalizedSpectrum, theirs: tuple[Any, ...]) -> bool:
    """Whether flux, ivar and norm are the same float32 numbers, bit for bit."""
    flux, ivar, norm = theirs[:3]
    assert flux.dtype == ivar.dtype == torch.float32
    same = spectrum.flux.tobytes() == flux.numpy().tobytes() and spectrum.ivar.tobytes() == ivar.numpy().tobytes()
    return same and bool(spectrum.norm == norm.item())


def assert_usable(spectrum: NormalizedSpectrum) -> None:
    assert not spectrum.quality & Quality.UNUSABLE
    assert np.isfinite(spectrum.flux).all()
    assert np.isfinite(spectrum.ivar).all()
    assert (spectrum.ivar >= 0).all()
    assert spectrum.norm > 0


def edit(source: Path, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write a copy of a spec file with its co-added table changed."""
    with astropy_fits.open(source) as hdus:
        table = astropy_fits.BinTableHDU(change(np.array(hdus[1].data)), header=hdus[1].header)
        astropy_fits.HDUList([hdus[0].copy(), table, hdus[2].copy()]).writeto(target)
    return target


def column(table: np.ndarray, name: str) -> str:
    return next(n for n in table.dtype.names or () if n.lower() == name)


# --- against upstream ---


def test_sdss_files_equal_upstream_bit_for_bit_but_for_the_listed_exceptions(
    mirror: Path, upstream: dict[str, Prepare]
):
    found = files(mirror, "sdss")
    different = {name for name, path in found.items() if not equal(ours(path, SDSS_GRID), upstream["sdss"](path))}
    assert different == found.keys() & EXCEPTIONS.keys()
    for name in found.keys() - different:
        assert ours(found[name], SDSS_GRID).quality == Quality.GOOD


def test_boss_files_equal_upstream_bit_for_bit_on_the_boss_grid(mirror: Path, upstream: dict[str, Prepare]):
    found = files(mirror, "eboss")
    different = {name for name, path in found.items() if not equal(ours(path, BOSS_GRID), upstream["boss"](path))}
    assert different == found.keys() & NO_WINDOW_ON_BOSS_GRID.keys()
    for name in found.keys() - different:
        assert ours(found[name], BOSS_GRID).quality == Quality.GOOD


def test_boss_files_on_the_sdss_grid_equal_upstream_once_cut_by_hand(
    mirror: Path, upstream: dict[str, Prepare], tmp_path: Path
):
    red_end = np.log10(SDSS_GRID.wavelength[-1]) + 0.5e-4
    found = files(mirror, "eboss")
    different = set()
    for name, path in found.items():
        with pytest.raises(RuntimeError):
            upstream["sdss"](path)
        cut = edit(path, tmp_path / path.name, lambda t: t[t[column(t, "loglam")] < red_end])
        spectrum = ours(path, SDSS_GRID)
        assert spectrum.quality & Quality.TRUNCATED
        assert_usable(spectrum)
        if not equal(spectrum, upstream["sdss"](cut)):
            different.add(name)
    assert different == found.keys() & NO_WINDOW_ON_SDSS_GRID.keys()


def test_files_with_fiber_level_bits_equal_upstream_without_those_bits(
    mirror: Path, upstream: dict[str, Prepare], tmp_path: Path
):
    def clear(table: np.ndarray) -> np.ndarray:
        table[column(table, "and_mask")] &= ~0xFFFF
        return table

    for name, path in files(mirror, "sdss").items():
        spectrum = ours(path, SDSS_GRID)
        assert bool(spectrum.quality & Quality.FIBER_MASKED) == (EXCEPTIONS.get(name) == FIBER_BITS)
        if EXCEPTIONS.get(name) == FIBER_BITS:
            assert equal(spectrum, upstream["sdss"](edit(path, tmp_path / path.name, clear)))
            assert_usable(spectrum)


@pytest.mark.parametrize("reason", [NO_WINDOW, NEGATIVE])
def test_files_without_a_positive_norm_get_a_scale_that_keeps_their_flux(
    mirror: Path, upstream: dict[str, Prepare], reason: str
):
    bit = {NO_WINDOW: Quality.NO_NORM, NEGATIVE: Quality.NEGATIVE_NORM}[reason]
    for name, path in files(mirror, "sdss").items():
        if EXCEPTIONS.get(name) != reason:
            continue
        spectrum = ours(path, SDSS_GRID)
        assert spectrum.quality & bit
        assert_usable(spectrum)
        flux, _, norm = upstream["sdss"](path)[:3]
        assert norm <= 0
        if reason == NEGATIVE:
            np.testing.assert_allclose(spectrum.flux * spectrum.norm, flux.numpy() * norm.item(), rtol=1e-5, atol=1e-6)
        valid = spectrum.ivar > 0
        scaled = torch.from_numpy(spectrum.flux[valid])
        assert torch.median(scaled.abs() if spectrum.quality & Quality.NEGATIVE_NORM else scaled) == 1


def test_the_dr18_files_that_ppxf_ships_equal_upstream(upstream: dict[str, Prepare]):
    spec = importlib.util.find_spec("ppxf")
    if spec is None or spec.origin is None:
        pytest.skip("ppxf is not installed (extra `demo`)")
    paths = sorted(Path(spec.origin).parent.glob("spectra/NGC*_SDSS_DR18.fits"))
    assert len(paths) == 2
    for path in paths:
        assert equal(ours(path, SDSS_GRID), upstream["sdss"](path))


# --- odd files ---


def test_an_all_masked_file_has_no_pixels(shared_data: Path):
    spectrum = ours(shared_data / "odd" / "all-zero-ivar-spec-0269-51581-0003.fits", SDSS_GRID)
    assert spectrum.quality == Quality.NO_PIXELS | Quality.TRUNCATED
    assert spectrum.norm == 1
    assert not spectrum.ivar.any()


def test_a_short_spectrum_outside_the_window_is_scaled_by_its_median(shared_data: Path):
    spectrum = ours(shared_data / "odd" / "short-710px-spec-5400-56308-0220.fits", BOSS_GRID)
    assert spectrum.quality == Quality.FEW_PIXELS | Quality.NO_NORM
    assert_usable(spectrum)
    assert np.count_nonzero(spectrum.flux) == 710


def test_a_full_file_equals_upstream(shared_data: Path, upstream: dict[str, Prepare]):
    path = shared_data / "odd" / "full-with-exposures-spec-0528-52022-0137.fits"
    assert equal(ours(path, SDSS_GRID), upstream["sdss"](path))


# --- made spectra ---


def raw_spectrum(n: int = 3850, start: float = 3.5795, **arrays: Any) -> RawSpectrum:
    rng = np.random.default_rng(7)
    made = RawSpectrum(
        flux=rng.normal(5, 1, n).astype(np.float32),
        ivar=rng.uniform(0.5, 2, n).astype(np.float32),
        loglam=(start + 1e-4 * np.arange(n)).astype(np.float32),
        and_mask=np.zeros(n, np.int64),
    )
    return replace(made, **arrays)


def changed(raw: RawSpectrum, name: str, index: Any, value: float) -> RawSpectrum:
    array = getattr(raw, name).copy()
    array[index] = value
    return replace(raw, **{name: array})


def test_grids_take_counts_and_origin_from_the_instrument():
    assert (len(SDSS_GRID.wavelength), int(SDSS_GRID.skyline.sum())) == (3921, 660)
    assert (len(BOSS_GRID.wavelength), int(BOSS_GRID.skyline.sum())) == (4686, 1061)
    assert SDSS_GRID.wavelength.dtype == np.float32
    with pytest.raises(ValueError, match="desi"):
        Grid.of(DESI())


def test_normalize_leaves_its_input_alone():
    raw = changed(raw_spectrum(), "flux", 5, np.nan)
    before = [getattr(raw, name).copy() for name in ("flux", "ivar", "loglam", "and_mask")]
    normalize(raw, 0.1, SDSS_GRID)
    for name, array in zip(("flux", "ivar", "loglam", "and_mask"), before, strict=True):
        np.testing.assert_array_equal(getattr(raw, name), array)


@pytest.mark.parametrize("bit", range(16, 32))
def test_each_pixel_level_bit_masks_its_pixel_alone(bit: int):
    clean = normalize(raw_spectrum(), 0.1, SDSS_GRID)
    masked = normalize(changed(raw_spectrum(), "and_mask", 10, 1 << bit), 0.1, SDSS_GRID)
    assert np.flatnonzero(masked.ivar != clean.ivar).tolist() == [25]
    assert masked.quality == Quality.GOOD


@pytest.mark.parametrize("bit", range(16))
def test_fiber_level_bits_mask_nothing_and_are_reported(bit: int):
    clean = normalize(raw_spectrum(), 0.1, SDSS_GRID)
    marked = normalize(changed(raw_spectrum(), "and_mask", slice(None), 1 << bit), 0.1, SDSS_GRID)
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
        loglam=(start + 1e-4 * np.arange(n)).astype(np.float32),
        and_mask=np.zeros(n, np.int64),
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
def test_without_a_redshift_the_data_are_kept_and_the_spectrum_is_unusable(z: float):
    spectrum = normalize(raw_spectrum(), z, SDSS_GRID)
    assert spectrum.quality == Quality.NO_REDSHIFT
    assert spectrum.quality & Quality.UNUSABLE
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
    raw = replace(raw, and_mask=rng.integers(0, 2**32, n) * rng.integers(0, 2, n))
    spectrum = normalize(raw, z, SDSS_GRID)
    if spectrum.quality & Quality.OFF_GRID:
        return
    assert np.isfinite(spectrum.flux).all()
    assert np.isfinite(spectrum.ivar).all()
    assert (spectrum.ivar >= 0).all()
    assert spectrum.norm > 0
    if not spectrum.quality & Quality.UNUSABLE:
        assert spectrum.ivar.any()
