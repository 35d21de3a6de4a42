"""Ids in SDSS catalogs, read without a loss: reductions, specobjids, catalogids."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.surveys.sdss.keys import RUN2D, plain_run2d
from pipeline.surveys.values import read_text

_RUN2D = re.compile(rf"{RUN2D}\Z")
_BEYOND, _UNREADABLE = "more than 64 bits", "no whole number"
# a negative id is one above 2^63; those just below 0 would be of the plate 16383, and are -1 or -9999 for "none"
_LEAST_WRAPPED = 2**50
_EBOSS = re.compile(r"v5_(\d{1,2})_(\d{1,2})\Z")


def plain_run2ds(column: NDArray[Any]) -> pa.DictionaryArray:
    """Convert a column by the rule of `plain_run2d`, "" where missing."""
    text = read_text(column)
    plain = [plain_run2d(name) for name in text.dictionary.to_pylist()]
    names = pa.DictionaryArray.from_arrays(text.indices, pa.array(plain, pa.string()))
    return names.cast(pa.string()).dictionary_encode()


def read_run2d(column: NDArray[Any]) -> pa.DictionaryArray:
    """Read the names of reductions, "" where missing. Raises ConfigError for others: they become folders."""
    names = plain_run2ds(column)
    for value in names.dictionary.to_pylist():
        if value and not _RUN2D.match(value):
            expected = "the name of a reduction, such as 26 or v5_13_2"
            raise ConfigError("CATALOG column RUN2D", value, expected, "select rows that have one with --where")
    return names


class GivenIds(NamedTuple):
    """Ids as unsigned numbers. beyond: of more than 64 bits, 0 here. unreadable: no whole numbers, others here."""

    ids: NDArray[np.uint64]
    beyond: NDArray[np.bool_]
    unreadable: NDArray[np.bool_]


def read_specobjid(column: NDArray[Any], composed: NDArray[np.uint64]) -> GivenIds:
    """Read ids as unsigned numbers: real ones exceed 2^63, so catalogs hold them as text or negative.

    Floats have lost the last digits, as numbers or as text such as 3.72E+18: `composed` has their places, as those of
    what is missing or no number at all.
    """
    data, missing = np.ma.getdata(column), np.ma.getmaskarray(column)
    none = np.zeros(len(data), np.bool_)
    if data.dtype.kind == "f":
        return GivenIds(composed, none, ~(missing | np.isnan(data)))
    if data.dtype.kind in "iub":
        absent = missing | ((data < 0) & (data > -_LEAST_WRAPPED)) if data.dtype.kind == "i" else missing
        return GivenIds(np.where(absent, composed, data.astype(np.uint64)), none, none)
    plain = pc.utf8_trim(pa.array(data, mask=missing).cast(pa.string()), " \t\0")
    try:  # at once: a survey has millions
        ids = pc.if_else(pc.equal(plain, ""), None, plain).cast(pa.uint64())
        absent = ids.is_null().to_numpy(zero_copy_only=False)
        return GivenIds(np.where(absent, composed, ids.fill_null(0).to_numpy(zero_copy_only=False)), none, none)
    except pa.ArrowInvalid:
        pass  # signed ids, ids of more than 64 bits, or no ids at all
    text = read_text(column)
    words = [_specobjid(word) for word in text.dictionary.to_pylist()]
    indices = text.indices.to_numpy(zero_copy_only=False)
    values = np.array([word if isinstance(word, int) else 0 for word in words], np.uint64)[indices]
    is_own = np.array([isinstance(word, int) for word in words], np.bool_)[indices]
    beyond = np.array([word is _BEYOND for word in words], np.bool_)[indices]
    unreadable = np.array([word is _UNREADABLE for word in words], np.bool_)[indices]
    return GivenIds(np.where(is_own | beyond, values, composed), beyond, unreadable)


def read_exact(column: NDArray[Any]) -> NDArray[np.uint64]:
    """Read ids as `read_specobjid` does, 0 where missing; those that floats hold without a loss as well.

    Ids of DR8 and later below 2^63 are such: they end in ten zero bits. Rounded ones are no spectrum's.
    """
    data = np.ma.getdata(column)
    nothing = np.zeros(len(data), np.uint64)
    if data.dtype.kind != "f":
        return read_specobjid(column, nothing).ids
    values = np.where(np.ma.getmaskarray(column) | ~(data > 0) | ~(data < 2.0**63), 0, data)
    return np.asarray(values.astype(np.uint64))


def _specobjid(word: str) -> int | str | None:
    """Return the id that a word is, None for none, or why it is none."""
    if not word:
        return None
    try:
        value = int(word)
    except ValueError:
        return _UNREADABLE
    if not -(2**63) <= value < 2**64:
        return _BEYOND
    return None if -_LEAST_WRAPPED < value < 0 else value % 2**64


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
