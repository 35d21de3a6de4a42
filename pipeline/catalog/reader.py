"""A survey catalog's columns, in blocks of rows: files of any size, on a disk or behind a URL.

A binary table is stored row by row, so that all of its bytes pass by, but only a block of them is held at once;
Parquet files are read by column and row group.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.io.fits import Column
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.retry import retried
from pipeline.surveys.columns import Columns

logger = logging.getLogger(__name__)

BLOCK = 250_000
"""Rows at a time, at most."""

BLOCK_BYTES = 2**28
"""Bytes of a binary table at a time, at most: 200,000 rows of specObj's 1.3 kB."""

RETRIES = 5
"""Further attempts at a range of a remote catalog, after pauses of 1, 2, 4, 8 and 16 s."""

READ_AHEAD = 16 * 2**20
"""Bytes per request of a remote catalog."""


@dataclass(frozen=True)
class Kinds:
    """Columns that a CSV file does not tell the type of, by their names in lower case.

    text: text whatever they look like, such as run2d, "26" and "v5_13_2". ids: whole numbers of up to 64 bits, which
    floats would cut.
    """

    text: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()


Choose = Callable[[Sequence[str]], list[str]]
"""Given all column names of a catalog, returns those to read."""

_BLOCK_BYTES = 2880


def read_blocks(url: str, choose: Choose, rows: int = BLOCK, kinds: Kinds = Kinds()) -> Iterator[Columns]:
    """Give a catalog's columns in blocks of at most so many rows, under the catalog's own names.

    url: FITS (its first extension), CSV or Parquet, by suffix, .gz too; anywhere fsspec reaches. What is remote is read
    by ranges; a file behind a server that gives none is copied to a temporary file first.
    choose: is called once, with the names of all columns. kinds: of columns in files that do not say it. Masked arrays
    mark missing values. A column that is neither number nor text has the shape (rows, 0).
    Raises ConfigError for a catalog that is not there, cannot be reached or cannot be read.
    """
    kind, is_packed = _kind(url)
    with ExitStack() as stack:
        file = stack.enter_context(_open(url))
        try:
            unpacked = cast(IO[bytes], stack.enter_context(gzip.open(file))) if is_packed else file
            yield from _READERS[kind](unpacked, choose, rows, kinds)
        except ConfigError:
            raise
        except Exception as error:  # damage surfaces at a different place in each library, with its own error classes
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            raise ConfigError("CATALOG", url, f"a readable {kind} catalog", reason) from error


