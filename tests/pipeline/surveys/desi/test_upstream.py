"""Prepared as upstream's `DESI.prepare_spectra` prepares, bit for bit, where that is right."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from pipeline.mock.coadds import write_coadds
from pipeline.spectra.normalize import Grid, normalize
from pipeline.spectra.quality import Quality
from pipeline.surveys.desi.coadd import read_coadd
from spender_core.instrument import DESI
from tests import desi_release

GRID = Grid.of(DESI())


@pytest.fixture(scope="module")
def upstream() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spender.data.desi import DESI as UPSTREAM  # noqa: N814 - both are called so
    return UPSTREAM


def prepared(upstream: Any, coadd: Path, spectype: str = "GALAXY") -> dict[int, tuple[Any, ...]]:
    """Prepare a file; gives flux, ivar, z, norm and z_err by TARGETID of those that upstream keeps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec, w, z, targetid, norm, z_err = upstream.prepare_spectra(str(coadd), spectype=spectype)
        gc.collect()  # upstream never closes the files that it opens
    return dict(zip(targetid.tolist(), zip(spec.numpy(), w.numpy(), z, norm.numpy(), z_err, strict=True), strict=True))


def test_the_real_file_is_prepared_as_upstream_does(upstream: Any, shared_data: Path, tmp_path: Path) -> None:
    files = [desi_release.release_of(shared_data) / path for path in (desi_release.COADD, desi_release.REDROCK)]
    for file in files:
        with fits.open(file) as hdus:  # upstream looks for the target's bits by the name that surveys before main have
            hdus["FIBERMAP"].columns.change_name("DESI_TARGET", "SPECIAL_DESI_TARGET")
            hdus.writeto(tmp_path / file.name)
    ((targetid, (spec, w, z, norm, _)),) = prepared(upstream, tmp_path / files[0].name).items()
    found = normalize(read_coadd(files[0].read_bytes()).spectrum(targetid), float(z), GRID)
    np.testing.assert_array_equal(found.flux, spec)
    np.testing.assert_array_equal(found.ivar, w)
    assert found.norm == norm


@pytest.mark.parametrize("packed", [False, True])
def test_mock_files_are_prepared_as_upstream_does(upstream: Any, tmp_path: Path, packed: bool) -> None:
    (made,) = write_coadds(tmp_path, desi_release.restframes, 12, survey="sv3", packed=packed)
    coadd = read_coadd(made.coadd.read_bytes())
    rows = {row["TARGETID"]: row for row in made.rows}
    for targetid, (spec, w, z, norm, z_err) in prepared(upstream, made.coadd).items():
        assert (z, z_err) == (np.float32(rows[targetid]["Z"]), np.float32(rows[targetid]["ZERR"]))
        found = normalize(coadd.spectrum(targetid), float(z), GRID)
        assert found.quality == Quality.GOOD
        np.testing.assert_array_equal(found.flux, spec)
        np.testing.assert_array_equal(found.ivar, w)
        assert found.norm == norm


def test_where_upstream_has_no_scale_we_have_one(upstream: Any, tmp_path: Path) -> None:
    """No pixel in the norm's window: upstream drops the spectrum. A negative median: it turns the spectrum around."""
    (made,) = write_coadds(tmp_path, desi_release.restframes, 2, survey="sv3")
    with fits.open(made.coadd) as hdus, fits.open(made.redrock) as redrock:
        for arm in ("B", "R", "Z"):
            hdus[f"{arm}_FLUX"].data[1] -= 100
        redrock["REDSHIFTS"].data["Z"] = [0.799, 0.1]  # the window is at 9535 Angstrom and above, all of it sky lines
        redrock["REDSHIFTS"].data["ZWARN"], redrock["REDSHIFTS"].data["SPECTYPE"] = 0, "GALAXY"
        hdus["FIBERMAP"].data["COADD_FIBERSTATUS"] = 0
        for arm in ("R", "Z"):
            hdus[f"{arm}_MASK"].data[0, hdus[f"{arm}_WAVELENGTH"].data > 9500] = 1
        hdus.writeto(tmp_path / "coadd.fits")
        redrock.writeto(tmp_path / "redrock.fits")
    ((targetid, (_, _, _, norm, _)),) = prepared(upstream, tmp_path / "coadd.fits").items()
    assert targetid == made.rows[1]["TARGETID"]
    assert norm < 0
    coadd = read_coadd((tmp_path / "coadd.fits").read_bytes())
    ours = [normalize(coadd.spectrum(row["TARGETID"]), z, GRID) for row, z in zip(made.rows, (0.799, 0.1), strict=True)]
    assert [each.quality for each in ours] == [Quality.NO_NORM, Quality.NEGATIVE_NORM]
    assert all(each.norm > 0 and each.ivar.any() for each in ours)
