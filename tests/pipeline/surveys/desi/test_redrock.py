from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.desi.layouts import LAYOUTS
from pipeline.surveys.desi.redrock import read_redrock
from tests import desi_release


def test_redshifts_are_those_of_the_file(shared_data: Path) -> None:
    data = (desi_release.release_of(shared_data) / desi_release.REDROCK).read_bytes()
    assert read_redrock(data) == {39089837499744649: (0.007269671851219614, 2.370602638841937e-05)}


def test_what_is_no_redrock_file_is_refused(shared_data: Path) -> None:
    coadd = (desi_release.release_of(shared_data) / desi_release.COADD).read_bytes()
    for data, message in ((b"", "empty"), (b"<html>", "not a FITS file"), (coadd, "no table REDSHIFTS")):
        with pytest.raises(BadSpectrum, match=message):
            read_redrock(data)


def test_a_target_that_the_file_lacks_is_said() -> None:
    beside = LAYOUTS["desi-healpix"].redshifts
    assert beside is not None
    with pytest.raises(BadSpectrum, match="no TARGETID 5"):
        beside.redshift({}, "main-dark-1-5")
