"""Catalogs of a survey -> the table of targets, one row per spectrum.

The row number in this table is the position along `spectrum` in every store of a run.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import catalog, layouts, selection, storage
from pipeline.catalog import Columns
from pipeline.config import ConfigError

# Arrow's own pool would keep what freed tables held: of a whole survey's, gigabytes.
pa.set_memory_pool(pa.system_memory_pool())

SCHEMA = pa.schema(
    [
        pa.field("target", pa.string(), nullable=False),
        pa.field("specobjid", pa.uint64(), nullable=False),
        pa.field("plate", pa.int32(), nullable=False),
        pa.field("mjd", pa.int32(), nullable=False),
        pa.field("fiberid", pa.int32(), nullable=False),
        pa.field("run2d", pa.string(), nullable=False),
        pa.field("ra", pa.float64(), nullable=False),
        pa.field("dec", pa.float64(), nullable=False),
        pa.field("z", pa.float32(), nullable=False),
        pa.field("z_err", pa.float32(), nullable=False),
        pa.field("zwarning", pa.int32(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("sn_median", pa.float32(), nullable=False),
    ]
)
"""Columns of a targets table; ra and dec in degrees, the rest as in the SDSS specObj datamodel."""

ALIASES = {
    "specobjid": ("specobjid",),
    "plate": ("plate", "field"),
    "mjd": ("mjd",),
    "fiberid": ("fiberid",),
    "catalogid": ("catalogid",),
    "run2d": ("run2d",),
    "ra": ("plug_ra", "fiber_ra", "racat", "ra"),
    "dec": ("plug_dec", "fiber_dec", "deccat", "dec"),
    "z": ("z",),
    "z_err": ("z_err", "zerr"),
    "zwarning": ("zwarning", "zwarn"),
    "class": ("class",),
    "sn_median": ("sn_median_all", "sn_median"),
}
"""Names that specObj, spAll (BOSS, eBOSS and SDSS-V) and SkyServer use for our columns, in lower case, the preferred
first. Sources: the SDSS datamodel's pages of specObj and spAll, and SkyServer's schema of SpecObjAll and spAll."""

REQUIRED = ("z", "plate", "mjd", "fiberid", "run2d")
SDSS_V = {"plate": "field", "fiberid": "catalogid"}
"""What SDSS-V's catalogs (DR18 and later) name a spectrum by, in the places of plate and fiberid."""

_RUN2D = re.compile(rf"{layouts.RUN2D}\Z")
_EBOSS = re.compile(r"v5_(\d{1,2})_(\d{1,2})\Z")


@dataclass(frozen=True)
class Found:
    """Targets found in a catalog of so many rows; remarks: what a user should know of them, with how many."""

    frame: pd.DataFrame
    rows: int
    remarks: dict[str, int]


def read_targets(catalog_url: str, where: str | None = None) -> pd.DataFrame:
    """Read the targets of a catalog: the frame of `find_targets`."""
    return find_targets(catalog_url, where).frame


def find_targets(catalog_url: str, where: str | None = None, block: int = catalog.BLOCK) -> Found:
    """Find the targets of a catalog.

    catalog_url: FITS (its first table), CSV or Parquet, by suffix, anywhere fsspec reaches; it is read in blocks of so
    many rows, of which the chosen ones are kept.
    where: a `selection.select` expression over the catalog's own columns; None takes every row.
    Returns the columns of `SCHEMA`, sorted by run2d (as text), plate, mjd, fiberid. Column names match in any
    case, `ALIASES` too. A catalog with FIELD and CATALOGID in the place of PLATE and FIBERID is SDSS-V's: field becomes
    the plate, catalogid the last part of the key, fiberid is 0. Absent columns are filled: specobjid is composed from
    the ids (0 where the release has none), ra, dec, z_err and sn_median are NaN, zwarning is -1 (unknown), class "".
    Raises ConfigError for an unreadable catalog, missing columns, ids that are not whole numbers, duplicates,
    no rows.
    """
    conditions = selection.names(where) if where is not None else frozenset[str]()

    def choose(available: Sequence[str]) -> list[str]:
        return _choose(available, catalog_url, where, conditions)

    rows = 0
    parts: list[pa.Table] = []
    for columns in catalog.read_blocks(catalog_url, choose, block):
        size = len(next(iter(columns.values())))
        rows += size
        if where is not None and size:
            chosen = selection.select(where, columns)
            columns = {name: values[chosen] for name, values in columns.items()}
            size = int(chosen.sum())
        if size:
            parts.append(_to_table(columns, catalog_url))
    if not rows:
        raise ConfigError("CATALOG", catalog_url, "a catalog with at least one row")
    if not parts:
        raise ConfigError("where", where, f"at least one of the catalog's {rows} rows to match")
    table = _sorted(pa.concat_tables(parts).unify_dictionaries())
    return Found(_to_frame(table), rows, _remarks(table))


