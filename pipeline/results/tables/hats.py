"""Tables as HATS catalogs: Parquet files by pixels of the sky, which LSDB opens and crossmatches."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pipeline import storage
from pipeline.disk import PARTIAL_SUFFIX
from pipeline.errors import ConfigError, RefusedError
from pipeline.results.tables.flat import write_parquet
from pipeline.results.tables.table import ResultsTable

if TYPE_CHECKING:
    from distributed import Client

_MISSING = "hats-import is not installed"
_REMEDY = "pip install 'spender-pipeline[analysis]'"
POSITION = ("ra", "dec")


def write_hats(table: ResultsTable, output: str) -> int:
    """Write a table as a HATS catalog by hats-import; return how many rows it has.

    output: a folder on a disk, which must not be there. The work is done on the Dask cluster whose client is active,
    or else in threads here. The header is in the catalog's properties. Raises ConfigError for a table without
    positions, and for rows that have none.
    """
    try:
        from hats_import.catalog.arguments import ImportArguments
        from hats_import.pipeline import pipeline_with_client
    except ImportError as error:
        raise RefusedError("--output", _MISSING, _REMEDY) from error
    folder = storage.local_path(output.rstrip("/"))
    if folder is None:
        raise ConfigError("--output", output, "a folder on a disk", "copy it from there to its bucket")
    if folder.exists():
        raise ConfigError("--output", output, "a folder that is not there", "remove it, or choose another name")
    _require_positions(table)
    scratch = folder.absolute().parent / f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
    try:
        scratch.mkdir(parents=True)
        rows = write_parquet(table, scratch / "table.parquet")
        if not rows:
            raise RefusedError("--where", "no row is chosen: a catalog without rows cannot be made", "choose others")
        arguments = ImportArguments(
            output_path=scratch,
            output_artifact_name=folder.stem,
            input_file_list=[scratch / "table.parquet"],
            file_reader="parquet",
            ra_column=POSITION[0],
            dec_column=POSITION[1],
            addl_hats_properties={f"spender_{key}": text for key, text in table.header.items()},
            tmp_dir=scratch,
            resume=False,
            progress_bar=False,
            should_write_skymap=False,
        )
        with _client() as client, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of hats-import's own libraries
            pipeline_with_client(arguments, client)
        os.replace(scratch / folder.stem, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return rows


def _require_positions(table: ResultsTable) -> None:
    names = {column.name for column in table.columns}
    missing = [name for name in POSITION if name not in names]
    if missing:
        raise RefusedError("columns", f"the table has no column {missing[0]}", "a HATS catalog needs ra and dec")
    frame = table.frame_of(POSITION)
    lost = int(np.count_nonzero(~np.isfinite(frame.to_numpy(np.float64)).all(axis=1)))
    if lost:
        raise RefusedError(
            "--where", f"{lost} rows have no position", "leave them out: --where 'ra >= 0 and dec >= -90'"
        )


@contextmanager
def _client() -> Iterator[Client]:
    """Give the active client, or one of threads of this process."""
    from distributed import Client, default_client

    try:
        yield default_client()  # type: ignore[no-untyped-call]
        return
    except ValueError:
        pass
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.WARNING)  # what a cluster in threads says of itself helps nobody
    try:
        with Client(**options) as client:  # type: ignore[no-untyped-call]
            yield client
    finally:
        logger.setLevel(before)
