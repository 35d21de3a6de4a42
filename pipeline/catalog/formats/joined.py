"""A table with the columns of others that have the same rows, and with values that hold for all of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.catalog.table import Table
from pipeline.surveys.columns import Columns


def joined(table: Table, others: Sequence[Columns], constants: Mapping[str, object], rows: int) -> Table:
    """Return a table with further columns, of which those come first that are its own.

    others: tables of as many rows, row by row the same. constants: by name, the same in every row. rows: their number.
    Its blocks raise ValueError where a column that two of the tables have differs.
    """
    further: Columns = {}
    for columns in others:
        further |= {name: values for name, values in columns.items() if name not in {*table.names, *further}}
    taken = {name.lower() for name in (*table.names, *further)}
    constant = {name: value for name, value in constants.items() if name.lower() not in taken}
    if not further and not constant:
        return table
    shared = [name for name in table.names if any(name in columns for columns in others)]

    def blocks(names: Sequence[str], count: int) -> Iterator[Columns]:
        own = tuple(dict.fromkeys([*(name for name in table.names if name in names), *shared])) or table.names[:1]
        start = 0
        for block in table.blocks(own, count):
            size = len(block[own[0]]) if rows else 0
            span = slice(start, start + size)
            _require_same({name: block[name] for name in shared}, others, span)
            made = block | {name: values[span] for name, values in further.items()}
            made |= {name: np.full(size, value) for name, value in constant.items()}
            yield {name: made[name] for name in names}
            start += size

    return replace(table, names=(*table.names, *further, *constant), blocks=blocks)


def _require_same(block: Columns, others: Sequence[Columns], span: slice) -> None:
    for name, values in block.items():
        for columns in others:
            if name in columns and not np.array_equal(values, columns[name][span]):
                raise ValueError(f"two tables of the file differ in {name}: their rows are not the same")