def _kind(url: str) -> tuple[str, bool]:
    """Return a catalog's kind by the suffix of its name, and whether it is packed."""
    suffixes = [suffix.lower() for suffix in Path(url.split("?")[0].rstrip("/")).suffixes]
    is_packed = suffixes[-1:] == [".gz"]
    kind = {".fits": "fits", ".fit": "fits", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
    last = suffixes[:-1][-1:] if is_packed else suffixes[-1:]
    if not last or last[0] not in kind:
        raise ConfigError("CATALOG", url, f"a file name that ends with one of {', '.join(kind)}")
    return kind[last[0]], is_packed


@contextmanager
def _open(url: str) -> Iterator[IO[bytes]]:
    path = storage.local_path(url)
    if path is not None:
        if not path.is_file():
            raise ConfigError("CATALOG", url, "a file that exists")
        with path.open("rb") as file:
            yield file
        return
    fs, inner = storage.filesystem(url)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(fs.open(inner, "rb", block_size=READ_AHEAD, cache_type="readahead"))
            if hasattr(file, "cache"):
                file.cache.fetcher = _patient(file.cache.fetcher)
            try:
                file.seek(-1, io.SEEK_END)  # a server may ignore ranges, which a read from the start would not reveal
                file.read(1)
                file.seek(0)
            except ValueError:  # fsspec's word for a server that ignores ranges
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spender-catalog-"))
                fs.get_file(inner, f"{folder}/catalog")
                file = stack.enter_context(open(f"{folder}/catalog", "rb"))
        except Exception as error:  # refused, unreachable, no credentials: every backend has its own classes
            # fsspec's HTTP says "not found" of whatever it met
            reason = error.__cause__ if isinstance(error, FileNotFoundError) else error
            if reason is None or getattr(reason, "status", None) == 404:
                raise ConfigError("CATALOG", url, "a file that exists") from error
            remedy = f"{type(reason).__name__}: {reason}"
            raise ConfigError("CATALOG", url, "a file that can be read", remedy) from error
        yield file


def _patient(fetch: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    """Repeat a request for a range that fails: a survey's catalog takes hundreds of them."""

    def fetched(start: int, stop: int) -> bytes:
        def warn(error: Exception, number: int) -> None:
            logger.warning(
                "reading bytes %d to %d of the catalog failed, trying again: %s: %s",
                start,
                stop,
                type(error).__name__,
                error,
            )

        return retried(lambda: fetch(start, stop), attempts=1 + RETRIES, may_pass=_may_pass, failed=warn)

    return fetched


def _may_pass(error: Exception) -> bool:
    return not isinstance(error, (ValueError, FileNotFoundError, PermissionError))


def _fits_blocks(file: IO[bytes], choose: Choose, rows: int, kinds: Kinds) -> Iterator[Columns]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # on what is unusual and harmless, or refused below
        columns, remaining = _fits_table(file)
    dtype = columns.dtype.newbyteorder(">")
    names = choose(columns.names)
    rows = max(1, min(rows, BLOCK_BYTES // dtype.itemsize))
    if not remaining:
        yield {name: np.empty(0) for name in names}
    while remaining:
        count = min(rows, remaining)
        raw = np.frombuffer(_exactly(file, count * dtype.itemsize), dtype)
        yield {name: _fits_values(raw[name], columns[name]) for name in names}
        remaining -= count


def _fits_table(file: IO[bytes]) -> tuple[fits.ColDefs, int]:
    """Read up to the data of the first extension: its columns and its number of rows."""
    primary = _header(file)
    axes = [int(primary[f"NAXIS{i + 1}"]) for i in range(primary["NAXIS"])]
    _skip(file, abs(primary.get("BITPIX", 8)) // 8 * math.prod(axes) if axes else 0)
    header = _header(file)
    if header.get("XTENSION", "").strip() != "BINTABLE":
        raise ValueError("its first extension is not a binary table")
    columns = fits.BinTableHDU.fromstring(header.tostring().encode("ascii")).columns
    size = columns.dtype.itemsize
    if size != header["NAXIS1"] or not size:
        raise ValueError(f"the columns take {size} bytes per row, but the header says {header['NAXIS1']}")
    return columns, int(header["NAXIS2"])


def _fits_values(raw: NDArray[Any], column: Column) -> NDArray[Any]:
    """Bring a block of a column to native numbers or bytes of text; missing values are masked."""
    if raw.dtype.kind == "S":
        return np.array(raw)
    values = np.array(raw, dtype=raw.dtype.newbyteorder("="))
    if column.format.format == "L":
        return np.asarray(values == ord("T"))
    if column.bzero not in ("", None, 0) or column.bscale not in ("", None, 1):
        values = _scaled(values, column.bscale or 1, column.bzero or 0)
    return values if column.null in ("", None) else np.ma.masked_equal(raw, column.null).astype(values.dtype)


def _scaled(values: NDArray[Any], scale: float, zero: float) -> NDArray[Any]:
    if values.dtype.kind == "i" and scale == 1 and zero == 2 ** (8 * values.dtype.itemsize - 1):
        # the way of FITS to hold unsigned numbers (standard 4.0, section 5.2.5): exact only without floats
        unsigned = values.view(f"u{values.dtype.itemsize}")
        return np.asarray(unsigned ^ unsigned.dtype.type(zero))
    return np.asarray(values * float(scale) + float(zero))


def _header(file: IO[bytes]) -> fits.Header:
    """Read one header, to the end of its last block."""
    start = file.tell()
    if _exactly(file, 6) not in (b"SIMPLE", b"XTENSI"):
        raise ValueError("not a FITS file")
    file.seek(start)
    return fits.Header.fromfile(file)


def _skip(file: IO[bytes], size: int) -> None:
    for start in range(0, -(-size // _BLOCK_BYTES) * _BLOCK_BYTES, READ_AHEAD):
        _exactly(file, min(READ_AHEAD, -(-size // _BLOCK_BYTES) * _BLOCK_BYTES - start))


def _exactly(file: IO[bytes], size: int) -> bytes:
    parts = []
    while size:
        part = file.read(size)
        if not part:
            raise ValueError("the file is truncated")
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _csv_blocks(file: IO[bytes], choose: Choose, rows: int, kinds: Kinds) -> Iterator[Columns]:
    text = io.TextIOWrapper(file, encoding="utf-8")
    try:
        # SkyServer's downloads begin with a line such as "#Table1"
        while (line := text.readline()).startswith("#"):
            pass
        names = list(pd.read_csv(io.StringIO(line), nrows=0, skipinitialspace=True).columns)
        chosen = choose(names)
        reader = pd.read_csv(
            text,
            names=names,
            skipinitialspace=True,
            usecols=chosen,
            dtype={name: str for name in chosen if name.lower() in kinds.text | kinds.ids},
            low_memory=False,
            chunksize=rows,
        )
        count = 0
        for frame in reader:
            count += len(frame)
            yield {name: _csv_values(frame[name], kinds) for name in chosen}
        if not count:
            yield {name: np.empty(0) for name in chosen}
    finally:
        text.detach()


def _csv_values(column: pd.Series, kinds: Kinds) -> NDArray[Any]:
    if not pd.api.types.is_string_dtype(column.dtype):
        return np.asarray(column.to_numpy())
    text = column.str.strip()
    if str(column.name).lower() in kinds.ids:
        try:
            # ids are numbers to compare with, without the digits that floats would lose
            ids = pa.array(text.replace("", None), pa.string(), from_pandas=True).cast(pa.uint64())
            return np.ma.masked_array(ids.fill_null(0).to_numpy(), ids.is_null().to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid:
            pass  # more than 64 bits, or no number
    return np.asarray(text.fillna("").to_numpy(dtype=np.str_))


def _parquet_blocks(file: IO[bytes], choose: Choose, rows: int, kinds: Kinds) -> Iterator[Columns]:
    with pq.ParquetFile(file) as table:
        names = choose(table.schema_arrow.names)
        if not table.metadata.num_rows:
            yield {name: np.empty(0) for name in names}
        for batch in table.iter_batches(rows, columns=names):
            yield {name: _arrow_values(batch.column(name)) for name in names}


def _arrow_values(column: pa.Array) -> NDArray[Any]:
    """Convert a column to numpy, nulls masked; one that is neither number nor text gets the shape (N, 0)."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.uint64() if kind.scale == 0 and (pc.min(column).as_py() or 0) >= 0 else pa.float64())
        kind = column.type
    if pa.types.is_string_view(kind):
        column, kind = column.cast(pa.string()), pa.string()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        data = np.array(column.fill_null("").to_pylist(), dtype=np.str_)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        data = np.array(column.fill_null(b"").to_pylist(), dtype=np.bytes_)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        data = column.fill_null(pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False)
    else:
        return np.empty((len(column), 0))
    return np.ma.array(data, mask=missing) if missing.any() else data


_READERS: dict[str, Callable[[IO[bytes], Choose, int, Kinds], Iterator[Columns]]] = {
    "fits": _fits_blocks,
    "csv": _csv_blocks,
    "parquet": _parquet_blocks,
}
