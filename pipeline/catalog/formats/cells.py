"""Cells of a table in text -> numbers, truth values or text, by all cells of their column in a piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.catalog.table import Kinds
from pipeline.surveys.values import MISSING

_NUMBER = r"^[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?$"


class Types:
    """What the cells of each column are. A column that had text once has text from then on.

    decimal_comma: whether 0,5 may be a number, where no other column begins at a comma.
    """

    def __init__(self, kinds: Kinds, *, decimal_comma: bool = False) -> None:
        self.kinds = kinds
        self.decimal_comma = decimal_comma
        self.text: set[str] = set()
        self.numbers: set[str] = set()

    def other_heading(self, cells: Mapping[str, pa.Array]) -> int | None:
        """Return the first row of nothing but words where at least two columns had nothing but numbers; None for none.

        cells: a piece whose values were not asked for yet.
        """
        known = {name for name in cells if name in self.text or name.lower() in self.kinds.text}
        mixed = {name: each for name, each in cells.items() if name not in known and not _are_numbers(each)}
        if len(mixed) < 2:
            return None
        words = {name: ~_is_number(each) & ~_is_missing(each) for name, each in cells.items()}
        firsts = [
            int(words[name].argmax())
            for name, each in mixed.items()
            if name in self.numbers or _is_number(each)[: words[name].argmax()].any()
        ]
        are_words = np.logical_and.reduce(list(words.values()))
        return min((row for row, count in Counter(firsts).items() if count > 1 and are_words[row]), default=None)

    def values(self, cells: pa.Array, name: str) -> NDArray[Any]:
        """Convert cells to whole numbers, other numbers, truth values or text; missing numbers are masked or NaN."""
        cells = _bare(cells)
        if name.lower() in self.kinds.text or name in self.text:
            return _as_text(cells)
        present = pc.if_else(_says_nothing(cells), None, cells)
        if present.null_count == len(present):
            return np.full(len(present), np.nan)
        is_id = name.lower() in self.kinds.ids
        for kind in [pa.uint64()] if is_id else [pa.int64(), pa.uint64(), pa.float64(), pa.bool_()]:
            try:
                values = _as_numbers(present.cast(kind))
            except pa.ArrowInvalid:
                continue  # ids of more than 64 bits, or in another form, stay text: their reader judges them
            self.numbers |= {name}
            return values
        if self.decimal_comma and not is_id and (decimals := _with_comma(present)) is not None:
            self.numbers |= {name}
            return decimals
        self.numbers -= {name}
        self.text |= set() if is_id else {name}
        return _as_text(cells)


def _bare(cells: pa.Array) -> pa.Array:
    """Strip cells, and the quotes of those that had spaces before them."""
    stripped = pc.utf8_trim_whitespace(cells)
    if pc.any(pc.starts_with(stripped, '"')).as_py():
        stripped = pc.replace_substring_regex(stripped, r'^"(.*)"$', r"\1")
    return stripped


def _says_nothing(cells: pa.Array) -> pa.Array:
    return pc.is_in(pc.utf8_lower(cells), pa.array(sorted(MISSING)))


def _are_numbers(cells: pa.Array) -> bool:
    """Tell in little time, and rather not, whether a column has numbers only."""
    bare = _bare(cells)
    try:
        pc.if_else(_says_nothing(bare), None, bare).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _is_number(cells: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.match_substring_regex(_bare(cells), _NUMBER).to_numpy(zero_copy_only=False))


def _is_missing(cells: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(_says_nothing(_bare(cells)).to_numpy(zero_copy_only=False))


def _with_comma(cells: pa.Array) -> NDArray[Any] | None:
    """Read numbers with a comma for the decimal point; None where a cell is none."""
    if pc.any(pc.match_substring(cells, ".")).as_py():
        return None
    try:
        return _as_numbers(pc.replace_substring(cells, ",", ".").cast(pa.float64()))
    except pa.ArrowInvalid:
        return None


def _as_text(cells: pa.Array) -> NDArray[Any]:
    return np.array(cells.to_pylist(), dtype=np.str_)


def _as_numbers(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_floating(column.type):
        return np.array(column.to_numpy(zero_copy_only=False))  # NaN where missing
    values = np.array(column.fill_null(pa.scalar(0).cast(column.type)).to_numpy(zero_copy_only=False))
    missing = np.array(column.is_null().to_numpy(zero_copy_only=False))
    return np.ma.masked_array(values, missing) if missing.any() else values
