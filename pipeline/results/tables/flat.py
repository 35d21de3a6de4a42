"""Tables as Parquet, CSV and ECSV: one column for each number, written block by block."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.io import ascii as text_tables
from astropy.table import Column as TextColumn
from astropy.table import Table
from pyarrow import csv

from pipeline.results.tables.columns import Column, flat
from pipeline.results.tables.table import Writable


def write_parquet(table: Writable, path: Path) -> int:
    """Write a table as Parquet; return how many rows it has.

    The header is the file's key-value metadata; each column's metadata hold its unit, ucd and description.
    """
    columns, rows = flat(table.columns), 0
    schema = pa.schema([_field(column) for column in columns]).with_metadata(table.header)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for block in table.blocks(columns):
            file.write_table(block.cast(schema))
            rows += len(block)
    return rows


def write_csv(table: Writable, path: Path) -> int:
    """Write a table as CSV below a line of its columns' names; return how many rows it has.

    Nothing else is in it, so that whatever reads CSV reads it; `write_metadata` says what it is. Numbers are written so
    that they are read back bit by bit; empty text is a missing value.
    """
    columns = flat(table.columns)
    return _write_rows(table, columns, path, ",".join(column.name for column in columns) + "\n")


def write_ecsv(table: Writable, path: Path) -> int:
    """Write a table as astropy's ECSV, as `write_csv` does; return how many rows it has.

    Lines that begin with # are the header and the units, types and descriptions of the columns.
    """
    columns = flat(table.columns)
    return _write_rows(table, columns, path, _ecsv_header(columns, table.header))


def write_metadata(table: Writable, name: str, path: Path) -> None:
    """Write what a CSV file of this name is, in the form of W3C's Metadata Vocabulary for Tabular Data.

    https://www.w3.org/TR/tabular-metadata: the header as notes, and the columns' units and descriptions.
    """
    columns = [
        {
            "name": column.name,
            **({"dc:description": column.description} if column.description else {}),
            **({"unit": column.units} if column.units else {}),
            **({"ucd": str(column.attributes["ucd"])} if "ucd" in column.attributes else {}),
        }
        for column in flat(table.columns)
    ]
    said = {
        "@context": "http://www.w3.org/ns/csvw",
        "url": name,
        "dc:title": table.header["title"],
        "notes": [table.header],
        "tableSchema": {"columns": columns},
    }
    path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _write_rows(table: Writable, columns: Sequence[Column], path: Path, head: str) -> int:
    rows, options = 0, csv.WriteOptions(include_header=False)
    with path.open("wb") as file:
        file.write(head.encode())
        for block in table.blocks(columns):
            csv.write_csv(_readable(block), file, options)
            rows += len(block)
    return rows


def _field(column: Column) -> pa.Field:
    facts = {"unit": column.units, "ucd": str(column.attributes.get("ucd", "")), "description": column.description}
    return pa.field(column.name, column.arrow, metadata={key: text for key, text in facts.items() if text})


def _ecsv_header(columns: Sequence[Column], header: dict[str, str]) -> str:
    """Return the first lines of the file: what astropy writes of a table of these columns without rows."""
    empty = Table(
        [
            TextColumn(
                [],
                name=column.name,
                dtype=np.dtype("U1") if column.dtype == "str" else np.dtype(column.dtype),
                unit=column.units or None,
                description=column.description or None,
                meta={"ucd": column.attributes["ucd"]} if "ucd" in column.attributes else None,
            )
            for column in columns
        ],
        meta=header,
    )
    text = io.StringIO()
    text_tables.write(empty, text, format="ecsv", delimiter=",")
    return text.getvalue()


def _readable(block: pa.Table) -> pa.Table:
    """Write truth as Python does, True and False: ECSV knows no other."""
    for place, column in enumerate(block.schema):
        if pa.types.is_boolean(column.type):
            block = block.set_column(place, column.name, pc.if_else(block[column.name], "True", "False"))
    return block
