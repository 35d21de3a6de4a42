"""Write the results table of a run to a file; its ending says the format."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from pipeline.disk import PARTIAL_SUFFIX
from pipeline.errors import ConfigError
from pipeline.results.tables.table import ResultsTable, Where
from pipeline.storage import Place, place

Writer = Callable[[ResultsTable, Path], int]


@dataclass(frozen=True)
class Exported:
    """What was written: where, how many rows, and how many were left out since their chunks are not done."""

    output: str
    rows: int
    rows_not_done: int


def _parquet(table: ResultsTable, path: Path) -> int:
    from pipeline.results.tables.flat import write_parquet

    return write_parquet(table, path)


def _csv(table: ResultsTable, path: Path) -> int:
    from pipeline.results.tables.flat import write_csv

    return write_csv(table, path)


def _ecsv(table: ResultsTable, path: Path) -> int:
    from pipeline.results.tables.flat import write_ecsv

    return write_ecsv(table, path)


def _fits(table: ResultsTable, path: Path) -> int:
    from pipeline.results.tables.fits import write_fits

    return write_fits(table, path)


FORMATS: dict[str, Writer] = {".parquet": _parquet, ".fits": _fits, ".csv": _csv, ".ecsv": _ecsv}
"""The formats of single files, by the ending of their names."""

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
    with whole(output) as path:
        rows = FORMATS[ending](table, path)
    if ending == ".csv":
        from pipeline.results.tables.flat import write_metadata

        with whole(f"{output}-metadata.json") as path:
            write_metadata(table, output.rpartition("/")[2], path)
    return Exported(output, rows, table.n_left_out)


def ending_of(output: str, endings: tuple[str, ...]) -> str:
    """Return the ending of a name, in lower case. Raises ConfigError for one that is not among those given."""
    found = next((ending for ending in endings if output.lower().endswith(ending)), None)
    if found is None:
        raise ConfigError("--output", output, f"a name that ends in {' or '.join(endings)}", "the ending is the format")
    return found


@contextmanager
def whole(output: str) -> Iterator[Path]:
    """Give a path to write to, and bring the file from there to its place when all is written."""
    local = storage.local_path(output)
    folder = tempfile.gettempdir() if local is None else str(local.absolute().parent)
    ending = os.path.splitext(output)[1]
    path = Path(folder, f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}{ending}")
    try:
        if local is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        yield path
        if local is not None:
            os.replace(path, local)
        else:
            fs, inner = storage.filesystem(output)
            with storage.translated_errors(output):
                fs.put_file(str(path), inner)
    finally:
        path.unlink(missing_ok=True)
