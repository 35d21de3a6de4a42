from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits

from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.fits import Header, read_header
from pipeline.surveys.tables import read_image, read_table, required


def written(hdu: fits.ImageHDU | fits.BinTableHDU) -> tuple[bytes, Header]:
    """Write a file of one extension; gives its bytes and that extension's header."""
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    data = buffer.getvalue()
    return data, read_header(data, read_header(data, 0).next_start)


@pytest.mark.parametrize(("bitpix", "dtype"), [(-32, np.float32), (-64, np.float64), (32, np.int32)])
def test_an_image_is_viewed_in_its_bytes(bitpix: int, dtype: type) -> None:
    values = np.arange(6, dtype=dtype).reshape(2, 3)
    np.testing.assert_array_equal(read_image(*written(fits.ImageHDU(values)), bitpix), values)
    np.testing.assert_array_equal(read_image(*written(fits.ImageHDU(values[0])), bitpix, dimensions=1), values[0])


def test_an_image_of_another_form_is_refused() -> None:
    data, header = written(fits.ImageHDU(np.zeros((2, 3), np.float32)))
    for arguments, message in (((-64,), "BITPIX"), ((-32, 1), "one dimension"), ((-32, 2, 2.0), "BZERO")):
        with pytest.raises(BadSpectrum, match=message):
            read_image(data, header, *arguments)
    with pytest.raises(BadSpectrum, match="truncated"):
        read_image(data[: header.data_start + 23], header, -32)


def test_columns_are_found_in_any_case() -> None:
    columns = [fits.Column("Id", "K", array=[2**60 + 1, 7]), fits.Column("name", "3A", array=["a", "12"])]
    data, header = written(fits.BinTableHDU.from_columns(columns, name="things"))
    table = read_table(data, header)
    assert header.name == "THINGS"
    assert required(table, "id").tolist() == [2**60 + 1, 7]
    with pytest.raises(BadSpectrum, match="column other is missing"):
        required(table, "other")
    with pytest.raises(BadSpectrum, match="column name does not hold one number per row"):
        required(table, "name")


def test_keywords_that_only_a_survey_knows_are_found_in_the_header() -> None:
    hdu = fits.ImageHDU(np.zeros(1, np.float32))
    hdu.header.update({"PLATEID": 266, "SURVEY": "main", "COEFF0": 3.5})
    _, header = written(hdu)
    assert (header.integer("PLATEID"), header.value("SURVEY"), header.number("COEFF0", 0.0)) == (266, "main", 3.5)
    assert header.value("NOWHERE") is None