def write_targets(frame: pd.DataFrame, url: str, row_group: int | None = None) -> None:
    """Write a targets table as Parquet, whole, the same bytes for the same table.

    row_group: rows per group, the unit that `read_rows` reads; a plan uses its shard.
    """
    arrays = [pa.array(frame[field.name], type=field.type, from_pandas=False) for field in SCHEMA]
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=SCHEMA), buffer, row_group_size=row_group, compression="zstd")
    storage.write_bytes(url, buffer.getvalue())


def count(url: str) -> int:
    """Return the number of rows of a targets table, from its footer."""
    with _open_table(url) as table:
        return int(table.metadata.num_rows)


def read_rows(url: str, start: int, stop: int) -> pd.DataFrame:
    """Read rows start ... stop - 1 of a targets table; only the row groups that hold them are fetched."""
    with _open_table(url) as table:
        sizes = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
        ends = np.cumsum([0, *sizes])
        if not 0 <= start <= stop <= ends[-1]:
            raise ValueError(f"rows {start} to {stop} of a table of {ends[-1]} rows")
        groups = [i for i in range(len(sizes)) if ends[i] < stop and ends[i + 1] > start]
        if not groups:
            return SCHEMA.empty_table().to_pandas()
        rows = table.read_row_groups(groups, columns=SCHEMA.names).slice(start - int(ends[groups[0]]), stop - start)
        # column by column: a whole survey's table would be in memory twice
        rows = _of_our_types(rows.select(SCHEMA.names), url)
        for name, pattern in (("target", layouts.KEY), ("run2d", layouts.RUN2D)):
            _require_match(rows[name], name, pattern, start)
        return rows.to_pandas(split_blocks=True, self_destruct=True)


def _of_our_types(rows: pa.Table, url: str) -> pa.Table:
    """Bring a table that others may have written to the schema's types, without loss. Raises ConfigError."""
    columns = []
    for field in SCHEMA:
        key, column = f"targets column {field.name}", rows[field.name]
        try:
            column = column.cast(field.type)
        except (pa.ArrowInvalid, NotImplementedError) as error:
            raise ConfigError(key, url, f"values of type {field.type}", str(error)) from error
        if pa.types.is_floating(field.type):
            column = column.fill_null(math.nan)  # what many writers make of NaN
        if column.null_count:
            raise ConfigError(key, url, f"a value in every row, not {column.null_count} null")
        columns.append(column)
    return pa.table(columns, schema=SCHEMA)


def _require_match(column: pa.ChunkedArray, name: str, pattern: str, start: int) -> None:
    """Refuse text that would become another path than one of the archive's: others may have written the table."""
    wrong = pc.index(pc.match_substring_regex(column, rf"\A(?:{pattern})\z"), False).as_py()
    if wrong >= 0:
        what = "a key such as 26/266-51602-1" if name == "target" else "the name of a reduction, such as 26 or v5_13_2"
        raise ConfigError(f"targets row {start + wrong} column {name}", column[wrong].as_py(), what)


@contextmanager
def _open_table(url: str) -> Iterator[pq.ParquetFile]:
    fs, path = storage.filesystem(url)
    try:
        with storage.answering(url), fs.open(path, "rb") as file, pq.ParquetFile(file) as table:
            missing = [name for name in SCHEMA.names if name not in table.schema_arrow.names]
            if missing:
                raise ConfigError("targets", url, f"a targets table with the columns {', '.join(missing)}")
            yield table
    except FileNotFoundError as error:
        raise ConfigError("targets", url, "a file that exists") from error
    except pa.ArrowInvalid as error:
        remedy = "make one with `spender-pipeline targets CATALOG`"
        raise ConfigError("targets", url, "a targets table in Parquet", remedy) from error


