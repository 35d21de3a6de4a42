"""Files: the ending of a name says the format, and a file is there as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import storage
from pipeline.disk import PARTIAL_SUFFIX
from pipeline.errors import ConfigError
from pipeline.results.tables.table import Writable

Writer = Callable[[Writable, Path], int]


def _parquet(table: Writable, path: Path) -> int:
    from pipeline.results.tables.flat import write_parquet

    return write_parquet(table, path)


def _csv(table: Writable, path: Path) -> int:
    from pipeline.results.tables.flat import write_csv

    return write_csv(table, path)


def _ecsv(table: Writable, path: Path) -> int:
    from pipeline.results.tables.flat import write_ecsv

    return write_ecsv(table, path)


def _fits(table: Writable, path: Path) -> int:
    from pipeline.results.tables.fits import write_fits

    return write_fits(table, path)


FORMATS: dict[str, Writer] = {".parquet": _parquet, ".fits": _fits, ".csv": _csv, ".ecsv": _ecsv}
"""The formats of single files, by the ending of their names."""


def write_table(table: Writable, output: str) -> int:
    """Write a table to a file, by its ending, and return how many rows it has; it is whole or not there.

    What a CSV file is stands in one beside it, whose name is longer by -metadata.json.
    """
    ending = ending_of(output, tuple(FORMATS))
    require_output(output)
    with whole(output) as path:
        rows = FORMATS[ending](table, path)
    if ending == ".csv":
        from pipeline.results.tables.flat import write_metadata

        with whole(f"{output}-metadata.json") as path:
            write_metadata(table, output.rpartition("/")[2], path)
    return rows


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


def require_output(output: str) -> None:
    """Refuse a file of the user's that cannot be written, and make the folder of one that can. Raises ConfigError."""
    expected, local = "a file that can be written", storage.local_path(output)
    if storage.protocol(output) in storage.WEB:
        raise ConfigError("--output", output, expected, "a web server takes no files: name a path or a bucket")
    if local is None:
        return
    if local.is_dir():
        raise ConfigError("--output", output, expected, "there is a folder of that name")
    folder = local.absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--output", output, expected, f"{folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError("--output", output, expected, f"nothing can be written to {folder}")
