"""Checksums of a FITS extension whose data are not in memory (FITS standard 4.0, section 4.4.2.7 and appendix J)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

_ZERO = "0" * 16
_LARGEST = 2**32 - 1
_PUNCTUATION = frozenset(b":;<=>?@[\\]^_`")


class Sum:
    """The ones' complement sum of bytes, as big-endian numbers of 32 bits; added up in pieces of any length."""

    def __init__(self) -> None:
        self.value = 0
        self._length = 0

    def add(self, data: NDArray[np.uint8]) -> None:
        """Add bytes behind those before."""
        shift = self._length % 4
        whole = (len(data) + shift + 3) // 4 * 4
        padded = data
        if whole != len(data):
            padded = np.zeros(whole, np.uint8)
            padded[shift : shift + len(data)] = data
        self.value = _folded(self.value + int(padded.view(">u4").sum(dtype=np.uint64)))
        self._length += len(data)


def reserve(header: fits.Header) -> None:
    """Make room for the checksums in a header."""
    header["CHECKSUM"] = (_ZERO, "of this extension")
    header["DATASUM"] = ("0", "of its data")


def stamp(path: Path, header: fits.Header, data: Sum) -> None:
    """Write the checksums into the last extension of a file. header: its header, with room for them."""
    whole = header.copy()
    start = path.stat().st_size - _padded(header["NAXIS1"] * header["NAXIS2"]) - len(header.tostring())
    whole["DATASUM"] = str(data.value)
    own = Sum()
    own.add(np.frombuffer(whole.tostring().encode("ascii"), np.uint8))
    whole["CHECKSUM"] = encoded(_LARGEST - _folded(own.value + data.value))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(whole.tostring().encode("ascii"))


def encoded(value: int) -> str:
    """Return a sum of 32 bits as the 16 letters and digits of the keyword CHECKSUM."""
    columns = []
    for place in range(4):
        byte = value >> (24 - 8 * place) & 0xFF
        letters = [byte // 4 + ord("0") + (byte % 4 if i == 0 else 0) for i in range(4)]
        while any(letter in _PUNCTUATION for letter in letters):
            for first in (0, 2):
                if {letters[first], letters[first + 1]} & _PUNCTUATION:
                    letters[first] += 1
                    letters[first + 1] -= 1
        columns.append(letters)
    text = "".join(chr(columns[place][i]) for i in range(4) for place in range(4))
    return text[-1] + text[:-1]


def _folded(value: int) -> int:
    while value > _LARGEST:
        value = (value & _LARGEST) + (value >> 32)
    return value


def _padded(length: int) -> int:
    return -(-length // 2880) * 2880
