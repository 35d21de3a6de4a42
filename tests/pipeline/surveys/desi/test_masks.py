from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.desi.masks import read_mask
from pipeline.surveys.fits import read_header

MASK = np.random.default_rng(0).choice(np.array([0, 0, 0, 1, 4, 1 << 9], np.uint32), size=(5, 2751))


def written(hdu: fits.ImageHDU | fits.CompImageHDU) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    return buffer.getvalue()


def read(data: bytes, shape: tuple[int, int] = MASK.shape) -> NDArray[np.integer]:
    return read_mask(data, read_header(data, read_header(data, 0).next_start), shape)


@pytest.mark.parametrize(
    "hdu",
    [
        fits.ImageHDU(MASK.astype(np.int32)),
        fits.ImageHDU(MASK),
        fits.CompImageHDU(MASK),
        fits.CompImageHDU(MASK.astype(np.int32), compression_type="GZIP_2"),
    ],
    ids=["signed", "unsigned", "packed", "zipped"],
)
def test_a_mask_is_read_however_it_is_kept(hdu: fits.ImageHDU | fits.CompImageHDU) -> None:
    np.testing.assert_array_equal(read(written(hdu)).astype(np.int64), MASK)


@pytest.mark.parametrize("hdu", [fits.ImageHDU(MASK), fits.CompImageHDU(MASK)], ids=["plain", "packed"])
def test_a_mask_of_another_shape_is_refused(hdu: fits.ImageHDU | fits.CompImageHDU) -> None:
    with pytest.raises(BadSpectrum, match="images of unlike shape"):
        read(written(hdu), (5, 2750))


def test_a_packed_mask_that_is_damaged_is_refused() -> None:
    data = bytearray(written(fits.CompImageHDU(MASK)))
    start = read_header(bytes(data), read_header(bytes(data), 0).next_start).data_start
    data[start : start + 40] = b"\xff" * 40  # where the tiles lie
    with pytest.raises(BadSpectrum, match="a packed image cannot be read"):
        read(bytes(data))
    with pytest.raises(BadSpectrum, match="truncated"):
        read(bytes(data[: start + 60]))


def test_a_mask_that_is_no_mask_is_refused() -> None:
    with pytest.raises(BadSpectrum):
        read(written(fits.ImageHDU(MASK.astype(np.float32))))
