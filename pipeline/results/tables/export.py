"""Write the results table of a run to a file; its ending says the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.results.tables.files import FORMATS, ending_of, write_table
from pipeline.results.tables.table import ResultsTable, Where
from pipeline.storage import Place, place


@dataclass(frozen=True)
class Exported:
    """What was written: where, how many rows, and how many were left out since their chunks are not done."""

    output: str
    rows: int
    rows_not_done: int


HATS = ".hats"
"""The ending of a folder that is a HATS catalog."""


def export(
    root: Place,
    output: Place,
    *,
    model: str | None = None,
    columns: str | Sequence[str] | None = None,
    where: Where | None = None,
    good: bool = False,
) -> Exported:
    """Write the results of a model as one table to a file, one row per spectrum; its ending says the format.

    root: folder of the run. output: a path or any fsspec URL that ends in .parquet, .fits, .csv or .ecsv, or a folder
    on a disk that ends in .hats (a HATS catalog, of rows with positions; needs the extra `analysis`). It is there as a
    whole or not at all. model: may be left out when the run has one only. columns: names of columns of `Run.table`,
    default all. where: a condition on them, such as "z < 0.1 and quality == 0", or a mask of the run's rows. good: only
    the recommended selection, see `Run.good`. The file says which model, checkpoint, versions and sources it is of,
    under which licence, and how to cite; for CSV, a file beside it says so, whose name is longer by -metadata.json.
    Rows of chunks that are not done are left out, and counted. Raises ConfigError for another ending, for columns that
    there are not, and where nothing is encoded yet.

    >>> export("s3://bucket/dr17", "dr17.fits", model="sdss_II")
    """
    from pipeline.results.run import open_run

    url = place(output, "--output")
    ending_of(url, (*FORMATS, HATS))
    return export_table(open_run(root).results(model, columns=columns, where=where, good=good), url)


def export_table(table: ResultsTable, output: str) -> Exported:
    """Write a table to a file; .parquet, .fits, .csv, .ecsv or .hats. It is there as a whole or not at all.

    output: a path or any fsspec URL. Raises ConfigError for another ending.
    """
    ending = ending_of(output, (*FORMATS, HATS))
    if ending == HATS:
        from pipeline.results.tables.hats import write_hats

        return Exported(output, write_hats(table, output), table.n_left_out)
    return Exported(output, write_table(table, output), table.n_left_out)
