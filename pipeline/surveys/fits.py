"""The headers of FITS files, straight from the bytes: how an HDU is laid out, and whether a file is whole.

FITS standard 4.0, sections 3 and 4. Headers that files share are understood once per process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from pipeline.spectra.raw import BadSpectrum

SIZE_CARDS = 10
"""Cards that tell the size of an HDU: SIMPLE, BITPIX, NAXIS and, of an image, the lengths of its axes (4.4.1)."""

_BLOCK = 2880
_CARD = 80
_END = b"END     "
_BEGINNINGS = (b"SIMPLE  =", b"XTENSION=")
_LONGEST_HEADER = 2**19  # bytes; those of plates with 240 columns and all their exposures take a tenth
_INTEGER = re.compile(r"[+-]?\d{1,18}$")
_STRUCTURAL = frozenset(
    b"XTENSION BITPIX NAXIS PCOUNT GCOUNT BSCALE BZERO TFIELDS TTYPE TFORM TSCAL TZERO EXTNAME ZIMAGE ZNAXIS".split()
)
"""Keywords, without their numbers, that say how an HDU is laid out."""


class Truncated(BadSpectrum):
    """The bytes end before what their headers announce."""


@dataclass(frozen=True)
class Header:
    """The structural keywords of one HDU, and where it and its data begin in the file."""

    text: bytes
    cards: Mapping[str, str]
    start: int
    data_start: int

    @property
    def name(self) -> str:
        """The HDU's name, in upper case; "" for none."""
        return self.cards.get("EXTNAME", "").upper()

    def value(self, key: str) -> str | None:
        """Return a keyword's value as text, also of one that is not structural; None where it is absent."""
        if key.rstrip("0123456789").encode() in _STRUCTURAL:
            return self.cards.get(key)
        return _keywords(self.text, key.encode()).get(key)

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a keyword's whole number. Raises BadSpectrum."""
        text = self.value(key)
        if text is None and default is not None:
            return default
        if text is None or not _INTEGER.match(text):
            raise BadSpectrum(f"header keyword {key} is {'missing' if text is None else 'not an integer'}")
        return int(text)

    def number(self, key: str, default: float) -> float:
        """Return a keyword's number. Raises BadSpectrum."""
        text = self.value(key)
        try:
            return default if text is None else float(text.upper().replace("D", "E"))
        except ValueError as error:
            raise BadSpectrum(f"header keyword {key} is not a number") from error

    @property
    def data_size(self) -> int:
        """Bytes of the data, without what fills their last block."""
        axes = [self.integer(f"NAXIS{i}") for i in range(1, self.integer("NAXIS", 0) + 1)]
        if not axes:
            return 0
        size = 1
        for length in axes:
            size *= length
        size = abs(self.integer("BITPIX")) // 8 * self.integer("GCOUNT", 1) * (self.integer("PCOUNT", 0) + size)
        if min(axes) < 0 or size < 0:
            raise BadSpectrum("header declares a negative size")
        return size

    @property
    def next_start(self) -> int:
        """Where the next HDU begins."""
        return self.data_start + -(-self.data_size // _BLOCK) * _BLOCK


def read_header(data: bytes, start: int, cards: int | None = None) -> Header:
    """Parse the header that starts there, keeping the structural keywords.

    cards: look only at so many. Raises BadSpectrum where there is none; Truncated where the bytes end in it.
    """
    if not data.startswith(_BEGINNINGS, start):
        raise _no_header(data, start)
    end = start
    while True:
        end = data.find(_END, end, start + _LONGEST_HEADER)
        if end < 0 or end + _CARD > len(data):
            raise _no_header(data, start)
        if (end - start) % _CARD == 0:
            break
        end += 1
    text = data[start:end]
    found = structure(text if cards is None else text[: cards * _CARD])
    return Header(text, found, start, start + -(-(end + _CARD - start) // _BLOCK) * _BLOCK)


def _no_header(data: bytes, start: int) -> BadSpectrum:
    if start >= len(data):
        return BadSpectrum("the file ends where the header of a further table should begin")
    if not data.startswith(_BEGINNINGS, start):
        return BadSpectrum("there is no header where one should begin")
    if len(data) - start >= _LONGEST_HEADER:
        return BadSpectrum("a header has no END card")
    return Truncated("truncated: the file ends within a header")


@lru_cache(maxsize=128)
def structure(header: bytes) -> Mapping[str, str]:
    """Return the structural keywords of a header, which is given without its END, and their values as text."""
    return MappingProxyType(_values(header, lambda name: name.rstrip(b" 0123456789") in _STRUCTURAL))


@lru_cache(maxsize=128)
def _keywords(header: bytes, key: bytes) -> Mapping[str, str]:
    """Return one keyword of a header and its value, nothing where it is absent."""
    return MappingProxyType(_values(header, lambda name: name.rstrip() == key))


def _values(header: bytes, is_wanted: Callable[[bytes], bool]) -> dict[str, str]:
    cards: dict[str, str] = {}
    for position in range(0, len(header), _CARD):
        name = header[position : position + 8]
        if is_wanted(name) and header[position + 8 : position + 9] == b"=":
            text = header[position + 10 : position + _CARD].decode("ascii", "replace").strip()
            # a quoted value ends at its second quote (none of these holds one), any other at the comment
            value = text[1:].split("'")[0] if text[:1] == "'" else text.split("/")[0]
            cards[name.rstrip().decode()] = value.strip()
    return cards


def truncation(data: bytes) -> str:
    """Say by how much a FITS file is shorter than its headers announce; "" for a whole one, or for no FITS file.

    Takes less than 0.1 ms for a spec-lite file. One that is cut exactly between two HDUs looks whole.
    """
    start = 0
    try:
        while data.startswith(_BEGINNINGS, start):
            start = read_header(data, start, SIZE_CARDS).next_start
    except Truncated as error:
        return str(error)
    except BadSpectrum:
        return ""  # damaged, whatever its length: for the reader to tell
    rest = data[start : start + len(_BEGINNINGS[0])]
    if start > len(data) or (rest and _BEGINNINGS[1].startswith(rest)):
        return f"truncated: the file has {len(data)} bytes, and its headers announce {max(start, len(data) + 1)}"
    return ""


def is_whole(data: bytes) -> bool:
    """Tell whether bytes are a FITS file, and all of it."""
    return data.startswith(_BEGINNINGS[0]) and not truncation(data)
