"""Binary tables and images of FITS files as arrays, straight from the bytes.

FITS standard 4.0, section 7. astropy takes about 30 ms for the 130 to 240 column definitions of some tables, of which a
few matter; files of one kind share these, so that they are understood once per process. There is one way to fail,
BadSpectrum.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.fits import Header, structure

_BYTES = {"L": 1, "B": 1, "A": 1, "I": 2, "J": 4, "K": 8, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_NUMBERS = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_FORMAT = re.compile(r"\s*(\d{0,9})([LXBIJKAEDCMPQ])")
_DIGITS = re.compile(rb"\d{1,20}\Z")
_IMAGES = {-32: ">f4", -64: ">f8", 32: ">i4"}  # by BITPIX


class _Column(NamedTuple):
    """Where a table's column lies: its number, FITS type letter, elements per row, byte offset in a row."""

    number: int
    letter: str
    repeat: int
    offset: int


@dataclass(frozen=True)
class Table:
    """A binary table in a file's bytes.

    columns: where each lies, by its name in lower case. rows: shape (rows, bytes of a row).
    """

    header: Header
    columns: Mapping[str, _Column]
    rows: NDArray[np.uint8]

    def column(self, name: str) -> NDArray[Any] | None:
        """Return the scaled values of a scalar numeric column, shape (rows,); None if it is absent."""
        if name not in self.columns:
            return None
        number, letter, repeat, offset = self.columns[name]
        if letter not in _NUMBERS or repeat != 1:
            raise BadSpectrum(f"column {name} does not hold one number per row")
        dtype = np.dtype(_NUMBERS[letter])
        raw = np.ascontiguousarray(self.rows[:, offset : offset + dtype.itemsize]).view(dtype)[:, 0]
        values = raw.astype(dtype.newbyteorder("="))
        scale, zero = self.header.number(f"TSCAL{number}", 1.0), self.header.number(f"TZERO{number}", 0.0)
        if (scale, zero) == (1.0, 0.0):
            return values
        return np.asarray(values * scale + zero, dtype=np.float64)

    def first(self, name: str) -> int | float | None:
        """Return a column's value in the first row; None where there is none, or it is neither number nor digits."""
        column = self.columns.get(name)
        if column is None or not len(self.rows):
            return None
        if column.letter == "A":
            digits = self.rows[0, column.offset : column.offset + column.repeat].tobytes().strip(b" \0")
            return int(digits) if _DIGITS.match(digits) else None
        if column.letter not in _NUMBERS or column.repeat != 1:
            return None
        values = self.column(name)
        return None if values is None else values[0].item()


@lru_cache(maxsize=64)
def _columns(header: bytes, count: int) -> tuple[Mapping[str, _Column], int]:
    """Lay out a table's columns; also give the bytes that they fill in a row."""
    values = structure(header)
    columns: dict[str, _Column] = {}
    offset = 0
    for number in range(1, count + 1):
        match = _FORMAT.match(values.get(f"TFORM{number}", ""))
        if match is None:
            raise BadSpectrum(f"column {number} has no readable format")
        repeat, letter = int(match[1] or 1), match[2]
        columns.setdefault(values.get(f"TTYPE{number}", "").lower(), _Column(number, letter, repeat, offset))
        offset += -(-repeat // 8) if letter == "X" else repeat * _BYTES[letter]
    return MappingProxyType(columns), offset


def read_table(data: bytes, header: Header) -> Table:
    """View the binary table whose header was read. Raises BadSpectrum."""
    if header.cards.get("XTENSION") != "BINTABLE":
        raise BadSpectrum("the extension is not a binary table")
    width, length = header.integer("NAXIS1"), header.integer("NAXIS2")
    if header.integer("NAXIS") != 2 or header.integer("BITPIX") != 8 or width < 1 or length < 0:
        raise BadSpectrum("the binary table's shape is not valid")
    columns, filled = _columns(header.text, header.integer("TFIELDS"))
    if filled != width:
        raise BadSpectrum(f"the columns take {filled} bytes per row, but the header says {width}")
    if header.data_start + width * length > len(data):
        raise BadSpectrum("the table's data are truncated")
    rows = np.frombuffer(data, np.uint8, width * length, header.data_start).reshape(length, width)
    return Table(header, columns, rows)


def required(table: Table, name: str) -> NDArray[Any]:
    """Return a column as `Table.column` does. Raises BadSpectrum for one that is absent."""
    values = table.column(name)
    if values is None:
        raise BadSpectrum(f"column {name} is missing")
    return values


def read_image(data: bytes, header: Header, bitpix: int, dimensions: int = 2, zero: float = 0.0) -> NDArray[Any]:
    """View an image of one type in the file's bytes, in their byte order; shape as numpy has it. Raises BadSpectrum.

    zero: its BZERO, which the caller has to add.
    """
    if header.integer("NAXIS") != dimensions or header.integer("BITPIX") != bitpix:
        words = "one dimension" if dimensions == 1 else "two dimensions"
        raise BadSpectrum(f"an image has other than {words}, or a BITPIX other than {bitpix}")
    if (header.number("BSCALE", 1.0), header.number("BZERO", 0.0)) != (1.0, zero):
        raise BadSpectrum("an image has BSCALE or BZERO, which is not supported")
    shape = [header.integer(f"NAXIS{axis}") for axis in range(dimensions, 0, -1)]
    if min(shape) < 1:
        raise BadSpectrum("an image is empty")
    kind = np.dtype(_IMAGES[bitpix])
    if header.data_start + kind.itemsize * math.prod(shape) > len(data):
        raise BadSpectrum("an image is truncated")
    return np.frombuffer(data, kind, math.prod(shape), header.data_start).reshape(shape)
