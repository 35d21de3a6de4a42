"""Catalogs of a survey -> the table of targets, one row per spectrum.

The row number in this table is the position along `spectrum` in every store of a run.
"""

from __future__ import annotations

import gzip
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import selection, storage
from pipeline.config import ConfigError

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
    "plate": ("plate",),
    "mjd": ("mjd",),
    "fiberid": ("fiberid",),
    "run2d": ("run2d",),
    "ra": ("plug_ra", "ra"),
    "dec": ("plug_dec", "dec"),
    "z": ("z",),
    "z_err": ("z_err", "zerr"),
    "zwarning": ("zwarning", "zwarn"),
    "class": ("class",),
    "sn_median": ("sn_median_all", "sn_median"),
}
"""Names that specObj, spAll and SkyServer use for our columns, in lower case, the preferred one first."""

REQUIRED = ("z", "plate", "mjd", "fiberid", "run2d")

_TEXT = ("run2d", "specobjid", "class", "target")
_RUN2D = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")  # it becomes a folder of the archive's path
_EBOSS = re.compile(r"v5_(\d{1,2})_(\d{1,2})\Z")

Columns = dict[str, NDArray[Any]]
Choose = Callable[[Sequence[str]], list[str]]  # all column names of a catalog -> those to read


def read_targets(catalog_url: str, where: str | None = None) -> pd.DataFrame:
    """Read the targets of a catalog.

    catalog_url: FITS (its first table), CSV or Parquet, by suffix, anywhere fsspec reaches; only the columns
    needed are read, a local FITS file is memory-mapped, a remote catalog is copied to a temporary file first.
    where: a `selection.select` expression over the catalog's own columns; None takes every row.
    Returns the columns of `SCHEMA`, sorted by run2d (as text), plate, mjd, fiberid. Column names match in any
    case, `ALIASES` too. Absent columns are filled: specobjid is composed from the ids (0 where the release
    has none), ra, dec, z_err and sn_median are NaN, zwarning is -1 (unknown), class "".
    Raises ConfigError for an unreadable catalog, missing columns, ids that are not whole numbers, duplicates,
    no rows.
    """
    conditions = selection.names(where) if where else frozenset[str]()
    with _local_copy(catalog_url) as path:
        columns = _read_catalog(path, catalog_url, where, conditions)
    if where:
        rows = selection.select(where, columns)
        if not rows.any():
            raise ConfigError("where", where, f"at least one of the catalog's {len(rows)} rows to match")
        columns = {name: values[rows] for name, values in columns.items()}
    if not columns or not len(next(iter(columns.values()))):
        raise ConfigError("CATALOG", catalog_url, "a catalog with at least one row")
    return _sorted(_to_frame(columns, catalog_url))


def write_targets(frame: pd.DataFrame, url: str, row_group: int | None = None) -> None:
    """Write a targets table as Parquet, whole, the same bytes for the same table.

    row_group: rows per group, the unit that `read_rows` reads; a plan uses its shard.
    """
    arrays = [pa.array(frame[field.name].to_numpy(), type=field.type) for field in SCHEMA]
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
        rows = table.read_row_groups(groups, columns=SCHEMA.names)
        return rows.slice(start - int(ends[groups[0]]), stop - start).to_pandas()


@contextmanager
def _open_table(url: str) -> Iterator[pq.ParquetFile]:
    fs, path = storage.filesystem(url)
    try:
        with fs.open(path, "rb") as file, pq.ParquetFile(file) as table:
            missing = [name for name in SCHEMA.names if name not in table.schema_arrow.names]
            if missing:
                raise ConfigError("targets", url, f"a targets table with the columns {', '.join(missing)}")
            yield table
    except FileNotFoundError as error:
        raise ConfigError("targets", url, "a file that exists") from error
    except pa.ArrowInvalid as error:
        remedy = "make one with `spender-pipeline targets CATALOG`"
        raise ConfigError("targets", url, "a targets table in Parquet", remedy) from error


