"""VOTable and ECSV catalogs, which astropy reads whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from astropy.io.votable import parse
from astropy.io.votable.tree import Resource, VOTableFile
from astropy.table import Table as AstropyTable
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from pipeline.catalog.formats.units import fits_unit
from pipeline.catalog.table import Table, sliced, unique_names, without_values
from pipeline.errors import RefusedError


def open_votable(file: IO[bytes], url: str) -> Table:
    """Read the table of a VOTable.

    Raises ValueError for a server's message in the place of a table, RefusedError for several tables and for an answer
    that the server cut or gave up, and astropy's errors.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # on what is unusual and harmless
        document = parse(file)
        tables = [table for table in document.iter_tables() if table.fields]
    said = _said(document)
    if not tables:
        raise ValueError("it has no table" + (f"; the server says {said[0]}" if said else ""))
    _require_whole(said, url)
    full = [table for table in tables if len(table.array)]
    if len(full) > 1:
        problem = f"{url} has {len(full)} tables with rows"
        raise RefusedError("CATALOG", problem, "put each result set into a file by itself")
    first = (full or tables)[0]
    labels = unique_names([field.name or field.ID or "" for field in first.fields])
    array = first.array  # its columns are in the order of the fields, under names of astropy's
    columns = {label: _values(array[own]) for label, own in zip(labels, array.dtype.names, strict=True)}
    units = {label: fits_unit(field.unit) for label, field in zip(labels, first.fields, strict=True)}
    return Table(labels, sliced(columns), {name: unit for name, unit in units.items() if unit})


def _said(document: VOTableFile) -> list[str]:
    """Return what the server says of the query's success (DALI 1.1, section 4.4)."""
    holders = [document, *_resources(document), *document.iter_tables()]
    infos = [info for holder in holders for info in holder.infos if info.name == "QUERY_STATUS"]
    return [f"{info.value} {info.content or ''}".strip() for info in infos]


def _resources(holder: VOTableFile | Resource) -> Iterator[Resource]:
    for resource in holder.resources:
        yield resource
        yield from _resources(resource)


def _require_whole(said: list[str], url: str) -> None:
    for status in said:
        if status.upper().startswith("OVERFLOW"):
            remedy = "ask for fewer rows at a time, or raise the limit (MAXREC)"
            raise RefusedError("CATALOG", f"{url} is not whole: the server cut the answer ({status})", remedy)
        if status.upper().startswith("ERROR"):
            raise RefusedError("CATALOG", f"{url} is not whole: the server says {status}", "ask again")


def open_ecsv(file: IO[bytes]) -> Table:
    """Read an ECSV file. Raises astropy's errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        table = AstropyTable.read(file.read().decode("utf-8-sig").splitlines(), format="ascii.ecsv")
    columns = {
        name: _values(np.ma.asarray(table[name])) if hasattr(table[name], "dtype") else without_values(len(table))
        for name in table.colnames
    }
    units = {name: fits_unit(getattr(table[name], "unit", None)) for name in table.colnames}
    return Table(tuple(table.colnames), sliced(columns), {name: unit for name, unit in units.items() if unit})


def _values(column: Any) -> NDArray[Any]:  # noqa: ANN401 - astropy has no types
    """Return a column as numbers or text, missing values masked; any other gets the shape (N, 0)."""
    data, mask = np.ma.getdata(column), np.ma.getmaskarray(column)
    if data.ndim != 1:
        return without_values(len(data))
    if data.dtype.kind == "O":
        if not all(isinstance(value, str | bytes) or value is None for value in data):
            return without_values(len(data))
        mask = mask | np.array([value is None for value in data], dtype=np.bool_)
        words = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value or "" for value in data]
        data = np.array(words, dtype=np.str_)
    elif data.dtype.kind not in "biufSU":
        return without_values(len(data))
    data = np.asarray(data, dtype=data.dtype.newbyteorder("="))
    return np.ma.masked_array(data, mask) if mask.any() else data