def _choose(available: Sequence[str], url: str, where: str | None, conditions: frozenset[str]) -> list[str]:
    """Name the columns to read: those of the targets and those of the selection."""
    chosen = _our_columns(available, url)
    has = f"the catalog has {', '.join(sorted(available)) or 'no columns'}"
    missing = [name.upper() for name in REQUIRED if name not in chosen]
    if missing:
        raise ConfigError("CATALOG", url, f"a catalog with the columns {', '.join(missing)}", has)
    unknown = sorted(conditions - {name.lower() for name in available})
    if unknown:
        raise ConfigError("where", where, f"columns of the catalog, not {', '.join(unknown)}", has)
    return [name for name in available if name in chosen.values() or name.lower() in conditions]


def _our_columns(available: Sequence[str], url: str) -> dict[str, str]:
    """Map our column names to the catalog's, as far as it has them."""
    by_lower: dict[str, str] = {}
    for name in available:
        if name.lower() in by_lower and any(name.lower() in names for names in ALIASES.values()):
            raise ConfigError("CATALOG", url, "one of two columns", f"{by_lower[name.lower()]} and {name} say the same")
        by_lower.setdefault(name.lower(), name)
    found = {ours: [by_lower[alias] for alias in names if alias in by_lower] for ours, names in ALIASES.items()}
    chosen = {ours: names[0] for ours, names in found.items() if names}
    if not {"plate", "fiberid"} <= by_lower.keys() and set(SDSS_V.values()) <= by_lower.keys():
        return {**chosen, **{ours: by_lower[theirs] for ours, theirs in SDSS_V.items()}}
    chosen.pop("catalogid", None)
    if "plate" not in by_lower:
        chosen.pop("plate", None)
    return chosen


def _to_table(columns: Columns, url: str) -> pa.Table:
    """Bring a block of a catalog to the names, types and fills of a target, `last` for the last part of its key."""
    chosen = _our_columns(list(columns), url)
    names = {ours: name for ours, name in chosen.items() if columns[name].ndim == 1}
    for ours in REQUIRED:
        if ours not in names:
            remedy = "it has several per row, or something that is neither"
            raise ConfigError(f"CATALOG column {chosen[ours]}", url, "one number or text per row", remedy)
    is_sdss_v = names["fiberid"].lower() == SDSS_V["fiberid"]
    size = len(next(iter(columns.values())))

    def numbers(ours: str) -> NDArray[np.float64]:
        if ours not in names:
            return np.full(size, np.nan)
        column = columns[names[ours]]
        try:
            return np.asarray(np.ma.filled(column.astype(np.float64), np.nan))
        except ValueError as error:
            raise ConfigError(f"CATALOG column {names[ours]}", url, "numbers", str(error)) from error

    def integers(ours: str, fill: int | None = None) -> NDArray[np.int32]:
        values = numbers(ours)
        if fill is not None:
            values = np.where(np.isfinite(values), values, fill)
        wrong = ~((np.abs(values) < 2**31) & (values == np.floor(values)))
        if fill is None:
            wrong |= values < 0
        if wrong.any():
            example = values[wrong][0]
            raise ConfigError(f"CATALOG column {names[ours]}", float(example), "whole numbers that fit 32 bits")
        return values.astype(np.int32)

    plate, mjd = integers("plate"), integers("mjd")
    last = _catalogids(columns[names["fiberid"]], names["fiberid"]) if is_sdss_v else integers("fiberid")
    fiberid = np.zeros(size, np.int32) if is_sdss_v else last.astype(np.int32)
    run2d = _run2d(columns[names["run2d"]])
    composed = np.zeros(size, np.uint64) if is_sdss_v else compose_specobjid(run2d, plate, mjd, fiberid)
    specobjid, is_beyond = composed, np.zeros(size, np.bool_)
    if "specobjid" in names:
        specobjid, is_beyond = _specobjid(columns[names["specobjid"]], composed)
    with np.errstate(over="ignore"):
        return pa.table(
            {
                "specobjid": specobjid,
                "plate": plate,
                "mjd": mjd,
                "fiberid": fiberid,
                "last": last.astype(np.int64),
                "run2d": run2d,
                "ra": numbers("ra"),
                "dec": numbers("dec"),
                "z": numbers("z").astype(np.float32),
                "z_err": numbers("z_err").astype(np.float32),
                "zwarning": integers("zwarning", fill=-1),
                "class": _text(columns[names["class"]] if "class" in names else np.full(size, "")),
                "sn_median": numbers("sn_median").astype(np.float32),
                "beyond": is_beyond,
            }
        )


