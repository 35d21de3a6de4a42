from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.surveys.fits import is_whole, truncation
from tests.faulty_server import content_of


def test_every_real_file_is_whole_and_no_part_of_one_is(shared_data: Path):
    for file in sorted(shared_data.glob("sas/**/spec-*.fits"))[::6]:
        data = file.read_bytes()
        assert is_whole(data)
        with fits.open(file) as hdus:
            starts = {hdu.fileinfo()["hdrLoc"] for hdu in hdus}
        for cut in (*range(2880, len(data), 9973), len(data) // 2, len(data) - 1):
            assert bool(truncation(data[:cut])) is (cut not in starts), (file.name, cut)


def test_it_tells_how_much_there_is():
    data = content_of("/a")
    assert truncation(data) == truncation(data + b"padding of another kind") == ""
    assert truncation(data[:2879]) == "truncated: the file has 2879 bytes, and its headers announce 2880"
    assert truncation(data[:100]) == "truncated: the file ends within a header"
    assert truncation(data + b"XTENS").startswith("truncated")
    assert truncation(b"") == truncation(b"no FITS file") == ""
    assert not is_whole(b"no FITS file")


@pytest.mark.parametrize("dtype", ["u1", ">i2", ">f4", ">f8"])
def test_images_and_tables_of_any_size_are_measured_as_astropy_writes_them(dtype: str):
    buffer = io.BytesIO()
    table = fits.BinTableHDU.from_columns([fits.Column("a", "PJ()", array=np.array([[1], [2, 3]], dtype=object))])
    fits.HDUList([fits.PrimaryHDU(np.zeros((7, 311), dtype)), fits.ImageHDU(), table]).writeto(buffer)
    data = buffer.getvalue()
    assert is_whole(data)
    assert truncation(data[: len(data) - 2880])


def test_a_damaged_header_is_for_the_reader_to_tell(mirror: Path):
    data = bytearray(next(mirror.glob("sdss/**/spec-*.fits")).read_bytes())
    start = data.index(b"NAXIS1  =")
    data[start + 10 : start + 30] = b"                 abc"
    assert truncation(bytes(data)) == ""


def test_it_takes_a_tenth_of_a_millisecond(mirror: Path):
    data = next(mirror.glob("sdss/**/spec-*.fits")).read_bytes()

    def seconds() -> float:
        start = time.perf_counter()
        truncation(data)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(200)) < 2e-4  # some 0.07 ms on a quiet machine
