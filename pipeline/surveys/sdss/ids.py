"""Ids in SDSS catalogs, read without a loss: reductions, specobjids, catalogids."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.surveys.sdss.keys import RUN2D

_RUN2D = re.compile(rf"{RUN2D}\Z")
_EBOSS = re.compile(r"v5_(\d{1,2})_(\d{1,2})\Z")


def read_text(column: NDArray[Any]) -> pa.DictionaryArray:
    """Convert a column to stripped text, "" where missing; whole numbers lose their decimal point."""
    data = np.ma.getdata(column)
    if data.dtype.kind == "f":
        data = np.array([f"{value:.0f}" if value == np.floor(value) else str(value) for value in data])
    elif data.dtype.kind == "S" and data.dtype.itemsize == 0:
        data = np.full(len(data), "")
    elif data.dtype.kind != "S":
        data = data.astype(np.str_)
    text = pa.array(data, mask=np.ma.getmaskarray(column)).dictionary_encode()
    values = [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in text.dictionary.to_pylist()
    ]
    stripped = pa.array([value.strip(" \t\0") for value in values] + [""], pa.string())
    filled = pc.fill_null(text.indices, len(values))
    # words that became the same are one word again
    return pa.DictionaryArray.from_arrays(filled, stripped).cast(pa.string()).dictionary_encode()


def read_run2d(column: NDArray[Any]) -> pa.DictionaryArray:
    """Read the names of reductions: they become folders. Numbers are written without leading zeros, as in paths."""
    text = read_text(column)
    names = text.dictionary.to_pylist()
    for value in names:
        if not _RUN2D.match(value):
            expected = "the name of a reduction, such as 26 or v5_13_2"
            raise ConfigError("CATALOG column RUN2D", str(value), expected, "select rows that have one with --where")
    plain = pa.array([str(int(name)) if name.isdecimal() else name for name in names], pa.string())
    return pa.DictionaryArray.from_arrays(text.indices, plain).cast(pa.string()).dictionary_encode()


def read_catalogids(column: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Read SDSS-V's catalogids: numbers beyond what floats hold exactly, as integers or as text."""
    data = np.ma.getdata(column)
    if data.dtype.kind == "f" or np.ma.getmaskarray(column).any():
        raise ConfigError(f"CATALOG column {name}", str(data.dtype), "whole numbers in every row, not floats")
    try:
        values = data.astype(np.int64) if data.dtype.kind in "iu" else np.array([int(item) for item in data], np.int64)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"CATALOG column {name}", str(error), "whole numbers") from error
    if (values < 0).any():
        raise ConfigError(f"CATALOG column {name}", int(values.min()), "whole numbers of at least 0")
    return values


def read_specobjid(column: NDArray[Any], composed: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Read ids as unsigned numbers: real ones exceed 2^63, so catalogs hold them as text or negative.

    A column of floats has lost the last digits and is ignored; so is what is missing. Ids beyond 64 bits become 0;
    also says which.
    """
    data = np.ma.getdata(column)
    within = np.zeros(len(data), np.bool_)
    if data.dtype.kind == "f":
        return composed, within
    if data.dtype.kind in "iub":
        return np.where(np.ma.getmaskarray(column), composed, data.astype(np.uint64)), within
    text = pc.utf8_trim(pa.array(data, mask=np.ma.getmaskarray(column)).cast(pa.string()), " \t\0")
    text = pc.if_else(pc.equal(text, ""), None, text)
    try:
        return _filled(text.cast(pa.uint64()), composed), within
    except pa.ArrowInvalid:
        pass  # signed ids, ids of more than 64 bits, or no ids at all: one by one
    try:
        values = [int(item) if item else own for item, own in zip(text.to_pylist(), composed.tolist(), strict=True)]
    except ValueError as error:
        raise ConfigError("CATALOG column SPECOBJID", str(error), "whole numbers") from error
    fits = [-(2**63) <= value < 2**64 for value in values]
    ids = np.array([value % 2**64 if fit else 0 for value, fit in zip(values, fits, strict=True)], dtype=np.uint64)
    return ids, ~np.array(fits, np.bool_)


def _filled(ids: pa.Array, composed: NDArray[np.uint64]) -> NDArray[np.uint64]:
    missing = ids.is_null().to_numpy(zero_copy_only=False)
    return np.where(missing, composed, ids.fill_null(0).to_numpy(zero_copy_only=False))


def compose_specobjid(
    run2d: pa.DictionaryArray | NDArray[np.str_],
    plate: NDArray[np.int32],
    mjd: NDArray[np.int32],
    fiberid: NDArray[np.int32],
) -> NDArray[np.uint64]:
    """Compose SPECOBJID from ids, shape (N,) each, as sdss_specobjid does for SDSS and (e)BOSS; else 0.

    Bits: plate from 50, fiberid from 38, mjd - 50000 from 24, run2d from 10 (v5_m_p as 100 m + p).
    """
    names = run2d if isinstance(run2d, pa.DictionaryArray) else pa.array(run2d).dictionary_encode()
    packed = np.array([_reduction_number(str(name)) for name in names.dictionary.to_pylist()], dtype=np.int64)
    numbers = packed[names.indices.to_numpy()]
    day = mjd.astype(np.int64) - 50000
    fits = (numbers >= 0) & (plate < 2**14) & (fiberid < 2**12) & (day >= 0) & (day < 2**14)
    parts = ((plate, 50), (fiberid, 38), (np.where(fits, day, 0), 24), (np.where(fits, numbers, 0), 10))
    composed = np.zeros(len(plate), dtype=np.uint64)
    for values, shift in parts:
        composed |= values.astype(np.uint64) << np.uint64(shift)
    return np.where(fits, composed, np.uint64(0))


def _reduction_number(run2d: str) -> int:
    """Return run2d as sdss_specobjid packs it, -1 where it has no such number."""
    match = _EBOSS.match(run2d)
    if match:
        return 100 * int(match[1]) + int(match[2])
    return int(run2d) if run2d.isdecimal() and int(run2d) < 2**14 else -1
