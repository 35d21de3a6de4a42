"""Some spectra of a run as a table that was made of its results: a frame, and what is written to files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.results.tables.columns import MADE, Column, by_name, flat
from pipeline.results.tables.files import FORMATS, ending_of, write_table
from pipeline.results.tables.header import header

if TYPE_CHECKING:
    from pipeline.results.data import RunData
    from pipeline.results.tables.table import ResultsTable

MOST_OF = {".pdf": 1000, ".png": 100}
"""Spectra of a contact sheet, by the ending of its name: a picture has one page."""

MOST = 10_000
"""Spectra that are listed."""

ENDINGS = (*FORMATS, *MOST_OF)
"""Of all files that are written."""

IDENTITY = ("target", "ra", "dec", "z", "z_fit", "class", "sn_median")
"""Columns of the results table that say which spectrum it is, where there are such."""

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Found:
    """Spectra of a run, in order. columns: flat. values: of each, shape (N,). said: what the table is, by key."""

    table: ResultsTable
    rows: Rows
    columns: list[Column]
    values: dict[str, NDArray[Any]]
    said: dict[str, str]

    @property
    def header(self) -> dict[str, str]:
        """What a file of it says of its origin."""
        whole = self.table
        return {**header(whole.root, whole.plan, whole.model, whole.done, {}), **self.said}

    def counted(self) -> list[int]:
        """Return how many rows there are: one block of all."""
        return [len(self.rows)]

    def blocks(self, columns: Sequence[Column] | None = None) -> Iterator[pa.Table]:
        """Yield the rows as one block; columns: some of its own."""
        chosen = self.columns if columns is None else columns
        yield pa.table({each.name: pa.array(self.values[each.name], each.arrow) for each in chosen})

    def frame(self) -> pd.DataFrame:
        """Return it as a frame; the index is the row in the run, `attrs` what the table is, and its units."""
        frame: pd.DataFrame = next(self.blocks()).to_pandas()
        frame.index = pd.Index(self.rows, name="row", dtype=np.int64)
        units = {column.name: column.units for column in self.columns if column.units}
        frame.attrs = {"model": self.table.model.name, **self.said, "units": units}
        return frame

    def write(
        self,
        run: RunData,
        outputs: Sequence[str],
        said: Sequence[str],
        marks: Sequence[float],
        first: int | None = None,
    ) -> None:
        """Write it to files; their endings say whether as a table or as a contact sheet.

        said, marks: of each spectrum on the sheet, see `draw_sheet`. first: a row of the run with which it begins.
        Raises ConfigError, before any is written, for other endings, and for more spectra than a sheet has room for.
        """
        count = len(self.rows) + (first is not None)
        for ending in [ending_of(output, ENDINGS) for output in outputs]:
            if count > MOST_OF.get(ending, count):
                remedy = "write a table, or ask for fewer" + ("" if ending == ".pdf" else ", or a .pdf")
                raise ConfigError("n", count, f"at most {MOST_OF[ending]} spectra in a {ending}", remedy)
        rows, captions = self.rows, [f"{number}:  {text}" for number, text in enumerate(said, 1)]
        if first is not None:
            rows, captions, marks = np.append(first, rows), ["the spectrum itself", *captions], [np.nan, *marks]
        for output in outputs:
            if ending_of(output, ENDINGS) in FORMATS:
                write_table(self, output)
            else:
                from pipeline.results.figures.sheet import write_sheet  # matplotlib: not for every table

                write_sheet(run, rows, output, self.table.model.name, captions, marks)


def require_number(n: object) -> None:
    """Refuse what is no number of spectra to list. Raises ConfigError."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST:
        raise ConfigError("n", n, f"1 to {MOST} spectra")


def read(table: ResultsTable, rows: Rows, names: Sequence[str]) -> tuple[list[Column], dict[str, NDArray[Any]]]:
    """Return columns of a results table, those of `names` that it has, and their values in some rows; all flat."""
    known = by_name(table.available)
    columns = flat([known[name] for name in names if name in known])
    return columns, table.at(rows, [column.name for column in columns])


def made(name: str, description: str, dtype: str = "float32", units: str = "1") -> Column:
    """Return a column that is computed of others."""
    return Column(name, dtype, MADE, {"long_name": description, "units": units})