@contextmanager
def _local_copy(url: str) -> Iterator[Path]:
    """Give a local path to a catalog: its own, or that of a temporary copy that keeps the name."""
    path = storage.local_path(url)
    if path is not None:
        if not path.is_file():
            raise ConfigError("CATALOG", url, "a file that exists")
        yield path
        return
    fs, inner = storage.filesystem(url)
    with tempfile.TemporaryDirectory(prefix="spender-catalog-") as folder:
        copy = Path(folder) / inner.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        try:
            fs.get_file(inner, str(copy))
        except FileNotFoundError as error:
            raise ConfigError("CATALOG", url, "a file that exists") from error
        except Exception as error:  # refused, unreachable, no credentials: every backend has its own classes
            remedy = f"{type(error).__name__}: {error}"
            raise ConfigError("CATALOG", url, "a file that can be read", remedy) from error
        yield copy


def _read_catalog(path: Path, url: str, where: str | None, conditions: frozenset[str]) -> Columns:
    """Read the columns of targets and of the selection, under the catalog's own names."""
    readers: dict[str, Callable[[Path, Choose], Columns]] = {
        ".fits": _read_fits,
        ".fit": _read_fits,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".pq": _read_parquet,
    }
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if not suffixes or suffixes[-1] not in readers:
        raise ConfigError("CATALOG", url, f"a file name that ends with one of {', '.join(readers)}")

    def choose(available: Sequence[str]) -> list[str]:
        chosen = _our_columns(available)
        has = f"the catalog has {', '.join(sorted(available)) or 'no columns'}"
        missing = [name.upper() for name in REQUIRED if name not in chosen]
        if missing:
            raise ConfigError("CATALOG", url, f"a catalog with the columns {', '.join(missing)}", has)
        unknown = sorted(conditions - {name.lower() for name in available})
        if unknown:
            raise ConfigError("where", where, f"columns of the catalog, not {', '.join(unknown)}", has)
        return [name for name in available if name in chosen.values() or name.lower() in conditions]

    try:
        return readers[suffixes[-1]](path, choose)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError("CATALOG", url, f"a readable {suffixes[-1][1:]} catalog", reason) from error


def _our_columns(available: Iterable[str]) -> dict[str, str]:
    """Map our column names to the catalog's, as far as it has them."""
    by_lower: dict[str, str] = {}
    for name in available:
        by_lower.setdefault(name.lower(), name)
    found = {ours: [by_lower[alias] for alias in names if alias in by_lower] for ours, names in ALIASES.items()}
    return {ours: names[0] for ours, names in found.items() if names}


def _read_fits(path: Path, choose: Choose) -> Columns:
    from astropy.io import fits

    with fits.open(path, memmap=True) as hdus:
        if len(hdus) < 2 or not isinstance(hdus[1], fits.BinTableHDU):
            raise ValueError("its first extension is not a binary table")
        table = hdus[1]
        # the bare array: astropy's own field() makes text four times as large
        raw = table.data.view(np.ndarray)
        columns: Columns = {}
        for name in choose(table.columns.names):
            values = raw[name]
            if values.dtype.kind != "S":
                values = np.asarray(table.data.field(name))
                values = values.astype(values.dtype.newbyteorder("="))
            null = table.columns[name].null
            columns[name] = np.array(values) if null is None else np.ma.masked_equal(raw[name], null)
        return columns


def _read_csv(path: Path, choose: Choose) -> Columns:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        # SkyServer's downloads begin with a line such as "#Table1"
        skipped = 0
        while (line := file.readline()).startswith("#"):
            skipped += 1
    chosen = choose(list(pd.read_csv(io.StringIO(line), nrows=0, skipinitialspace=True).columns))
    frame = pd.read_csv(
        path,
        skiprows=skipped,
        skipinitialspace=True,
        usecols=chosen,
        dtype={name: str for name in chosen if name.lower() in _TEXT},
        low_memory=False,
    )
    columns: Columns = {}
    for name in chosen:
        column = frame[name]
        is_text = pd.api.types.is_string_dtype(column.dtype)
        columns[name] = column.fillna("").to_numpy(dtype=np.str_) if is_text else column.to_numpy()
    return columns


def _read_parquet(path: Path, choose: Choose) -> Columns:
    with pq.ParquetFile(path) as file:
        table = file.read(columns=choose(file.schema_arrow.names))
    return {name: _from_arrow(table.column(name)) for name in table.column_names}