def _text(column: NDArray[Any]) -> pa.DictionaryArray:
    """Convert a column to stripped text, "" where missing; whole numbers lose their decimal point."""
    data = np.ma.getdata(column)
    if data.dtype.kind == "f":
        data = np.array([f"{value:.0f}" if value == np.floor(value) else str(value) for value in data])
    elif data.dtype.kind == "S" and data.dtype.itemsize == 0:
        data = np.full(len(data), "")
    elif data.dtype.kind != "S":
        data = data.astype(np.str_)
    text = pa.array(data, mask=np.ma.getmaskarray(column)).dictionary_encode()
    values = [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in _list(text.dictionary)
    ]
    stripped = pa.array([value.strip(" \t\0") for value in values] + [""], pa.string())
    filled = pc.fill_null(text.indices, len(values))
    # words that became the same are one word again
    return pa.DictionaryArray.from_arrays(filled, stripped).cast(pa.string()).dictionary_encode()


def _list(values: pa.Array) -> list[Any]:
    return list(values.to_pylist())


def _run2d(column: NDArray[Any]) -> pa.DictionaryArray:
    """Read the names of reductions: they become folders. Numbers are written without leading zeros, as in paths."""
    text = _text(column)
    names = _list(text.dictionary)
    for value in names:
        if not _RUN2D.match(value):
            expected = "the name of a reduction, such as 26 or v5_13_2"
            raise ConfigError("CATALOG column RUN2D", str(value), expected, "select rows that have one with --where")
    plain = pa.array([str(int(name)) if name.isdecimal() else name for name in names], pa.string())
    return pa.DictionaryArray.from_arrays(text.indices, plain).cast(pa.string()).dictionary_encode()


def _catalogids(column: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Read SDSS-V's catalogids: numbers beyond what floats hold exactly, as integers or as text."""
    data = np.ma.getdata(column)
    if data.dtype.kind == "f" or np.ma.getmaskarray(column).any():
        raise ConfigError(f"CATALOG column {name}", str(data.dtype), "whole numbers in every row, not floats")
    try:
        values = data.astype(np.int64) if data.dtype.kind in "iu" else np.array([int(item) for item in data], np.int64)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"CATALOG column {name}", str(error), "whole numbers") from error
    if (values < 0).any():
        raise ConfigError(f"CATALOG column {name}", int(values.min()), "whole numbers of at least 0")
    return values


