"""Tables of FITS files: binary ones, read in blocks of rows, and those in text."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.io.fits import Column
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from pipeline.catalog.formats.joined import joined
from pipeline.catalog.formats.units import fits_unit
from pipeline.catalog.table import NO_KINDS, Kinds, Table, sliced, unique_names
from pipeline.errors import RefusedError
from pipeline.surveys.columns import Columns

_BLOCK = 2880


@dataclass(frozen=True)
class _Part:
    """One header and data unit of a file. size: bytes of its data, without the padding."""

    number: int
    header: fits.Header
    size: int

    @property
    def name(self) -> str:
        return str(self.header.get("EXTNAME", "")).strip()

    @property
    def kind(self) -> str:
        return str(self.header.get("XTENSION", "image")).strip().lower()

    @property
    def is_table(self) -> bool:
        # images that are packed by tiles lie in binary tables
        return self.kind == "table" or (self.kind == "bintable" and not self.header.get("ZIMAGE", False))

    @property
    def names(self) -> list[str]:
        return [str(self.header.get(f"TTYPE{i + 1}", "")).strip() for i in range(self.header["TFIELDS"])]

    def is_called(self, extension: str) -> bool:
        return extension.strip().lower() in (str(self.number), self.name.lower())

    def __str__(self) -> str:
        return f"[{self.number}]{f' {self.name}' if self.name else ''} with {self.header.get('NAXIS2')} rows"


def open_fits(
    file: IO[bytes], extension: str | None, block_bytes: int, read_ahead: int, url: str, kinds: Kinds = NO_KINDS
) -> Table:
    """Open a table of a FITS file: the first one, or an extension by its number (0 is the image) or its name.

    block_bytes: of a block of rows at most. read_ahead: bytes to read at a time where data are passed by. kinds: says
    which keywords and tables give further columns to the first table. Raises RefusedError, naming the tables that there
    are, where there is none of that name, and, with the last block, where none is named and another table has the same
    columns; ValueError for damage.
    """
    with _quiet():
        seen, part = _found(file, extension, read_ahead, url)
        labels = unique_names(part.names)
        header = part.header.copy()
        for i, label in enumerate(labels):
            header[f"TTYPE{i + 1}"] = label
        own = (_text_table if part.kind == "table" else _binary_table)(file, header, labels, block_bytes)
    start = file.tell()

    def behind() -> Iterator[_Part]:
        """Read the headers behind the table; the file is at the data of each."""
        file.seek(start + _padded(part.size))
        number = part.number + 1
        while (other := _next(file, number)) is not None:
            data = file.tell()
            yield other
            file.seek(data + _padded(other.size))
            number += 1

    def blocks(names: Sequence[str], rows: int) -> Iterator[Columns]:
        yield from own.blocks(names, rows)
        if extension is None:
            _require_alone(part, behind(), url)

    def others() -> str:
        with _quiet():
            tables = [f"{url}{each}" for each in (*seen, *behind()) if each.is_table]
        return f"the file has further tables: {', '.join(tables)}" if tables else ""

    with _quiet():
        names = kinds.beside.get(part.name, ()) if extension is None else ()
        tables = [_in_memory(file, each) for each in _named(behind(), names) if _is_row_by_row(each, part, block_bytes)]
        file.seek(start)
    cards = {key: seen[0].header[key] for key in kinds.keywords if seen and key in seen[0].header}
    return joined(replace(own, blocks=blocks, others=others), tables, cards, int(header["NAXIS2"]))


def _named(parts: Iterator[_Part], names: Sequence[str]) -> Iterator[_Part]:
    """Give the parts of these names; read no further than to the last of them."""
    missing = set(names)
    while missing and (part := next(parts, None)) is not None:
        if part.name in missing:
            missing.remove(part.name)
            yield part


def _is_row_by_row(other: _Part, part: _Part, most: int) -> bool:
    return other.kind == "bintable" and other.header["NAXIS2"] == part.header["NAXIS2"] and other.size <= most


def _in_memory(file: IO[bytes], part: _Part) -> Columns:
    """Read a binary table at whose data the file is."""
    labels = unique_names(part.names)
    (columns,) = _binary_table(file, part.header, labels, max(part.size, 1)).blocks(labels, sys.maxsize)
    return columns


def _quiet() -> AbstractContextManager[object]:
    """Silence warnings of what is unusual and harmless, or refused elsewhere."""
    return warnings.catch_warnings(action="ignore", category=AstropyWarning)


def _binary_table(file: IO[bytes], header: fits.Header, labels: tuple[str, ...], block_bytes: int) -> Table:
    """Return a table whose rows are read from where the file stands."""
    columns = fits.BinTableHDU.fromstring(header.tostring().encode("ascii")).columns
    size = columns.dtype.itemsize
    if size != header["NAXIS1"] or not size:
        raise ValueError(f"the columns take {size} bytes per row, but the header says {header['NAXIS1']}")
    dtype = columns.dtype.newbyteorder(">")
    by_label = dict(zip(labels, columns, strict=True))

    def blocks(names: Sequence[str], rows: int) -> Iterator[Columns]:
        remaining = int(header["NAXIS2"])
        rows = max(1, min(rows, block_bytes // dtype.itemsize))
        if not remaining:
            yield {name: np.empty(0) for name in names}
        while remaining:
            count = min(rows, remaining)
            raw = np.frombuffer(_exactly(file, count * dtype.itemsize), dtype)
            yield {name: _values(raw[by_label[name].name], by_label[name]) for name in names}
            remaining -= count

    return Table(labels, blocks, _units(by_label))


def _text_table(file: IO[bytes], header: fits.Header, labels: tuple[str, ...], block_bytes: int) -> Table:
    """Return a table in text (standard 4.0, section 7.2), which astropy reads whole. block_bytes: of no concern."""
    start = file.tell()
    data = _exactly(file, header["NAXIS1"] * header["NAXIS2"])
    file.seek(start)
    padding = b" " * (_padded(len(data)) - len(data))
    table = fits.TableHDU.fromstring(header.tostring().encode("ascii") + data + padding)
    by_label = dict(zip(labels, table.columns, strict=True))
    values: Columns = dict.fromkeys(labels, np.empty(0))
    if data:  # astropy has no rows otherwise
        raw = np.frombuffer(data, table.columns.dtype)
        values = {label: _of_text(table.data[label], raw[each.name], each) for label, each in by_label.items()}
    return Table(labels, sliced(values), _units(by_label))


def _of_text(values: NDArray[Any], raw: NDArray[np.bytes_], column: Column) -> NDArray[Any]:
    """Return a column's numbers or text; a number is missing where TNULL or nothing is written."""
    if column.format.format == "A":
        return np.array(values, dtype=np.str_)
    written = np.char.strip(raw)
    missing = (written == b"") | (written == str(column.null or "").strip().encode("ascii"))
    return np.ma.masked_array(np.array(values), missing) if missing.any() else np.array(values)