def _from_arrow(column: pa.ChunkedArray) -> NDArray[Any]:
    """Convert a column to numpy, nulls masked; one that is neither number nor text gets the shape (N, 0)."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        data = np.array(column.fill_null("").to_pylist(), dtype=np.str_)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        data = column.fill_null(pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False)
    else:
        return np.empty((len(column), 0))
    return np.ma.array(data, mask=missing) if missing.any() else data


def _to_frame(columns: Columns, url: str) -> pd.DataFrame:
    """Bring a catalog's columns to the names, types and fills of `SCHEMA`."""
    names = {ours: name for ours, name in _our_columns(columns).items() if columns[name].ndim == 1}
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

    plate, mjd, fiberid = (integers(name) for name in ("plate", "mjd", "fiberid"))
    run2d = _run2d(columns[names["run2d"]])
    composed = compose_specobjid(run2d, plate, mjd, fiberid)
    with np.errstate(over="ignore"):
        return pd.DataFrame(
            {
                "target": [f"{r}/{p}-{m}-{f}" for r, p, m, f in zip(run2d, plate, mjd, fiberid, strict=True)],
                "specobjid": _specobjid(columns[names["specobjid"]], composed) if "specobjid" in names else composed,
                "plate": plate,
                "mjd": mjd,
                "fiberid": fiberid,
                "run2d": run2d.tolist(),
                "ra": numbers("ra"),
                "dec": numbers("dec"),
                "z": numbers("z").astype(np.float32),
                "z_err": numbers("z_err").astype(np.float32),
                "zwarning": integers("zwarning", fill=-1),
                "class": _text(columns[names["class"]]).tolist() if "class" in names else [""] * size,
                "sn_median": numbers("sn_median").astype(np.float32),
            }
        )


def _text(column: NDArray[Any]) -> NDArray[np.str_]:
    """Convert a column to stripped text, "" where missing; whole numbers lose their decimal point."""
    data = np.ma.getdata(column)
    if data.dtype.kind == "S":
        data = np.char.decode(data, "utf-8", "replace")
    elif data.dtype.kind == "f":
        data = np.array([f"{value:.0f}" if value == np.floor(value) else str(value) for value in data])
    text = np.char.strip(data.astype(np.str_), " \t\0")
    return np.where(np.ma.getmaskarray(column), "", text)


def _run2d(column: NDArray[Any]) -> NDArray[np.str_]:
    run2d = _text(column)
    for value in np.unique(run2d):
        if not _RUN2D.match(value):
            expected = "the name of a reduction, such as 26 or v5_13_2"
            raise ConfigError("CATALOG column RUN2D", str(value), expected, "select rows that have one with --where")
    return run2d


def _specobjid(column: NDArray[Any], composed: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Read ids as unsigned numbers: real ones exceed 2^63, so catalogs hold them as text or negative.

    A column of floats has lost the last digits and is ignored; so is what is missing. Ids beyond 64 bits
    become 0.
    """
    if np.ma.getdata(column).dtype.kind == "f":
        return composed
    text = _text(column).tolist()
    try:
        values = [int(item) if item else own for item, own in zip(text, composed.tolist(), strict=True)]
    except ValueError as error:
        raise ConfigError("CATALOG column SPECOBJID", str(error), "whole numbers") from error
    return np.array([v % 2**64 if -(2**63) <= v < 2**64 else 0 for v in values], dtype=np.uint64)


def compose_specobjid(
    run2d: NDArray[np.str_], plate: NDArray[np.int32], mjd: NDArray[np.int32], fiberid: NDArray[np.int32]
) -> NDArray[np.uint64]:
    """Compose SPECOBJID from ids, shape (N,) each, as sdss_specobjid does for SDSS and (e)BOSS; else 0.

    Bits: plate from 50, fiberid from 38, mjd - 50000 from 24, run2d from 10 (v5_m_p as 100 m + p).
    """
    reductions, where = np.unique(run2d, return_inverse=True)
    numbers = np.array([_reduction_number(str(name)) for name in reductions], dtype=np.int64)[where]
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


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by run2d, plate, mjd, fiberid; refuse a spectrum that is there twice."""
    frame = frame.sort_values(["run2d", "plate", "mjd", "fiberid"], kind="stable", ignore_index=True)
    twice = frame["target"][frame["target"].duplicated()].unique()
    if len(twice):
        shown = ", ".join(twice[:3]) + (f" and {len(twice) - 3} more" if len(twice) > 3 else "")
        remedy = "remove the repeated rows, or select with --where"
        raise ConfigError("CATALOG", shown, "each spectrum once", remedy)
    return frame
