"""Columns that the folders of Parquet files name, as Spark, Dask and pandas write them: `run2d=103/part-0.parquet`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from pipeline.catalog.formats.cells import Types
from pipeline.catalog.table import Kinds, Table
from pipeline.surveys.columns import Columns

_MISSING = "__HIVE_DEFAULT_PARTITION__"


def partitions_of(places: Sequence[str], kinds: Kinds) -> list[Columns]:
    """Return for each file the columns that its folders name, with its one value, shape (1,).

    A column is numbers only if it is in all of the files.
    """
    named = [_named(place) for place in places]
    found: list[Columns] = [{} for _ in places]
    for name in dict.fromkeys(name for each in named for name in each):
        having = [i for i, each in enumerate(named) if name in each]
        values = Types(kinds).values(pa.array([named[i][name] for i in having], pa.string()), name)
        for row, i in enumerate(having):
            found[i][name] = values[row : row + 1]
    return found


def with_partitions(table: Table, partitions: Columns) -> Table:
    """Return a table with the columns that its file's folders name, where it does not have them itself."""
    own = {name.lower() for name in table.names}
    further = {name: value for name, value in partitions.items() if name.lower() not in own}
    if not further:
        return table

    def blocks(names: Sequence[str], rows: int) -> Iterator[Columns]:
        stored = [name for name in names if name not in further] or table.names[:1]
        for block in table.blocks(stored, rows):
            size = len(next(iter(block.values())))
            yield {name: further[name][np.zeros(size, np.intp)] if name in further else block[name] for name in names}

    return replace(table, names=(*table.names, *further), blocks=blocks)


def _named(place: str) -> dict[str, str]:
    folders = [folder.partition("=") for folder in place.split("/")[:-1]]
    pairs = {unquote(name): unquote(value) for name, equal, value in folders if name and equal}
    return {name: "" if value == _MISSING else value for name, value in pairs.items()}
