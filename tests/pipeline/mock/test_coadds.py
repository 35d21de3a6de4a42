"""A mock release of DESI: laid out as the real one, the same for the same seed, of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.catalog import targets
from pipeline.mock.coadds import write_coadds, write_zall
from pipeline.surveys.desi.survey import DESI
from tests import desi_release


def layout(file: Path) -> list[tuple[str, tuple[int, ...], int | None]]:
    """Give name, size without the number of targets, and BITPIX of every image."""
    with fits.open(file) as hdus:
        return [
            (hdu.name, (hdu.shape[0],) if hdu.name.endswith("WAVELENGTH") else hdu.shape[1:], hdu.header["BITPIX"])
            for hdu in hdus
            if isinstance(hdu, fits.ImageHDU)
        ]


def test_files_are_laid_out_as_the_real_ones(shared_data: Path, tmp_path: Path) -> None:
    real = desi_release.release_of(shared_data)
    (made,) = write_coadds(tmp_path, desi_release.restframes, 3)
    assert layout(made.coadd) == layout(real / desi_release.COADD)
    for file, other in ((made.coadd, desi_release.COADD), (made.redrock, desi_release.REDROCK)):
        with fits.open(file) as hdus, fits.open(real / other) as theirs:
            names = [hdu.name for hdu in theirs if hdu.name != "TSNR2"]
            assert [hdu.name for hdu in hdus] == names
            for keyword in ("SPGRP", "SPGRPVAL", "HPXPIXEL", "HPXNSIDE", "HPXNEST", "SURVEY", "PROGRAM"):
                assert type(hdus[0].header[keyword]) is type(theirs[0].header[keyword])
            for name in ("FIBERMAP", "REDSHIFTS"):
                if name in names:
                    formats = {column.name: column.format for column in theirs[name].columns}
                    own = [column for column in hdus[name].columns if column.name != "FILLER"]
                    assert all(formats[column.name] == column.format for column in own)
    with fits.open(made.coadd) as hdus, fits.open(real / desi_release.COADD) as theirs:
        assert abs(hdus["FIBERMAP"].header["NAXIS1"] - theirs["FIBERMAP"].header["NAXIS1"]) < 20
        for arm in ("B", "R", "Z"):
            wavelength = hdus[f"{arm}_WAVELENGTH"].data
            np.testing.assert_allclose(wavelength, theirs[f"{arm}_WAVELENGTH"].data, atol=1e-6)


def test_a_smaller_release_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    small = write_coadds(tmp_path / "small", desi_release.restframes, 2, 5, per_file=2)
    large = write_coadds(tmp_path / "large", desi_release.restframes, 3, 5, per_file=2)
    assert [len(each.rows) for each in large] == [2, 1]
    assert small[0].coadd.read_bytes() == large[0].coadd.read_bytes()
    assert small[0].redrock.read_bytes() == large[0].redrock.read_bytes()


@pytest.mark.parametrize("name", ["z", "zwarning", "class", "ra", "dec"])
def test_the_catalog_says_what_was_drawn(tmp_path: Path, name: str) -> None:
    made = write_coadds(tmp_path, desi_release.restframes, 5, per_file=2)
    found = targets.read_targets(str(write_zall(made, tmp_path)), survey=DESI)
    column = {"z": "Z", "zwarning": "ZWARN", "class": "SPECTYPE", "ra": "TARGET_RA", "dec": "TARGET_DEC"}[name]
    expected = [row[column] for each in made for row in each.rows]
    assert found[name].tolist() == (np.float32(expected).tolist() if name == "z" else expected)


def test_spectra_have_noise_of_their_ivar(tmp_path: Path) -> None:
    (made,) = write_coadds(tmp_path, lambda rng, n: (np.array([2000.0, 9900.0]), np.ones((n, 2), np.float32)), 20)
    with fits.open(made.coadd) as hdus:
        for arm in ("B", "R", "Z"):
            good = hdus[f"{arm}_MASK"].data == 0
            flux, ivar = hdus[f"{arm}_FLUX"].data, hdus[f"{arm}_IVAR"].data
            level = np.median(flux, axis=1, keepdims=True)
            assert np.std(((flux - level) * np.sqrt(ivar))[good]) == pytest.approx(1, abs=0.05)
            assert 0.0005 < 1 - good.mean() < 0.005
