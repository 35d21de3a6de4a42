"""Which bytes of a coadd are fetched: few ranges, no resolution, and the same spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.mock.coadds import write_coadds
from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.desi.coadd import NEEDED, read_coadd
from pipeline.surveys.fits import read_header, truncation
from tests import desi_release


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    """Give coadds of 60 targets, with plain and with packed masks."""
    folder = tmp_path_factory.mktemp("coadds")
    return {
        packed: write_coadds(folder / str(packed), desi_release.restframes, 60, packed=packed)[0].coadd.read_bytes()
        for packed in (False, True)
    }


def names(data: bytes) -> list[str]:
    found, start = [], 0
    while start < len(data):
        header = read_header(data, start)
        found.append(header.name)
        start = header.next_start
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_a_few_ranges_give_the_same_spectra(made: dict[bool, bytes], packed: bool) -> None:
    data = made[packed]
    some, asked = desi_release.in_parts(data)
    assert len(asked) <= 5
    assert sum(min(stop, len(data)) - start for start, stop in asked) < 0.25 * len(data)
    assert names(some) == ["", *(name for name in names(data) if name in NEEDED)]
    assert truncation(some) == ""
    whole, parts = read_coadd(data), read_coadd(some)
    for targetid in whole.rows:
        one, other = whole.spectrum(targetid), parts.spectrum(targetid)
        for name in ("flux", "ivar", "mask", "axis"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_file_without_resolution_is_read_as_well(made: dict[bool, bytes]) -> None:
    """What a cache keeps is read again."""
    some, _ = desi_release.in_parts(made[False])
    again, _ = desi_release.in_parts(some)
    assert again == some


def test_the_real_file_is_read_by_ranges(shared_data: Path) -> None:
    data = (desi_release.release_of(shared_data) / desi_release.COADD).read_bytes()
    some, asked = desi_release.in_parts(data)
    assert len(asked) <= 5
    assert read_coadd(some).rows == read_coadd(data).rows


@pytest.mark.parametrize("share", [0.0, 0.04, 0.1, 0.4])
def test_of_a_truncated_file_comes_a_truncated_one(made: dict[bool, bytes], share: float) -> None:
    data = made[False][: int(share * len(made[False])) + 1000]
    some, _ = desi_release.in_parts(data)
    assert "truncated" in truncation(some)
    for each in (data, some):
        with pytest.raises(BadSpectrum, match="truncated"):
            read_coadd(each)


def test_what_is_cut_behind_the_last_mask_is_read(made: dict[bool, bytes]) -> None:
    some, _ = desi_release.in_parts(made[False][: int(0.9 * len(made[False]))])
    assert len(read_coadd(some).arms) == 3


def test_a_file_that_ends_with_an_arm_has_no_others(made: dict[bool, bytes]) -> None:
    data = made[False]
    start = 0
    while (header := read_header(data, start)).name != "R_WAVELENGTH":
        start = header.next_start
    some, _ = desi_release.in_parts(data[:start])
    assert truncation(some) == ""
    assert len(read_coadd(some).arms) == len(read_coadd(data[:start]).arms) == 1
