from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.archive.reader import Archive
from pipeline.archive.source import Source
from pipeline.errors import ConfigError
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import NoSpectrum, RawSpectrum
from pipeline.surveys.desi.layouts import LAYOUTS
from tests import desi_release

HEALPIX = LAYOUTS["desi-healpix"]


def spectrum(root: Path, key: str) -> RawSpectrum | NoSpectrum:
    (found,) = Archive(Source(str(root), retries=0), HEALPIX).spectra([key])
    return found


def test_paths_are_those_of_the_data_model() -> None:
    assert HEALPIX.path("main-bright-997-5") == (
        "spectro/redux/iron/healpix/main/bright/9/997/coadd-main-bright-997.fits"
    )
    assert HEALPIX.path(desi_release.KEY) == desi_release.COADD
    assert HEALPIX.redshifts is not None
    assert HEALPIX.redshifts.path(desi_release.KEY) == desi_release.REDROCK
    with pytest.raises(ConfigError):
        HEALPIX.path("26/266-51602-1")


def place(shared_data: Path, root: Path, path: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True)
    file.write_bytes((desi_release.release_of(shared_data) / desi_release.COADD).read_bytes())


def test_the_early_release_has_another_reduction(shared_data: Path, tmp_path: Path) -> None:
    place(shared_data, tmp_path, desi_release.COADD.replace("iron", "fuji"))
    assert isinstance(spectrum(tmp_path, desi_release.KEY), RawSpectrum)


def test_the_file_of_another_pixel_is_refused(shared_data: Path, tmp_path: Path) -> None:
    key = "main-dark-27247-39089837499744649"
    place(shared_data, tmp_path, HEALPIX.path(key))
    assert spectrum(tmp_path, key) == NoSpectrum(Quality.WRONG_FILE, "the file holds special-dark-27247")


def test_a_target_that_the_coadd_lacks_is_said(shared_data: Path) -> None:
    found = spectrum(desi_release.release_of(shared_data), "special-dark-27247-5")
    assert found == NoSpectrum(Quality.BAD_FILE, "the coadd has no TARGETID 5")
