"""Parquet catalogs, read by column and row group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.catalog.formats.units import fits_unit
from pipeline.catalog.table import Table, unique_names, without_values
from pipeline.surveys.columns import Columns


def open_parquet(file: IO[bytes]) -> Table:
    """Open a Parquet file. Raises what pyarrow raises."""
    table = pq.ParquetFile(file)
    own = table.schema_arrow.names
    labels = unique_names(own)
    # pyarrow finds columns by name: where two have one, all are read, and found by their places
    are_unique = len(set(own)) == len(own)

    def blocks(names: Sequence[str], rows: int) -> Iterator[Columns]:
        if not table.metadata.num_rows:
            yield {name: np.empty(0) for name in names}
        chosen = list(names) if are_unique else None
        for batch in table.iter_batches(rows, columns=chosen, use_threads=False):  # see targets._open_table
            yield {name: _values(batch.column(name if are_unique else labels.index(name))) for name in names}

    units = {label: unit for label, each in zip(labels, table.schema_arrow, strict=True) if (unit := _unit(each))}
    return Table(labels, blocks, units)


def _unit(field: pa.Field) -> str | None:
    """Return a column's unit: as our tables say it, or as pyarrow's users do."""
    metadata = field.metadata or {}
    own = json.loads(metadata[b"attributes"]).get("units") if b"attributes" in metadata else None
    text = own or (metadata.get(b"unit") or metadata.get(b"units") or b"").decode("utf-8", "replace")
    return fits_unit(text)


def _values(column: pa.Array) -> NDArray[Any]:
    """Convert a column to numpy, nulls masked; one that is neither number nor text gets the shape (N, 0)."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.uint64() if kind.scale == 0 and (pc.min(column).as_py() or 0) >= 0 else pa.float64())
        kind = column.type
    if pa.types.is_string_view(kind):
        column, kind = column.cast(pa.string()), pa.string()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        data = np.array(column.fill_null("").to_pylist(), dtype=np.str_)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        data = np.array(column.fill_null(b"").to_pylist(), dtype=np.bytes_)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        data = column.fill_null(pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False)
    elif pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    else:
        return without_values(len(column))
    return np.ma.array(data, mask=missing) if missing.any() else data
