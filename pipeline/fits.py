"""Bytes of an SDSS spec file -> arrays.

Reads the two binary tables it needs straight from the bytes (FITS standard 4.0, section 7.3): astropy takes
about 30 ms a file, nearly all of it for the 130 to 240 column definitions of the second table, of which five
matter here; this takes about 1 ms, and has one way to fail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOGLAM_STEP = 1e-4
"""Step of `loglam` in every SDSS, BOSS and eBOSS co-added spectrum (spec datamodel)."""

_BLOCK = 2880
_CARD = 80
_BYTES = {"L": 1, "B": 1, "A": 1, "I": 2, "J": 4, "K": 8, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_NUMBERS = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_FORMAT = re.compile(r"\s*(\d{0,9})([LXBIJKAEDCMPQ])")
_INTEGER = re.compile(r"[+-]?\d{1,18}$")
_STRUCTURE = re.compile(r"(?:XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|(?:TTYPE|TFORM|TSCAL|TZERO)\d+)$")


class BadSpectrum(ValueError):  # noqa: N818 - what it says is wrong is the file, not the program
    """The bytes are not a readable spectrum; the message says why."""


@dataclass(frozen=True)
class RawSpectrum:
    """A spectrum as its file has it, native byte order, before any masking.

    flux: shape (n,), float32, 1e-17 erg s-1 cm-2 Angstrom-1; ivar: shape (n,), float32, its inverse variance;
    loglam: shape (n,), float32, log10 of the vacuum heliocentric wavelength in Angstrom, steps of 1e-4;
    and_mask: shape (n,), int64, SPPIXMASK bits set in all exposures, in 0 ... 2^32 - 1.
    plate, mjd, fiberid, z, z_err: from the second table; None where the file does not have them.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    loglam: NDArray[np.float32]
    and_mask: NDArray[np.int64]
    plate: int | None = None
    mjd: int | None = None
    fiberid: int | None = None
    z: float | None = None
    z_err: float | None = None

    def belongs_to(self, plate: int, mjd: int, fiberid: int) -> bool:
        """Whether the ids in the file are these; an id that the file does not have contradicts nothing."""
        pairs = ((self.plate, plate), (self.mjd, mjd), (self.fiberid, fiberid))
        return all(found is None or found == expected for found, expected in pairs)