def _specobjid(column: NDArray[Any], composed: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Read ids as unsigned numbers: real ones exceed 2^63, so catalogs hold them as text or negative.

    A column of floats has lost the last digits and is ignored; so is what is missing. Ids beyond 64 bits become 0;
    also tells which.
    """
    data = np.ma.getdata(column)
    within = np.zeros(len(data), np.bool_)
    if data.dtype.kind == "f":
        return composed, within
    if data.dtype.kind in "iub":
        return np.where(np.ma.getmaskarray(column), composed, data.astype(np.uint64)), within
    text = pc.utf8_trim(pa.array(data, mask=np.ma.getmaskarray(column)).cast(pa.string()), " \t\0")
    text = pc.if_else(pc.equal(text, ""), None, text)
    try:
        return _filled(text.cast(pa.uint64()), composed), within
    except pa.ArrowInvalid:
        pass  # signed ids, ids of more than 64 bits, or no ids at all: one by one
    try:
        values = [int(item) if item else own for item, own in zip(_list(text), composed.tolist(), strict=True)]
    except ValueError as error:
        raise ConfigError("CATALOG column SPECOBJID", str(error), "whole numbers") from error
    fits = [-(2**63) <= value < 2**64 for value in values]
    ids = np.array([value % 2**64 if fit else 0 for value, fit in zip(values, fits, strict=True)], dtype=np.uint64)
    return ids, ~np.array(fits, np.bool_)


def _filled(ids: pa.Array, composed: NDArray[np.uint64]) -> NDArray[np.uint64]:
    missing = ids.is_null().to_numpy(zero_copy_only=False)
    return np.where(missing, composed, ids.fill_null(0).to_numpy(zero_copy_only=False))


def compose_specobjid(
    run2d: pa.DictionaryArray | NDArray[np.str_],
    plate: NDArray[np.int32],
    mjd: NDArray[np.int32],
    fiberid: NDArray[np.int32],
) -> NDArray[np.uint64]:
    """Compose SPECOBJID from ids, shape (N,) each, as sdss_specobjid does for SDSS and (e)BOSS; else 0.

    Bits: plate from 50, fiberid from 38, mjd - 50000 from 24, run2d from 10 (v5_m_p as 100 m + p).
    """
    names = run2d if isinstance(run2d, pa.DictionaryArray) else pa.array(run2d).dictionary_encode()
    packed = np.array([_reduction_number(str(name)) for name in _list(names.dictionary)], dtype=np.int64)
    numbers = packed[names.indices.to_numpy()]
    day = mjd.astype(np.int64) - 50000
    fits = (numbers >= 0) & (plate < 2**14) & (fiberid < 2**12) & (day >= 0) & (day < 2**14)
    parts = ((plate, 50), (fiberid, 38), (np.where(fits, day, 0), 24), (np.where(fits, numbers, 0), 10))
    composed = np.zeros(len(plate), dtype=np.uint64)
    for values, shift in parts:
        composed |= values.astype(np.uint64) << np.uint64(shift)
    return np.where(fits, composed, np.uint64(0))


def _reduction_number(run2d: str) -> int:
    """Return run2d as sdss_specobjid packs it, -1 where it has no such number."""
    match = _EBOSS.match(run2d)
    if match:
        return 100 * int(match[1]) + int(match[2])
    return int(run2d) if run2d.isdecimal() and int(run2d) < 2**14 else -1


def _sorted(table: pa.Table) -> pa.Table:
    """Sort by run2d, plate, mjd and the last part of the key; refuse a spectrum that is there twice."""
    keys = ("run2d", "plate", "mjd", "last")
    # sorting needs the words themselves; the rest of the table keeps their numbers
    words = table.set_column(table.schema.get_field_index("run2d"), "run2d", table["run2d"].cast(pa.string()))
    table = table.take(pc.sort_indices(words.select(keys), sort_keys=[(key, "ascending") for key in keys]))
    same = np.ones(max(len(table) - 1, 0), np.bool_)
    for key in keys:
        column = table[key].cast(pa.string()) if key == "run2d" else table[key]
        same &= pc.equal(column[1:], column[:-1]).to_numpy()
    if same.any():
        repeated = list(dict.fromkeys(_list(_keys(table.take(np.flatnonzero(same))))))
        shown = ", ".join(repeated[:3]) + (f" and {len(repeated) - 3} more" if len(repeated) > 3 else "")
        remedy = "remove the repeated rows, or select with --where"
        raise ConfigError("CATALOG", shown, "each spectrum once", remedy)
    return table


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """Compose the targets' keys, run2d/plate-mjd-last."""
    numbers = [table[name].cast(pa.string()) for name in ("plate", "mjd", "last")]
    key = pc.binary_join_element_wise(*numbers, "-")
    return pc.binary_join_element_wise(table["run2d"].cast(pa.string()), key, "/")


def _to_frame(table: pa.Table) -> pd.DataFrame:
    columns = {name: table[name] for name in SCHEMA.names if name != "target"}
    return pa.table({"target": _keys(table), **columns}).select(SCHEMA.names).cast(SCHEMA).to_pandas()


def _remarks(table: pa.Table) -> dict[str, int]:
    z = table["z"].to_numpy()
    found = {
        "without a usable redshift: they get no latents": int((~(np.isfinite(z) & (z > -1))).sum()),
        "with a SPECOBJID of more than 64 bits: 0 in the table": int(pc.sum(table["beyond"]).as_py()),
    }
    return {text: count for text, count in found.items() if count}
