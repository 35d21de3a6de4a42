"""A survey catalog's columns, in blocks of rows: files of any size, on a disk or behind a URL.

A binary table is stored row by row, so that all of its bytes pass by, but only a block of them is held at once;
Parquet files are read by column and row group, text in pieces. VOTable and ECSV files are read whole.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import IO

from pipeline.catalog.formats.fits import open_fits
from pipeline.catalog.formats.parquet import open_parquet
from pipeline.catalog.formats.text import open_text
from pipeline.catalog.formats.whole import open_ecsv, open_votable
from pipeline.catalog.opening import HEAD, format_by_name, format_of, opened, places_of, unpacked
from pipeline.catalog.partitions import partitions_of, with_partitions
from pipeline.catalog.table import NO_KINDS, Kinds, Table
from pipeline.errors import ConfigError
from pipeline.surveys.columns import Columns

BLOCK = 250_000
"""Rows at a time, at most."""

BLOCK_BYTES = 2**28
"""Bytes of a binary table at a time, at most: 200,000 rows of specObj's 1.3 kB."""

RETRIES = 5
"""Further attempts at a range of a remote catalog, after pauses of 1, 2, 4, 8 and 16 s."""

READ_AHEAD = 16 * 2**20
"""Bytes per request of a remote catalog."""


@contextmanager
def open_catalog(url: str, kinds: Kinds = NO_KINDS) -> Iterator[Table]:
    """Open a catalog.

    url: FITS (the first table, or `file.fits[2]`), CSV and its like, VOTable, ECSV or Parquet, a folder of
    Parquet files or a pattern; plain, or packed by gzip or bzip2. The content decides, not the name. Anywhere fsspec
    reaches: what is remote is read by ranges; a file behind a server that gives none is copied first. kinds: of columns
    in files that do not say it.
    Raises ConfigError for a catalog that is not there, cannot be reached or cannot be read, now or by its blocks.
    """
    places, extension = places_of(url)
    partitions = partitions_of(places, kinds)
    with _open_file(places[0], extension, kinds, partitions[0]) as first:

        def blocks(names: Sequence[str], rows: int) -> Iterator[Columns]:
            yield from first.blocks(names, rows)
            for place, columns in zip(places[1:], partitions[1:], strict=True):
                with _open_file(place, None, kinds, columns) as part:
                    theirs = {name: _same_name(name, part.names, first.names) for name in names}
                    missing = [name for name, own in theirs.items() if own is None]
                    if missing:
                        expected = f"a part with the columns {', '.join(missing)}"
                        raise ConfigError("CATALOG", place, expected, f"{places[0]} has them")
                    for block in part.blocks([own for own in theirs.values() if own is not None], rows):
                        yield {name: block[own] for name, own in theirs.items() if own is not None}

        yield replace(first, blocks=blocks)


def _same_name(name: str, others: Sequence[str], first: Sequence[str]) -> str | None:
    """Return a column's name in another part, where its letters may be of another case; None if there is none.

    first: the names of the first part: what has another's name there is that other.
    """
    if name in others:
        return name
    same = [other for other in others if other.lower() == name.lower() and other not in first]
    return same[0] if len(same) == 1 else None


@contextmanager
def _open_file(url: str, extension: str | None, kinds: Kinds, partitions: Columns) -> Iterator[Table]:
    with ExitStack() as stack:
        file = stack.enter_context(opened(url, READ_AHEAD, RETRIES))
        with _translated(url, format_by_name(url) or ""):
            content = unpacked(file)
            if content is not file:
                stack.enter_context(content)
            head = content.read(HEAD)
            content.seek(0)
        form = format_of(head, url)
        if extension is not None and form != "fits":
            remedy = f"only FITS files have extensions: leave out [{extension}]"
            raise ConfigError("CATALOG", f"{url}[{extension}]", "a FITS file", remedy)
        with _translated(url, form):
            table = _open(form, content, extension, kinds, url, is_packed=content is not file)
        promised = format_by_name(url)
        if form == "text" and promised is not None and len(table.names) < 2:
            raise ConfigError("CATALOG", url, f"a readable {promised} catalog", "its content is none")
        if form == "parquet":
            table = with_partitions(table, partitions)

        def blocks(names: Sequence[str], rows: int) -> Iterator[Columns]:
            with _translated(url, form):
                yield from table.blocks(names, rows)
                while content is not file and content.read(READ_AHEAD):
                    pass  # what is packed has its checksum at its end

        def others() -> str:
            with _translated(url, form):
                return table.others()

        yield replace(table, blocks=blocks, others=others, form=form)


def _open(form: str, content: IO[bytes], extension: str | None, kinds: Kinds, url: str, *, is_packed: bool) -> Table:
    match form:
        case "fits":
            return open_fits(content, extension, BLOCK_BYTES, READ_AHEAD, url, kinds)
        case "parquet":  # is read from its end
            return open_parquet(io.BytesIO(content.read()) if is_packed else content)
        case "VOTable":
            return open_votable(content, url)
        case "ECSV":
            return open_ecsv(content)
        case _:
            return open_text(content, kinds, url)


@contextmanager
def _translated(url: str, form: str) -> Iterator[None]:
    """Turn what a library raises into a message: damage surfaces at another place in each, with its own error classes.

    None of it is an error of ours: what a survey makes of the columns happens elsewhere.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = next(iter(f"{type(error).__name__}: {error}".strip().splitlines()))
        is_bzip2 = isinstance(error, OSError) and "data stream" in reason
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)) or is_bzip2:
            reason = f"what gzip or bzip2 packed is damaged or cut, fetch the file again ({reason})"
        if isinstance(error, UnicodeError):
            reason = f"its text is not UTF-8, save it as UTF-8 ({reason})"
        raise ConfigError("CATALOG", url, f"a readable {form} catalog".replace("  ", " "), reason) from error
