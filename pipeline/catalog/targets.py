"""Catalogs of a survey -> the table of targets, one row per spectrum.

The row number in this table is the position along `spectrum` in every store of a run.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import reduce
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.catalog.kept import attributes_in, fields_of, kept_columns
from pipeline.catalog.reader import BLOCK, open_catalog
from pipeline.catalog.selection import SUGGESTED, Found, Reading, Wishes, kinds_of, with_kept
from pipeline.catalog.table import Table
from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.columns import Coordinate
from pipeline.surveys.registry import DEFAULT, get_survey
from pipeline.surveys.survey import Survey

Settle = Callable[[pd.DataFrame, NDArray[np.bool_], bool], tuple[pd.DataFrame, Sequence[str]]]
"""Settles what a catalog leaves open. Is given targets, which of them have a reduction that is only suggested, and
whether the catalog says their redshifts; returns them, in this order, and what was decided, a line each."""

# Arrow's own pool would keep what freed tables held: of a whole survey's, gigabytes.
pa.set_memory_pool(pa.system_memory_pool())


def schema_of(survey: Survey, kept: Mapping[str, Coordinate] | None = None) -> pa.Schema:
    """Return the columns of a survey's targets table: its coordinates, then those that were kept."""
    kinds = {"str": pa.string()}
    fields = [
        pa.field(name, kinds.get(each.dtype) or pa.from_numpy_dtype(each.dtype), nullable=False)
        for name, each in survey.coordinates.items()
    ]
    return pa.schema([*fields, *fields_of(dict(kept or {}))])


@dataclass(frozen=True)
class Selection:
    """Targets found in a catalog of so many rows; remarks: what a user should know of them, with how many.

    kept: the frame's columns beside the survey's. said: what was decided about the catalog's columns, a line each.
    """

    frame: pd.DataFrame
    rows: int
    remarks: dict[str, int]
    kept: Mapping[str, Coordinate] = dataclass_field(default_factory=dict)
    said: tuple[str, ...] = ()


def read_targets(catalog_url: str, where: str | None = None, survey: Survey | None = None) -> pd.DataFrame:
    """Read the targets of a catalog: the frame of `find_targets`."""
    return find_targets(catalog_url, where, survey).frame


def find_targets(
    catalog_url: str,
    where: str | None = None,
    survey: Survey | None = None,
    block: int = BLOCK,
    *,
    columns: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    unique: bool = False,
    skip_incomplete: bool = False,
    settle: Settle | None = None,
    check: bool = False,
    opened: Table | None = None,
    said: Sequence[str] = (),
) -> Selection:
    """Find the targets of a catalog.

    catalog_url: as of `reader.open_catalog`; it is read in blocks of so many rows, of which the chosen ones are kept.
    where: a `where.select` expression over the catalog's own columns, and over ours; None takes every row. survey:
    default SDSS. columns: ours -> the catalog's, where the choice by aliases will not do. keep: further columns of the
    catalog, which become coordinates. unique: of rows that repeat a spectrum the first is taken. skip_incomplete: rows
    without the ids of a spectrum are left out. settle: settles what the survey says that a catalog may lack; without it
    a catalog must say all. check: it is called even where nothing is open. opened: the catalog, where it is open. said:
    what was decided about it before.
    Returns the survey's coordinates, sorted by the columns that tell its targets apart, then those kept. Names of
    columns match in any case, their aliases too; absent columns are filled as the survey says.
    Raises ConfigError for an unreadable catalog, missing columns, ids that are missing or no whole numbers, duplicates,
    no rows.
    """
    survey = survey or get_survey(DEFAULT)
    wishes = Wishes(where, dict(columns or {}), tuple(keep))
    with nullcontext(opened) if opened else open_catalog(catalog_url, kinds_of(survey, wishes.columns)) as opened:
        reading = Reading.of(opened, catalog_url, wishes, survey, settled=settle is not None)
        found = Found()
        for values in opened.blocks(reading.names, block):
            found.add(values, reading, survey)
        units = opened.units
    if not found.rows:
        raise ConfigError("CATALOG", catalog_url, "a catalog with at least one row")
    if not found.selected:
        remedy = "; ".join(found.shadowed)
        raise ConfigError("--where", where, f"at least one of the catalog's {found.rows} rows to match", remedy)
    table = found.table(catalog_url, skip_incomplete=skip_incomplete)
    has_z = found.choice is not None and "z" in found.choice.names
    table, lines = _settled(table, catalog_url, survey, settle, has_z=has_z, check=check)
    table, repeated = _sorted(table, survey, unique=unique)
    frame, kept = with_kept(_to_frame(table, survey), table, reading, units, survey)
    counts = {
        "without a usable redshift; some models need it": _without_z(table),
        **found.remarks,
        "left out, without the ids of a spectrum (--skip-incomplete)": found.incomplete,
        "left out, which repeat others (--unique)": repeated,
    }
    said = (*said, *(found.choice.said if found.choice else ()), *found.shadowed, *lines)
    return Selection(frame, found.rows, {text: count for text, count in counts.items() if count}, kept, said)


