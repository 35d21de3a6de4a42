"""Catalogs of a survey -> the table of targets, one row per spectrum.

The row number in this table is the position along `spectrum` in every store of a run.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.catalog.kept import attributes_in, fields_of, kept_columns
from pipeline.catalog.reader import BLOCK, Kinds, read_blocks
from pipeline.catalog.where import names, select
from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.columns import Coordinate
from pipeline.surveys.registry import DEFAULT, get_survey
from pipeline.surveys.survey import Survey

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

    kept: the frame's columns beside the survey's.
    """

    frame: pd.DataFrame
    rows: int
    remarks: dict[str, int]
    kept: Mapping[str, Coordinate] = dataclass_field(default_factory=dict)


def read_targets(catalog_url: str, where: str | None = None, survey: Survey | None = None) -> pd.DataFrame:
    """Read the targets of a catalog: the frame of `find_targets`."""
    return find_targets(catalog_url, where, survey).frame


def find_targets(
    catalog_url: str, where: str | None = None, survey: Survey | None = None, block: int = BLOCK
) -> Selection:
    """Find the targets of a catalog.

    catalog_url: FITS (its first table), CSV or Parquet, by suffix, anywhere fsspec reaches; it is read in blocks of so
    many rows, of which the chosen ones are kept.
    where: a `where.select` expression over the catalog's own columns; None takes every row. survey: default SDSS.
    Returns the survey's coordinates, sorted by the columns that tell its targets apart. Names of columns match in any
    case, their aliases too; absent columns are filled as the survey says.
    Raises ConfigError for an unreadable catalog, missing columns, ids that are not whole numbers, duplicates,
    no rows.
    """
    survey = survey or get_survey(DEFAULT)
    conditions = names(where) if where is not None else frozenset[str]()

    def choose(available: Sequence[str]) -> list[str]:
        return _choose(available, catalog_url, where, conditions, survey)

    rows = 0
    parts: list[pa.Table] = []
    for columns in read_blocks(catalog_url, choose, block, kinds_of(survey)):
        size = len(next(iter(columns.values())))
        rows += size
        if where is not None and size:
            chosen = select(where, columns)
            columns = {name: values[chosen] for name, values in columns.items()}
            size = int(chosen.sum())
        if size:
            parts.append(survey.catalog.to_table(columns, catalog_url))
    if not rows:
        raise ConfigError("CATALOG", catalog_url, "a catalog with at least one row")
    if not parts:
        raise ConfigError("--where", where, f"at least one of the catalog's {rows} rows to match")
    table = _sorted(pa.concat_tables(parts).unify_dictionaries(), survey)
    return Selection(_to_frame(table, survey), rows, _remarks(table, survey))


def kinds_of(survey: Survey) -> Kinds:
    """Return which of the columns that catalogs of a survey may have are text, and which are ids."""

    def aliases(dtype: str) -> frozenset[str]:
        found = [{name, *each.aliases} for name, each in survey.coordinates.items() if each.dtype == dtype]
        return frozenset().union(*found)

    return Kinds(text=aliases("str"), ids=aliases("uint64"))


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


def count(url: str) -> int:
    """Return the number of rows of a targets table, from its footer."""
    with _open_table(url, ("target",)) as table:
        return int(table.metadata.num_rows)


def read_table(url: str, survey: Survey) -> tuple[pd.DataFrame, dict[str, Coordinate]]:
    """Read a targets table that others may have written, and its further columns. Raises as `checked_frame`."""
    with _open_table(url, schema_of(survey).names) as table:
        own = _checked(table.read(list(survey.coordinates)), url, survey, 0, None)
        frame = own.to_pandas(split_blocks=True, self_destruct=True)
        further = [name for name in table.schema_arrow.names if name not in survey.coordinates and not _is_index(name)]
        frame = frame.assign(**table.read(further).to_pandas()) if further else frame
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
        rows = table.read_row_groups(groups, columns=schema.names).slice(start - int(ends[groups[0]]), stop - start)
        checked = _checked(rows.select(schema.names), url, survey, start, kept)
        return checked.to_pandas(split_blocks=True, self_destruct=True)


def checked_frame(frame: pd.DataFrame, survey: Survey, kept: Mapping[str, Coordinate] | None = None) -> pd.DataFrame:
    """Bring targets that a script has made to the types of a targets table. Raises ConfigError, as `read_rows` does.

    Also for a target that is there twice: frames come from joins.
    """
    schema = schema_of(survey, kept)
    missing = [name for name in schema.names if name not in frame.columns]
    if missing:
        remedy = f"the survey {survey.name} needs them: make the table with select_targets(..., survey={survey.name!r})"
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
def _open_table(url: str, needed: Sequence[str]) -> Iterator[pq.ParquetFile]:
    fs, path = storage.filesystem(url)
    try:
        with storage.translated_errors(url), fs.open(path, "rb") as file, pq.ParquetFile(file) as table:
            missing = [name for name in needed if name not in table.schema_arrow.names]
            if missing:
                raise ConfigError("targets", url, f"a targets table with the columns {', '.join(missing)}")
            yield table
    except FileNotFoundError as error:
        raise ConfigError("targets", url, "a file that exists") from error
    except pa.ArrowInvalid as error:
        remedy = "make one with `spender-pipeline targets CATALOG`"
        raise ConfigError("targets", url, "a targets table in Parquet", remedy) from error


def _choose(
    available: Sequence[str], url: str, where: str | None, conditions: frozenset[str], survey: Survey
) -> list[str]:
    """Name the columns to read: those of the targets and those of the selection."""
    chosen = survey.catalog.choose(available, url)
    has = f"the catalog has {', '.join(sorted(available)) or 'no columns'}"
    required = [name for name, each in survey.coordinates.items() if each.required]
    missing = [name.upper() for name in required if name not in chosen]
    if missing:
        raise ConfigError("CATALOG", url, f"a catalog with the columns {', '.join(missing)}", has)
    unknown = sorted(conditions - {name.lower() for name in available})
    if unknown:
        raise ConfigError("--where", where, f"columns of the catalog, not {', '.join(unknown)}", has)
    return [name for name in available if name in chosen.values() or name.lower() in conditions]


def _sorted(table: pa.Table, survey: Survey) -> pa.Table:
    """Sort by the columns that tell targets apart; refuse a spectrum that is there twice."""
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
    if same.any():
        repeated = list(dict.fromkeys(survey.catalog.keys(table.take(np.flatnonzero(same))).to_pylist()))
        shown = ", ".join(repeated[:3]) + (f" and {len(repeated) - 3} more" if len(repeated) > 3 else "")
        remedy = "remove the repeated rows, or select with --where"
        raise ConfigError("CATALOG", shown, "each spectrum once", remedy)
    return table


def _to_frame(table: pa.Table, survey: Survey) -> pd.DataFrame:
    schema = schema_of(survey)
    columns = {name: table[name] for name in schema.names if name != "target"}
    return pa.table({"target": survey.catalog.keys(table), **columns}).select(schema.names).cast(schema).to_pandas()


def _remarks(table: pa.Table, survey: Survey) -> dict[str, int]:
    z = table["z"].to_numpy()
    without_z = int((~(np.isfinite(z) & (z > -1))).sum())
    found = {"without a usable redshift: they get no latents": without_z, **survey.catalog.remarks(table)}
    return {text: count for text, count in found.items() if count}
