"""Values of catalogs by one rule, whatever their format: numbers and text that are padded, bytes, masked or null."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError

MISSING = frozenset({"", "nan", "null", "none", "n/a", "na", "<na>", "--"})
"""What text says where there is no value, in lower case."""

_PADDING = " \t\r\n\0"


def read_text(column: NDArray[Any]) -> pa.DictionaryArray:
    """Convert a column to stripped text, "" where missing; whole numbers lose their decimal point."""
    data = np.ma.getdata(column)
    if data.dtype.kind == "f":
        data = np.array([f"{value:.0f}" if value == np.floor(value) else str(value) for value in data], np.str_)
    elif data.dtype.kind == "S" and data.dtype.itemsize == 0:
        data = np.full(len(data), "")
    elif data.dtype.kind != "S":
        data = data.astype(np.str_)
    text = pa.array(data, mask=np.ma.getmaskarray(column)).dictionary_encode()
    values = [_stripped(value) for value in text.dictionary.to_pylist()]
    present = pa.array(["" if value.lower() in MISSING else value for value in values] + [""], pa.string())
    filled = pc.fill_null(text.indices, len(values))
    # words that became the same are one word again
    return pa.DictionaryArray.from_arrays(filled, present).cast(pa.string()).dictionary_encode()


def read_numbers(column: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Convert a column to float64, NaN where missing; also say where there is something else than a number."""
    data = np.ma.getdata(column)
    if data.dtype.kind in "biuf":
        return np.asarray(np.where(np.ma.getmaskarray(column), np.nan, data.astype(np.float64))), _none(len(data))
    text = read_text(column)
    words = [_number(word) for word in text.dictionary.to_pylist()]
    indices = text.indices.to_numpy(zero_copy_only=False)
    values = np.array([math.nan if word is None else word for word in words], np.float64)
    unreadable = np.array([word is None for word in words], np.bool_)
    return values[indices], unreadable[indices]


def read_whole(column: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Read ids, -1 where missing: numbers beyond what floats hold exactly, as integers or as text.

    name: the column's, for messages. Raises ConfigError.
    """
    data, missing = np.ma.getdata(column), np.ma.getmaskarray(column)
    if data.dtype.kind == "f" and not np.isnan(data[~missing]).all():
        remedy = "they have lost digits: export them as text or whole numbers"
        raise ConfigError(f"CATALOG column {name}", str(data.dtype), "whole numbers, not floats", remedy)
    if data.dtype.kind == "f":
        return np.full(len(data), -1, np.int64)
    if data.dtype.kind in "iu":
        within = data if data.dtype.kind == "i" else np.minimum(data, np.uint64(2**63 - 1))
        return np.where(missing, -1, np.maximum(within.astype(np.int64), -1))
    text = read_text(column)
    try:
        ids = np.array([max(int(word), -1) if word else -1 for word in text.dictionary.to_pylist()], np.int64)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"CATALOG column {name}", str(error), "whole numbers") from error
    return np.asarray(ids[text.indices.to_numpy(zero_copy_only=False)])


def as_strings(text: pa.DictionaryArray) -> NDArray[np.str_]:
    """Return text as numpy holds it."""
    words = np.array(text.dictionary.to_pylist(), np.str_)
    return np.asarray(words[text.indices.to_numpy(zero_copy_only=False)])


def _stripped(value: object) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip(_PADDING)


def _number(word: str) -> float | None:
    """Return a word's number, NaN for no word, None for what is none."""
    if not word:
        return math.nan
    try:
        return float(word)
    except ValueError:
        return None


def _none(size: int) -> NDArray[np.bool_]:
    return np.zeros(size, np.bool_)