def _units(columns: Mapping[str, Column]) -> dict[str, str]:
    return {label: unit for label, column in columns.items() if (unit := fits_unit(column.unit))}


def _require_alone(part: _Part, others: Iterator[_Part], url: str) -> None:
    """Refuse a file with several tables of the same columns, of which none was named: they are several results."""
    with _quiet():
        for other in others:
            if other.is_table and other.names == part.names and other.header["NAXIS2"]:
                problem = f"{url} has several tables with the same columns, {part} and {other}"
                raise RefusedError("CATALOG", problem, f"name one, such as {url}[{part.number}], or write one table")


def _found(file: IO[bytes], extension: str | None, read_ahead: int, url: str) -> tuple[list[_Part], _Part]:
    """Read up to the data of a table; return what came before it, and it."""
    seen: list[_Part] = []
    while (part := _next(file, len(seen))) is not None:
        if part.is_table and (extension is None or part.is_called(extension)):
            return seen, part
        seen.append(part)
        _skip(file, part.size, read_ahead)
    tables = [str(each) for each in seen if each.is_table]
    there = f"its tables are {', '.join(tables)}" if tables else "it has no table"
    if extension is None:
        problem = f"no table in the FITS file {url}, only: {', '.join(each.kind for each in seen)}"
        raise RefusedError("CATALOG", problem, "choose another file")
    asked = next((each.kind for each in seen if each.is_called(extension)), None)
    what = "is not in the file" if asked is None else f"is no table (it is: {asked})"
    raise RefusedError("CATALOG", f"the extension [{extension}] of {url} {what}", there)


def _next(file: IO[bytes], number: int) -> _Part | None:
    """Read the next header, to the end of its last block; None at the end of the file, or of what is FITS in it."""
    start = file.tell()
    magic = file.read(6)
    if number and magic != b"XTENSI":
        return None
    if magic not in (b"SIMPLE", b"XTENSI"):
        raise ValueError("not a FITS file" if magic else "the file is truncated: fetch it again")
    file.seek(start)
    try:
        header = fits.Header.fromfile(file)
    except (OSError, ValueError) as error:
        raise ValueError("a header is cut short or damaged: fetch the file again") from error
    axes = [int(header[f"NAXIS{i + 1}"]) for i in range(header["NAXIS"])]
    values = int(header.get("GCOUNT", 1)) * (int(header.get("PCOUNT", 0)) + math.prod(axes)) if axes else 0
    return _Part(number, header, abs(header.get("BITPIX", 8)) // 8 * values)


def _values(raw: NDArray[Any], column: Column) -> NDArray[Any]:
    """Bring a block of a column to native numbers or bytes of text; missing values are masked."""
    if raw.dtype.kind == "S":
        return np.array(raw)
    values = np.array(raw, dtype=raw.dtype.newbyteorder("="))
    if column.format.format == "L":
        return np.asarray(values == ord("T"))
    # TNULL says which number is missing as it is stored, before it is scaled (standard 4.0, section 7.3.2)
    missing = None if column.null in ("", None) or values.dtype.kind not in "iu" else values == column.null
    if column.bzero not in ("", None, 0) or column.bscale not in ("", None, 1):
        values = _scaled(values, column.bscale or 1, column.bzero or 0)
        if missing is not None and values.dtype.kind in "iu":
            missing |= values == column.null  # as astropy writes masked columns of unsigned numbers, and reads them
    return values if missing is None else np.ma.masked_array(values, missing)


def _scaled(values: NDArray[Any], scale: float, zero: float) -> NDArray[Any]:
    # the way of FITS to hold unsigned numbers, and signed bytes (standard 4.0, section 5.2.5): exact without floats
    middle = 2 ** (8 * values.dtype.itemsize - 1)
    if values.dtype.kind == "i" and scale == 1 and zero == middle:
        unsigned = values.view(f"u{values.dtype.itemsize}")
        return np.asarray(unsigned ^ unsigned.dtype.type(middle))
    if values.dtype == np.uint8 and scale == 1 and zero == -middle:
        return np.asarray((values ^ np.uint8(middle)).view(np.int8))
    return np.asarray(values * float(scale) + float(zero))


def _skip(file: IO[bytes], size: int, read_ahead: int) -> None:
    padded = _padded(size)
    for start in range(0, padded, read_ahead):
        _exactly(file, min(read_ahead, padded - start))


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _exactly(file: IO[bytes], size: int) -> bytes:
    parts = []
    while size:
        part = file.read(size)
        if not part:
            raise ValueError("the file is truncated: fetch it again")
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
