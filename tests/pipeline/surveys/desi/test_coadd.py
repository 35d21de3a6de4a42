from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.spectra.normalize import Grid, normalize
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.desi.coadd import ARMS, BINS, START, STEP, read_coadd
from spender_core.instrument import DESI
from tests import desi_release

TARGETID = 39089837499744649
GRID = Grid.of(DESI())
Change = Callable[[fits.HDUList], object]


@pytest.fixture(scope="module")
def real(shared_data: Path) -> bytes:
    return (desi_release.release_of(shared_data) / desi_release.COADD).read_bytes()


def changed(data: bytes, change: Change) -> bytes:
    with fits.open(io.BytesIO(data)) as hdus:
        copies = fits.HDUList([hdu.copy() for hdu in hdus])
    change(copies)
    buffer = io.BytesIO()
    copies.writeto(buffer)
    return buffer.getvalue()


def test_the_arms_become_one_spectrum_on_the_grid(real: bytes) -> None:
    """Pixel by pixel, in float64."""
    found = read_coadd(real).spectrum(TARGETID)
    weight, total = np.zeros(BINS), np.zeros(BINS)
    with fits.open(io.BytesIO(real)) as hdus:
        for arm in ARMS:
            first = round((hdus[f"{arm}_WAVELENGTH"].data[0] - START) / STEP)
            for i, (flux, ivar) in enumerate(
                zip(hdus[f"{arm}_FLUX"].data[0], hdus[f"{arm}_IVAR"].data[0], strict=True)
            ):
                weight[first + i] += ivar
                total[first + i] += float(ivar) * flux
    np.testing.assert_allclose(found.ivar, weight, rtol=1e-6)
    np.testing.assert_allclose(found.flux, total / weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.axis, GRID.wavelength, atol=1e-4)
    assert not found.is_log
    assert not found.mask.any()
    assert found.ids == {"healpix": 27247, "targetid": TARGETID}


def test_a_masked_pixel_is_left_out_and_in_an_overlap_the_other_arms_remains(real: bytes) -> None:
    def change(hdus: fits.HDUList) -> None:
        hdus["B_MASK"].data[0, 100] = 4  # of one arm alone
        hdus["B_MASK"].data[0, 2710] = 4  # the tenth bin of the overlap with R
        hdus["B_MASK"].data[0, 2711] = 4 | 1
        hdus["R_MASK"].data[0, 11] = 4 | 2
        hdus["R_FLUX"].data[0, 11] = np.nan  # what a mask hides is of no concern

    plain, found = read_coadd(real), read_coadd(changed(real, change))
    before, after = plain.spectrum(TARGETID), found.spectrum(TARGETID)
    assert (after.ivar[100], after.flux[100], after.mask[100]) == (0, 0, 4)
    assert (after.ivar[2710], after.flux[2710]) == (plain.arms[1].ivar[0, 10], plain.arms[1].flux[0, 10])
    assert after.mask[2710] == 0
    assert (after.ivar[2711], after.flux[2711], after.mask[2711]) == (0, 0, 4)
    others = np.delete(np.arange(BINS), [100, 2710, 2711])
    np.testing.assert_array_equal(before.flux[others], after.flux[others])
    assert normalize(after, 0.007, GRID).quality == Quality.GOOD


@pytest.mark.parametrize(("name", "value"), [("FLUX", np.nan), ("IVAR", np.inf), ("IVAR", -1.0)])
def test_a_pixel_without_a_valid_number_is_reported(real: bytes, name: str, value: float) -> None:
    def change(hdus: fits.HDUList) -> None:
        hdus[f"R_{name}"].data[0, 500] = value

    spectrum = normalize(read_coadd(changed(real, change)).spectrum(TARGETID), 0.007, GRID)
    assert spectrum.quality == Quality.BAD_PIXELS
    assert (spectrum.flux[2700 + 500], spectrum.ivar[2700 + 500]) == (0, 0)


def test_a_flag_of_the_fiber_is_a_bit_and_masks_no_pixel(real: bytes) -> None:
    def change(hdus: fits.HDUList) -> None:
        hdus["FIBERMAP"].data["COADD_FIBERSTATUS"] = 1 << 9

    plain = normalize(read_coadd(real).spectrum(TARGETID), 0.007, GRID)
    flagged = normalize(read_coadd(changed(real, change)).spectrum(TARGETID), 0.007, GRID)
    assert (plain.quality, flagged.quality) == (Quality.GOOD, Quality.FIBER_MASKED)
    np.testing.assert_array_equal(plain.ivar, flagged.ivar)


def test_an_arm_may_be_missing(real: bytes) -> None:
    def change(hdus: fits.HDUList) -> None:
        for name in ("WAVELENGTH", "FLUX", "IVAR", "MASK", "RESOLUTION"):
            del hdus[f"Z_{name}"]

    data = changed(real, change)
    found = read_coadd(data).spectrum(TARGETID)
    assert len(found.flux) == 2700 + 2326
    assert normalize(found, 0.007, GRID).quality == Quality.GOOD
    np.testing.assert_array_equal(read_coadd(desi_release.in_parts(data)[0]).spectrum(TARGETID).flux, found.flux)


def test_targets_are_found_by_their_number(real: bytes) -> None:
    with pytest.raises(BadSpectrum, match="the coadd has no TARGETID 7"):
        read_coadd(real).spectrum(7)


def without(name: str) -> Change:
    return lambda hdus: hdus.pop(hdus.index_of(name))


def moved(hdus: fits.HDUList) -> None:
    hdus["R_WAVELENGTH"].data += 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("FIBERMAP"), "the file has no table FIBERMAP"),
        (without("R_MASK"), "the file has no R_MASK"),
        (without("B_WAVELENGTH"), "the file has no B_WAVELENGTH"),
        (moved, "R_WAVELENGTH does not lie on bins of 0.8 from 3600 Angstrom on"),
        (lambda hdus: hdus["FIBERMAP"].columns.change_name("TARGETID", "ID"), "column targetid is missing"),
    ],
)
def test_what_is_no_coadd_is_refused(real: bytes, change: Change, message: str) -> None:
    with pytest.raises(BadSpectrum, match=message):
        read_coadd(changed(real, change))


@pytest.mark.parametrize("data", [b"", b"<html>", b"SIMPLE  =" + b" " * 3000])
def test_what_is_no_fits_file_is_refused(data: bytes) -> None:
    with pytest.raises(BadSpectrum):
        read_coadd(data)
