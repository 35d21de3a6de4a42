from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits as astropy_fits

from pipeline.spectra.normalize import Grid, NormalizedSpectrum, normalize
from pipeline.spectra.quality import Quality
from pipeline.surveys.sdss.files import read_spec
from spender_core.instrument import BOSS, SDSS

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