def write_targets(
    frame: pd.DataFrame,
    url: str,
    row_group: int | None = None,
    survey: Survey | None = None,
    kept: Mapping[str, Coordinate] | None = None,
) -> None:
    """Write a targets table as Parquet, whole, the same bytes for the same table.

    row_group: rows per group, the unit that `read_rows` reads; a plan uses its shard. kept: its further columns.
    """
    schema = schema_of(survey or get_survey(DEFAULT), kept)
    arrays = [pa.array(frame[field.name], type=field.type, from_pandas=False) for field in schema]
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=schema), buffer, row_group_size=row_group, compression="zstd")
    storage.write_bytes(url, buffer.getvalue())


def columns_of(url: str) -> list[str]:
    """Return the names of a targets table's columns. Raises ConfigError."""
    with _open_table(url, ("target",)) as table:
        return list(table.schema_arrow.names)


def count(url: str) -> int:
    """Return the number of rows of a targets table, from its footer."""
    with _open_table(url, ("target",)) as table:
        return int(table.metadata.num_rows)


def read_table(url: str, survey: Survey) -> tuple[pd.DataFrame, dict[str, Coordinate]]:
    """Read a targets table that others may have written, and its further columns. Raises as `checked_frame`."""
    with _open_table(url, schema_of(survey).names) as table:
        own = _checked(table.read(list(survey.coordinates), use_threads=False), url, survey, 0, None)
        frame = own.to_pandas(split_blocks=True, self_destruct=True)
        further = [name for name in table.schema_arrow.names if name not in survey.coordinates and not _is_index(name)]
        frame = frame.assign(**table.read(further, use_threads=False).to_pandas()) if further else frame
        frame, kept = kept_columns(frame, further, survey, attributes_in(table.schema_arrow))
    _require_unique(frame)
    return frame, kept


def _is_index(name: str) -> bool:
    """Tell a column in which pandas keeps the index of a frame."""
    return name.startswith("__index_level_")


def read_rows(
    url: str, start: int, stop: int, survey: Survey | None = None, kept: Mapping[str, Coordinate] | None = None
) -> pd.DataFrame:
    """Read rows start ... stop - 1 of a targets table; only the row groups that hold them are fetched.

    kept: the further columns to read.
    """
    survey = survey or get_survey(DEFAULT)
    schema = schema_of(survey, kept)
    with _open_table(url, schema.names) as table:
        sizes = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
        ends = np.cumsum([0, *sizes])
        if not 0 <= start <= stop <= ends[-1]:
            raise ValueError(f"rows {start} to {stop} are not in the table of {ends[-1]} rows")
        groups = [i for i in range(len(sizes)) if ends[i] < stop and ends[i + 1] > start]
        if not groups:
            return schema.empty_table().to_pandas()
        rows = table.read_row_groups(groups, columns=schema.names, use_threads=False)
        rows = rows.slice(start - int(ends[groups[0]]), stop - start)
        checked = _checked(rows.select(schema.names), url, survey, start, kept)
        return checked.to_pandas(split_blocks=True, self_destruct=True)


def read_columns(
    url: str, names: Sequence[str], survey: Survey, kept: Mapping[str, Coordinate] | None = None
) -> Iterator[pd.DataFrame]:
    """Yield a few columns of a targets table, some rows after the others; as `read_rows`."""
    schema = schema_of(survey, kept)
    own = pa.schema([schema.field(name) for name in names])
    with _open_table(url, schema.names) as table:
        for batch in table.iter_batches(batch_size=BLOCK, columns=list(names), use_threads=False):
            yield _of_our_types(pa.Table.from_batches([batch]).select(names), url, own).to_pandas()


