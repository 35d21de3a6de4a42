"""Tables as FITS: one binary table with units, UCDs, null values and checksums, written block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy import units
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.results.tables.checksum import Sum, reserve, stamp
from pipeline.results.tables.columns import Column
from pipeline.results.tables.table import Writable

EXTENSION = "RESULTS"

KEYWORDS = {
    "title": "TITLE",
    "model": "MODEL",
    "model_sha256": "MODSHA",
    "checkpoint": "CHECKPT",
    "density": "DENSITY",
    "model_license": "MODLIC",
    "fingerprint": "FINGERP",
    "spectra_fingerprint": "SPECFP",
    "targets_sha256": "TARGSHA",
    "source": "SOURCE",
    "data_release": "RELEASE",
    "instrument": "INSTRUME",
    "precision": "PRECISN",
    "device": "DEVICE",
    "package_versions": "VERSIONS",
    "schema_version": "SCHEMA",
    "split": "SPLIT",
    "where": "WHERE",
    "ranked_by": "RANKEDBY",
    "left_out": "LEFTOUT",
    "missing": "MISSING",
    "distance_in": "DISTIN",
    "rows_not_finite": "NOTFIN",
    "rows_not_done": "NOTDONE",
    "license": "LICENSE",
    "acknowledgement": "ACKNOWL",
    "references": "REFERENC",
    "cite": "CITE",
    "creator": "CREATOR",
    "history": "HISTORY",
    "comment": "COMMENT",
}
"""The keyword of each key of the header."""

_FORMATS = {"b1": "L", "u1": "B", "i1": "I", "i2": "I", "u2": "I", "i4": "J", "u4": "J", "i8": "K", "u8": "K"}
_FLOATS = {"f4": "E", "f8": "D"}


def write_fits(table: Writable, path: Path) -> int:
    """Write a table as FITS; return how many rows it has.

    Rows of several values, such as latents, are vector columns. FITS knows ASCII alone: other letters are escaped. The
    table is read twice: its texts first, whose width FITS wants to know.
    """
    columns, rows = table.columns, sum(table.counted())
    header = header_of(columns, _widths(table), rows, table.header)
    raw = np.dtype([(column.name, *_raw_type(column, header, i + 1)) for i, column in enumerate(columns)])
    data = Sum()
    with fits.StreamingHDU(str(path), header) as file:
        for block in table.blocks():
            if len(block):
                stored = _stored(block, columns, raw)
                file.write(stored)
                data.add(stored)
    stamp(path, header, data)
    return rows


def header_of(columns: Sequence[Column], widths: Mapping[str, int], rows: int, facts: Mapping[str, str]) -> fits.Header:
    """Return the header of the binary table. widths: bytes of each column of text."""
    made = [_fits_column(column, widths.get(column.name, 0)) for column in columns]
    header = fits.BinTableHDU.from_columns(made, nrows=0, name=EXTENSION).header
    header["NAXIS2"] = rows
    for number, column in enumerate(columns, 1):
        if column.description:
            header[f"TCOMM{number}"] = ascii_text(column.description)
        if "ucd" in column.attributes:
            header[f"TUCD{number}"] = str(column.attributes["ucd"])
    add_facts(header, facts)
    reserve(header)
    return header


def add_facts(header: fits.Header, facts: Mapping[str, str]) -> None:
    """Add to a header what a file says of its origin."""
    for key, text in facts.items():
        header[KEYWORDS[key]] = ascii_text(text)


def fits_units(text: str) -> str:
    """Return units as FITS writes them; "" for none."""
    return str(units.Unit(text).to_string("fits")) if text else ""


def ascii_text(text: str) -> str:
    """Return text as FITS can hold it: letters beyond ASCII are escaped."""
    return text.encode("ascii", "backslashreplace").decode()


def _fits_column(column: Column, width: int) -> fits.Column:
    if column.dtype == "str":
        return fits.Column(name=column.name, format=f"{max(width, 1)}A")
    code = np.dtype(column.dtype).str[1:]
    size = len(column.labels) or ""
    is_vector = bool(column.labels)
    unit = fits_units(column.units) or None
    if code in _FLOATS:
        return fits.Column(name=column.name, format=f"{size if is_vector else ''}{_FLOATS[code]}", unit=unit)
    kind = np.dtype(column.dtype)
    bzero = 1 << (8 * kind.itemsize - 1) if kind.kind == "u" and kind.itemsize > 1 else None
    return fits.Column(
        name=column.name,
        format=f"{size if is_vector else ''}{_FORMATS[code]}",
        unit=unit,
        bzero=bzero,
        null=column.null,
    )


def _raw_type(column: Column, header: fits.Header, number: int) -> tuple[Any, ...]:
    """Return the type of a column's bytes in the file, and the shape of a row's values."""
    if column.dtype == "str":
        return (f"S{str(header[f'TFORM{number}'])[:-1]}",)
    kind = np.dtype(column.dtype)
    size = kind.itemsize
    # FITS has no signed bytes: they are written as numbers of two
    stored = {"b": "S1", "f": f">f{size}", "i": f">i{max(size, 2)}", "u": f">i{size}" if size > 1 else "u1"}
    raw = stored[kind.kind]
    return (raw, (len(column.labels),)) if column.labels else (raw,)


def _stored(block: pa.Table, columns: Sequence[Column], raw: np.dtype[Any]) -> NDArray[np.uint8]:
    """Return the bytes of rows as FITS stores them."""
    rows = np.empty(len(block), raw)
    for column in columns:
        values = block[column.name].combine_chunks()
        if column.dtype == "str":
            rows[column.name] = _bytes(values)
            continue
        if column.labels:
            values = values.flatten()
        numbers = values.to_numpy(zero_copy_only=False)
        kind = numbers.dtype
        if kind.kind == "b":
            numbers = np.where(numbers, b"T", b"F")
        elif kind.kind == "u" and kind.itemsize > 1:
            # unsigned numbers are signed ones with their first bit turned: TZERO
            first = np.array(1, kind) << np.array(8 * kind.itemsize - 1, kind)
            numbers = (numbers ^ first).view(f"i{kind.itemsize}")
        rows[column.name] = numbers.reshape(rows[column.name].shape)
    return rows.view(np.uint8)


def _bytes(texts: pa.Array) -> NDArray[Any]:
    values = texts.to_numpy(zero_copy_only=False)
    if pc.all(pc.string_is_ascii(texts)).as_py():
        return np.asarray(values, dtype=np.bytes_) if len(values) else values
    return np.array([ascii_text(value).encode() for value in values.tolist()])


def _widths(table: Writable) -> dict[str, int]:
    """Return the most bytes of each column of text."""
    texts = [column for column in table.columns if column.dtype == "str"]
    widths = dict.fromkeys((column.name for column in texts), 1)
    for block in table.blocks(texts) if texts else ():
        for name in widths:
            values = block[name]
            if len(values) and pc.all(pc.string_is_ascii(values)).as_py():
                widths[name] = max(widths[name], pc.max(pc.binary_length(values)).as_py())
            else:
                widths[name] = max((len(ascii_text(text)) for text in values.to_pylist()), default=widths[name])
    return widths
