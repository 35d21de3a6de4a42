"""A catalog that is open: the names and units of its columns, and their values in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.surveys.columns import Columns

Blocks = Callable[[Sequence[str], int], Iterator[Columns]]
"""Names of columns and a number of rows -> these columns in blocks of at most so many rows; one block if there are no
rows. May be called once."""


@dataclass(frozen=True)
class Table:
    """A catalog that is open.

    names: of all columns, each once (`unique_names`). blocks: gives their values. units: of the columns that say it, in
    the form of FITS. others: says which further tables the file has, "" for none; it is called in place of the blocks,
    as it reads on in the file. form: its format, as `opening.format_of` names it.
    title: what stands above a list of targets, "" for nothing.
    """

    names: tuple[str, ...]
    blocks: Blocks
    units: Mapping[str, str] = field(default_factory=dict)
    others: Callable[[], str] = lambda: ""
    form: str = ""
    title: str = ""


@dataclass(frozen=True)
class Kinds:
    """What a file does not tell of its columns. text, ids: names in lower case.

    text: text whatever they look like, such as run2d, "26" and "v5_13_2". ids: whole numbers of up to 64 bits, which
    floats would cut. is_key: whether text names a target: lines of such are a catalog of one column, `target`.
    keywords, beside: of FITS files: keywords and tables that give further columns, see `CatalogColumns`.
    """

    text: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    is_key: Callable[[str], bool] = lambda text: False
    keywords: tuple[str, ...] = ()
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


NO_KINDS = Kinds()

KEY = "target"
"""Name of the column of a list of targets without names of columns."""


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of columns that differ: the second "z" of a join becomes "z_2", a column without name "column_7"."""
    found: list[str] = []
    for number, name in enumerate(names, start=1):
        base = name or f"column_{number}"
        label, copy = base, 1
        while label in found or (copy > 1 and label in names):
            copy += 1
            label = f"{base}_{copy}"
        found.append(label)
    return tuple(found)


def sliced(columns: Columns) -> Blocks:
    """Return the blocks of columns that are in memory."""
    size = len(next(iter(columns.values()))) if columns else 0

    def blocks(names: Sequence[str], rows: int) -> Iterator[Columns]:
        for start in range(0, max(size, 1), rows):
            yield {name: columns[name][start : start + rows] for name in names}

    return blocks


def without_values(size: int) -> NDArray[np.float64]:
    """Return the stand-in for a column that is neither number nor text, or has several values per row: (rows, 0)."""
    return np.empty((size, 0))
