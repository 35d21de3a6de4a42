"""The bytes of a catalog: from a disk or by ranges from behind a URL, unpacked, and what they are by their content."""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

from fsspec import AbstractFileSystem

from pipeline import storage
from pipeline.errors import ConfigError, require_place
from pipeline.retry import retried

logger = logging.getLogger(__name__)

HEAD = 4096
"""Bytes by which a format is recognized."""

PATIENCE = 90.0
"""Seconds after which no range is asked for again: with the last attempt a silent server is given up in 3 minutes."""

_PARQUET = b"PAR1"
_PACKED: dict[bytes, Callable[[IO[bytes]], object]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
_NOT_CATALOGS = {
    b"\x89HDF": "an HDF5 file: write the table as FITS, Parquet or CSV",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV",
    b"\x89PNG": "an image (PNG): choose a table",
    b"%PDF": "a PDF document: choose a table",
    b"\xfd7zXZ": "packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it",
    b"{": "JSON: ask the server for CSV, FITS or VOTable",
    b"[": "JSON: ask the server for CSV, FITS or VOTable",
    b"<!doctype html": "a web page: check the URL, and whether it asks for a login",
    b"<html": "a web page: check the URL, and whether it asks for a login",
}
_ZIPPED = {
    b"xl/": "an Excel workbook: save it as CSV",
    b"[Content_Types].xml": "an Excel workbook: save it as CSV",
    b"application/vnd.oasis.opendocument": "an OpenDocument sheet: save it as CSV",
}
"""What names inside of a zip archive say."""
_BY_NAME = {
    "fits": "fits",
    "fit": "fits",
    "parquet": "parquet",
    "pq": "parquet",
    "vot": "VOTable",
    "xml": "VOTable",
    "ecsv": "ECSV",
}
_EXTENSION = re.compile(r"(?P<file>.+)\[(?P<extension>[^\[\]*?]+)\]\Z", re.DOTALL)


def places_of(url: str) -> tuple[list[str], str | None]:
    """Return the files that a catalog consists of, and the extension of a FITS file that it names.

    url: a file, `file.fits[2]`, a folder of Parquet files, or a pattern such as `parts/*.parquet`, or
    with ? or [01] where no file has that name. Raises ConfigError for a folder without Parquet files, and for a pattern
    without files.
    """
    if storage.protocol(url) not in ("file", "http", "https"):
        require_place("CATALOG", url)  # errors of these clients show keys in a URL
    path = storage.local_path(url)
    if path is not None and path.is_file():
        return [url], None
    if named := _EXTENSION.match(url):
        return [named["file"]], named["extension"]
    is_web = storage.protocol(url) in ("http", "https")
    if "*" in url or ("?" in url and not is_web):
        return _matching(url), None
    if path is not None and path.is_dir():
        return _parts(url), None
    if "[" in url and not is_web:
        return ([url] if storage.exists(url) else _matching(url)), None
    # a remote name without a suffix may be a folder's: it costs a request to know
    if path is None and not is_web and "." not in url.rstrip("/").rsplit("/", 1)[-1]:
        fs, inner = storage.filesystem(url)
        with storage.translated_errors(url):
            is_folder = fs.isdir(inner)
        if is_folder:
            return _parts(url), None
    return [url], None


def _matching(url: str) -> list[str]:
    fs, pattern = storage.filesystem(url)
    with storage.translated_errors(url):
        found = [name for name in sorted(fs.glob(pattern)) if not fs.isdir(name)]
    if not found:
        raise ConfigError("CATALOG", url, "a pattern that files match", "no file does")
    return _urls(fs, found)


def _parts(url: str) -> list[str]:
    """Return the Parquet files in a folder: by their suffix, or those without one by their content."""
    fs, folder = storage.filesystem(url)
    with storage.translated_errors(url):
        names = [name for name in sorted(fs.find(folder)) if not _is_hidden(name.removeprefix(folder))]
        found = [name for name in names if _is_parquet(fs, name)]
    if not found:
        suffixes = Counter(Path(name).suffix for name in names)
        usual = suffixes.most_common(1)[0][0] if suffixes else ""
        pattern = f"{url.rstrip('/')}/*{usual}"
        remedy = f'it is a folder without any: use a pattern such as "{pattern}"' if names else "it is an empty folder"
        raise ConfigError("CATALOG", url, "a file, or a folder of Parquet files", remedy)
    return _urls(fs, found)


def _is_hidden(inner: str) -> bool:
    """Tell notes of those who write folders, such as _SUCCESS, _temporary/0.parquet and _delta_log/0.parquet."""
    return any(part[0] in "._" and "=" not in part for part in inner.split("/") if part)


def _is_parquet(fs: AbstractFileSystem, name: str) -> bool:
    suffix = Path(name).suffix.lower()
    if suffix:
        return suffix in (".parquet", ".pq")
    return bytes(fs.cat_file(name, 0, len(_PARQUET))) == _PARQUET


def _urls(fs: AbstractFileSystem, names: Sequence[str]) -> list[str]:
    is_local = "file" in fs.protocol
    return [name if is_local else fs.unstrip_protocol(name) for name in names]


@contextmanager
def opened(url: str, read_ahead: int, retries: int) -> Iterator[IO[bytes]]:
    """Open a file for reading; what is remote comes by ranges of so many bytes, each asked for again when it fails.

    A file behind a server that gives no ranges is copied to a temporary file first. Raises ConfigError for a file that
    is not there or cannot be reached.
    """
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
            file = stack.enter_context(fs.open(inner, "rb", block_size=read_ahead, cache_type="readahead"))
            if hasattr(file, "cache"):
                file.cache.fetcher = _patient(file.cache.fetcher, retries)
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


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """Return the content of a file that gzip or bzip2 packed, whatever its name is; others as they are."""
    while True:
        start = file.read(3)
        file.seek(0)
        opener = next((opener for magic, opener in _PACKED.items() if start.startswith(magic)), None)
        if opener is None:
            return file
        file = cast(IO[bytes], opener(file))


def format_of(head: bytes, url: str) -> str:
    """Return a catalog's format by its first bytes: fits, parquet, VOTable, ECSV or text.

    Raises ConfigError, naming what else it is.
    """
    if not head:
        raise ConfigError("CATALOG", url, "a catalog", "the file is empty")
    if head.startswith(b"SIMPLE"):
        return "fits"
    if head.startswith(_PARQUET):
        return "parquet"
    bare = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if what := _no_catalog(head, bare):
        raise ConfigError("CATALOG", url, "a FITS, Parquet, VOTable, ECSV or CSV catalog", f"it is {what}")
    if bare.startswith(b"<") and b"votable" in head.lower():
        return "VOTable"
    if bare.startswith(b"<"):
        raise ConfigError("CATALOG", url, "a FITS, Parquet, VOTable, ECSV or CSV catalog", "it is other XML, or HTML")
    return "ECSV" if bare.startswith(b"# %ECSV") else "text"


def _no_catalog(head: bytes, bare: bytes) -> str | None:
    """Return what a file is that is no catalog, and what to do; None for others. bare: from the first character on."""
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if bare.startswith(b"PK\x03\x04"):
        zipped = next((what for inside, what in _ZIPPED.items() if inside in head), None)
        return zipped or _NOT_CATALOGS[b"PK\x03\x04"]
    return next((what for magic, what in _NOT_CATALOGS.items() if bare[: len(magic)].lower() == magic.lower()), None)


def format_by_name(url: str) -> str | None:
    """Return the binary format that a name promises; None for text."""
    suffixes = [suffix.lower().lstrip(".") for suffix in Path(url.split("?")[0].rstrip("/")).suffixes]
    known = [suffix for suffix in suffixes if suffix not in ("gz", "bz2")]
    return _BY_NAME.get(known[-1]) if known else None


def _patient(fetch: Callable[[int, int], bytes], retries: int) -> Callable[[int, int], bytes]:
    """Repeat a request for a range that fails, for PATIENCE seconds: a survey's catalog takes hundreds of them."""

    def fetched(start: int, stop: int) -> bytes:
        def warn(error: Exception, number: int) -> None:
            logger.warning(
                "reading bytes %d to %d of the catalog failed, trying again: %s: %s",
                start,
                stop,
                type(error).__name__,
                error,
            )

        until = time.monotonic() + PATIENCE

        def may_pass(error: Exception) -> bool:
            return time.monotonic() < until and not isinstance(error, (ValueError, FileNotFoundError, PermissionError))

        return retried(lambda: fetch(start, stop), attempts=1 + retries, may_pass=may_pass, failed=warn)

    return fetched