@dataclass(frozen=True)
class _Header:
    """The structural keywords of one HDU, and where its data lie in the file."""

    cards: Mapping[str, str]
    data_start: int

    def integer(self, key: str, default: int | None = None) -> int:
        text = self.cards.get(key)
        if text is None and default is not None:
            return default
        if text is None or not _INTEGER.match(text):
            raise BadSpectrum(f"header keyword {key} is {'missing' if text is None else 'not an integer'}")
        return int(text)

    def number(self, key: str, default: float) -> float:
        text = self.cards.get(key)
        try:
            return default if text is None else float(text.upper().replace("D", "E"))
        except ValueError as error:
            raise BadSpectrum(f"header keyword {key} is not a number") from error

    @property
    def data_size(self) -> int:
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
        return self.data_start + -(-self.data_size // _BLOCK) * _BLOCK


def _read_header(data: bytes, start: int) -> _Header:
    """Parse the cards from `start` to END, keeping the structural ones."""
    cards: dict[str, str] = {}
    for position in range(start, len(data) - _CARD + 1, _CARD):
        keyword = data[position : position + 8].rstrip()
        if keyword == b"END":
            return _Header(cards, start + -(-(position + _CARD - start) // _BLOCK) * _BLOCK)
        name = keyword.decode("ascii", "replace")
        if data[position + 8 : position + 9] == b"=" and _STRUCTURE.match(name):
            text = data[position + 10 : position + _CARD].decode("ascii", "replace").strip()
            # a quoted value ends at its second quote (none of these holds one), any other at the comment
            cards[name] = text[1:].split("'")[0].strip() if text[:1] == "'" else text.split("/")[0].strip()
    raise BadSpectrum("a header has no END card: truncated")


@dataclass(frozen=True)
class _Table:
    """Columns of one binary table: name in lower case -> (column number, FITS type letter, byte offset)."""

    header: _Header
    columns: Mapping[str, tuple[int, str, int]]
    rows: NDArray[np.uint8]

    def column(self, name: str) -> NDArray[Any] | None:
        """Return the scaled values of a scalar numeric column, shape (rows,); None if it is absent."""
        if name not in self.columns:
            return None
        number, letter, offset = self.columns[name]
        if letter not in _NUMBERS:
            raise BadSpectrum(f"column {name} is not a number per row")
        dtype = np.dtype(_NUMBERS[letter])
        raw = np.ascontiguousarray(self.rows[:, offset : offset + dtype.itemsize]).view(dtype)[:, 0]
        values = raw.astype(dtype.newbyteorder("="))
        scale, zero = self.header.number(f"TSCAL{number}", 1.0), self.header.number(f"TZERO{number}", 0.0)
        if (scale, zero) == (1.0, 0.0):
            return values
        return np.asarray(values * scale + zero, dtype=np.float64)


def _read_table(data: bytes, header: _Header) -> _Table:
    if header.cards.get("XTENSION") != "BINTABLE":
        raise BadSpectrum("the extension is not a binary table")
    width, length = header.integer("NAXIS1"), header.integer("NAXIS2")
    if header.integer("NAXIS") != 2 or header.integer("BITPIX") != 8 or width < 1 or length < 0:
        raise BadSpectrum("the binary table's shape is not valid")
    columns: dict[str, tuple[int, str, int]] = {}
    offset = 0
    for number in range(1, header.integer("TFIELDS") + 1):
        match = _FORMAT.match(header.cards.get(f"TFORM{number}", ""))
        if match is None:
            raise BadSpectrum(f"column {number} has no readable format")
        repeat, letter = int(match[1] or 1), match[2]
        # a vector gets a kind that no scalar has, so that it is refused by name when asked for
        kind = letter if repeat == 1 else "vector"
        columns.setdefault(header.cards.get(f"TTYPE{number}", "").lower(), (number, kind, offset))
        offset += -(-repeat // 8) if letter == "X" else repeat * _BYTES[letter]
    if offset != width:
        raise BadSpectrum(f"columns fill {offset} bytes of rows of {width}")
    if header.data_start + width * length > len(data):
        raise BadSpectrum("the table's data are truncated")
    rows = np.frombuffer(data, np.uint8, width * length, header.data_start).reshape(length, width)
    return _Table(header, columns, rows)


def _required(table: _Table, name: str) -> NDArray[Any]:
    values = table.column(name)
    if values is None:
        raise BadSpectrum(f"column {name} is missing")
    return values


def _check_loglam(loglam: NDArray[np.float32]) -> None:
    """Refuse wavelengths that are not one run of 1e-4 steps: a spectrum is placed by its first pixel."""
    if not np.isfinite(loglam).all():
        raise BadSpectrum("loglam is not finite")
    expected = float(loglam[0]) + LOGLAM_STEP * np.arange(len(loglam))
    if np.abs(loglam - expected).max() >= LOGLAM_STEP / 2:
        raise BadSpectrum(f"loglam does not rise in steps of {LOGLAM_STEP}")


def _bits(values: NDArray[Any]) -> NDArray[np.int64]:
    """Mask words as non-negative numbers: bit 31 of a signed 32-bit column reads as a sign."""
    if values.dtype.kind == "f" and not (np.abs(values) < 2.0**62).all():
        raise BadSpectrum("and_mask is not an integer")
    return values.astype(np.int64) & 0xFFFFFFFF


def _read_identity(data: bytes, start: int) -> dict[str, Any]:
    """Ids and redshift from the table at `start`, if there is one; what is absent or not scalar is None."""
    if start >= len(data):
        return {}
    header = _read_header(data, start)
    if header.cards.get("XTENSION") != "BINTABLE":
        return {}
    table = _read_table(data, header)
    found: dict[str, Any] = {}
    for name in ("plate", "mjd", "fiberid", "z", "z_err"):
        known = name in table.columns and table.columns[name][1] in _NUMBERS and len(table.rows) > 0
        value = _required(table, name)[0] if known else None
        if value is None:
            found[name] = None
        elif name in ("z", "z_err"):
            found[name] = float(value)
        else:
            found[name] = int(value) if np.isfinite(value) else None
    return found


def read_spec(data: bytes) -> RawSpectrum:
    """Read the co-added spectrum of a spec or spec-lite file (SDSS DR9 and later, SDSS, BOSS and eBOSS).

    data: the whole file. The spectrum is the first extension, found by position; ids and redshift come from
    the second, which may be missing. Column names are matched in any case; further columns and extensions are
    ignored.
    Raises BadSpectrum, and nothing else, for any bytes that do not hold such a spectrum.
    Source: https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
    """
    if not data.startswith(b"SIMPLE  ="):
        raise BadSpectrum("not a FITS file" if data else "empty file")
    header = _read_header(data, _read_header(data, 0).next_start)
    coadd = _read_table(data, header)
    if not len(coadd.rows):
        raise BadSpectrum("the spectrum has no pixels")
    with np.errstate(all="ignore"):
        flux, ivar, loglam = (_required(coadd, name).astype(np.float32) for name in ("flux", "ivar", "loglam"))
        and_mask = _bits(_required(coadd, "and_mask"))
        _check_loglam(loglam)
        return RawSpectrum(flux, ivar, loglam, and_mask, **_read_identity(data, header.next_start))