def read_chosen(
    url: str, rows: NDArray[np.intp], survey: Survey, kept: Mapping[str, Coordinate] | None = None
) -> pd.DataFrame:
    """Read single rows of a targets table, in any order; as `read_rows`."""
    schema = schema_of(survey, kept)
    with _open_table(url, schema.names) as table:
        ends = np.cumsum([0, *(table.metadata.row_group(i).num_rows for i in range(table.num_row_groups))])
        group = np.searchsorted(ends, rows, side="right") - 1
        needed = np.unique(group)
        if len(rows) == 0 or needed[0] < 0 or needed[-1] >= len(ends) - 1:
            raise ValueError(f"rows {rows.tolist()} are not in the table of {ends[-1]} rows")
        starts = np.cumsum([0, *np.diff(ends)[needed]])[:-1]
        found = table.read_row_groups(needed.tolist(), columns=schema.names, use_threads=False)
        places = starts[np.searchsorted(needed, group)] + rows - ends[group]
        checked = _checked(found.take(places).select(schema.names), url, survey, int(rows.min()), kept)
        return checked.to_pandas(split_blocks=True, self_destruct=True)


def checked_frame(frame: pd.DataFrame, survey: Survey, kept: Mapping[str, Coordinate] | None = None) -> pd.DataFrame:
    """Bring targets that a script has made to the types of a targets table. Raises ConfigError, as `read_rows` does.

    Also for a target that is there twice: frames come from joins.
    """
    schema = schema_of(survey, kept)
    missing = [name for name in schema.names if name not in frame.columns]
    if missing:
        remedy = f"the survey {survey.name} needs them: make the table with select_targets(..., survey={survey.name!r})"
        remedy += "; unknown ones are NaN" if missing == ["z"] else ""
        raise RefusedError("targets", f"the columns {', '.join(missing)} are missing", remedy)
    try:
        table = pa.table({name: pa.array(frame[name], from_pandas=True) for name in schema.names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RefusedError("targets", f"a column of targets has values of several types ({error})") from error
    found: pd.DataFrame = _checked(table, "a frame", survey, 0, kept).to_pandas()
    _require_unique(found)
    return found


def _require_unique(frame: pd.DataFrame) -> None:
    twice = frame["target"][frame["target"].duplicated()]
    if len(twice):
        problem = f"targets are there more than once, such as {twice.iloc[0]}"
        raise RefusedError("targets", problem, f"remove the {len(twice)} rows that repeat others")


def _checked(rows: pa.Table, url: str, survey: Survey, start: int, kept: Mapping[str, Coordinate] | None) -> pa.Table:
    # column by column: a whole survey's table would be in memory twice
    rows = _of_our_types(rows, url, schema_of(survey, kept))
    for name, coordinate in survey.coordinates.items():
        if coordinate.pattern is not None:
            _require_match(rows[name], name, coordinate, start)
    return rows


def _of_our_types(rows: pa.Table, url: str, schema: pa.Schema) -> pa.Table:
    """Bring a table that others may have written to the schema's types, without loss. Raises ConfigError."""
    columns = []
    for field in schema:
        key, column = f"targets column {field.name}", rows[field.name]
        try:
            column = column.cast(field.type)
        except (pa.ArrowInvalid, NotImplementedError) as error:
            raise ConfigError(key, url, f"values of type {field.type}", str(error)) from error
        if pa.types.is_floating(field.type):
            column = column.fill_null(math.nan)  # what many writers make of NaN
        if column.null_count:
            raise ConfigError(key, url, f"a value in every row ({column.null_count} rows have none)")
        columns.append(column)
    return pa.table(columns, schema=schema)


def _require_match(column: pa.ChunkedArray, name: str, coordinate: Coordinate, start: int) -> None:
    """Refuse text that would become another path than one of the archive's: others may have written the table."""
    wrong = pc.index(pc.match_substring_regex(column, rf"\A(?:{coordinate.pattern})\z"), False).as_py()
    if wrong >= 0:
        raise ConfigError(f"targets row {start + wrong} column {name}", column[wrong].as_py(), coordinate.example)


@contextmanager
def _open_file(url: str) -> Iterator[IO[bytes]]:
    """Open a file to be read by ranges; one of a web server that gives none is read as a whole."""
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as file:
        if storage.protocol(url) in storage.WEB:
            try:
                file.seek(-1, io.SEEK_END)
                file.read(1)
                file.seek(0)
            except ValueError:  # fsspec's word for a server that ignores ranges
                file = io.BytesIO(storage.read_bytes(url))
        yield file


@contextmanager
def _open_table(url: str, needed: Sequence[str]) -> Iterator[pq.ParquetFile]:
    # What is read of it is read without threads: Arrow's keep files of Python a moment longer than the reading, and a
    # process that ends in this moment is aborted, or never ends (apache/arrow issues 34314 and 50482).
    try:
        with storage.translated_errors(url), _open_file(url) as file, pq.ParquetFile(file) as table:
            missing = [name for name in needed if name not in table.schema_arrow.names]
            if missing:
                raise ConfigError("targets", url, f"a targets table with the columns {', '.join(missing)}")
            yield table
    except FileNotFoundError as error:
        raise ConfigError("targets", url, "a file that exists") from error
    except pa.ArrowInvalid as error:
        remedy = "make one with `spender-pipeline targets CATALOG`"
        raise ConfigError("targets", url, "a targets table in Parquet", remedy) from error


def _settled(
    table: pa.Table, url: str, survey: Survey, settle: Settle | None, *, has_z: bool, check: bool
) -> tuple[pa.Table, Sequence[str]]:
    """Settle what rows leave open; also say what was decided. Raises RefusedError where nothing can settle it."""
    suggested = table[SUGGESTED].to_numpy()
    table = table.drop_columns([SUGGESTED])
    column = survey.reductions.column if survey.reductions else None
    unnamed = int(pc.sum(pc.equal(table[column].cast(pa.string()), "")).as_py()) if column else 0
    unknown = survey.search.unknown if survey.search else {}
    # in Arrow: as objects of Python, the texts of a whole survey would take gigabytes
    is_lost = reduce(pc.or_, (pc.equal(table[name], value) for name, value in unknown.items())) if unknown else None
    lost = 0 if is_lost is None else int(pc.sum(is_lost).as_py())
    if settle is None:
        if lost and survey.search:
            problem = (
                f"{lost} of {len(table)} rows of {url} {'has' if lost == 1 else 'have'} no {survey.search.missing}"
            )
            raise RefusedError("CATALOG", problem, "select others with --where")
        if unnamed and column:
            problem = f"{unnamed} of {len(table)} rows of {url} {'has' if unnamed == 1 else 'have'} no {column.upper()}"
            raise RefusedError("CATALOG", problem, "select others with --where")
        return table, ()
    if not (unnamed or lost or suggested.any() or check or not has_z):
        return table, ()
    frame = _to_frame(table, survey)
    settled, lines = settle(frame, suggested, has_z)
    if settled is not frame:
        for field in schema_of(survey):
            if field.name in table.schema.names:
                values = pa.chunked_array([pa.array(settled[field.name], field.type, from_pandas=False)])
                table = table.set_column(table.schema.get_field_index(field.name), field.name, values)
    return table, lines


def _sorted(table: pa.Table, survey: Survey, *, unique: bool) -> tuple[pa.Table, int]:
    """Sort by the columns that tell targets apart; refuse a spectrum that is there twice, or drop all but the first.

    Returns the table and how many rows were dropped.
    """
    keys = survey.catalog.sort_by
    # sorting needs the words themselves; the rest of the table keeps their numbers
    words = table.select(keys)
    for name in keys:
        if pa.types.is_dictionary(words[name].type):
            words = words.set_column(words.schema.get_field_index(name), name, words[name].cast(pa.string()))
    order = pc.sort_indices(words, sort_keys=[(key, "ascending") for key in keys])
    table, words = table.take(order), words.take(order)
    same = np.ones(max(len(table) - 1, 0), np.bool_)
    for key in keys:
        same &= pc.equal(words[key][1:], words[key][:-1]).to_numpy()
    if not same.any():
        return table, 0
    if unique:
        return table.filter(pa.array(np.concatenate([[True], ~same]))), int(same.sum())
    repeated = list(dict.fromkeys(survey.catalog.keys(table.take(np.flatnonzero(same))).to_pylist()))
    shown = ", ".join(repeated[:3]) + (f" and {len(repeated) - 3} more" if len(repeated) > 3 else "")
    remedy = f"take the first of the {int(same.sum())} repeated rows with --unique, or select with --where"
    raise RefusedError("CATALOG", f"the catalog names these spectra more than once: {shown}", remedy)


def _to_frame(table: pa.Table, survey: Survey) -> pd.DataFrame:
    schema = schema_of(survey)
    columns = {name: table[name] for name in schema.names if name != "target"}
    return pa.table({"target": survey.catalog.keys(table), **columns}).select(schema.names).cast(schema).to_pandas()


def _without_z(table: pa.Table) -> int:
    z = table["z"].to_numpy()
    return int((~(np.isfinite(z) & (z > -1))).sum())
