"""Files of which only parts are fetched, and redshifts beside them: ranges, repeats, the cache."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline.archive import reader as archive
from pipeline.archive.attempts import FetchCounters
from pipeline.archive.reader import Archive
from pipeline.archive.source import Source
from pipeline.mock.coadds import MockCoadd, write_coadds
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import NoSpectrum, RawSpectrum
from pipeline.surveys.desi.layouts import LAYOUTS
from tests import desi_release
from tests.faulty_server import QuietServer

HEALPIX = LAYOUTS["desi-healpix"]


@pytest.fixture(autouse=True)
def no_coadd_is_kept() -> None:
    archive._last_shared.clear()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MockCoadd]]:
    root = tmp_path_factory.mktemp("release")
    return root, write_coadds(root, desi_release.restframes, 6, per_file=3)


def keys_of(coadds: list[MockCoadd]) -> list[str]:
    names = ("SURVEY", "PROGRAM", "HEALPIX", "TARGETID")
    return ["-".join(str(row[name]) for name in names) for each in coadds for row in each.rows]


def read(source: Source, keys: list[str], counters: FetchCounters | None = None) -> list[RawSpectrum | NoSpectrum]:
    return list(Archive(source, HEALPIX).spectra(keys, counters=counters))


@contextmanager
def ranges(root: Path, *, ignored: bool = False, broken: int = 0) -> Iterator[tuple[str, list[str | None]]]:
    """Serve a folder by ranges; gives its URL, and the ranges asked for. broken: answers that are an error first."""
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the base class's name
            asked.append(self.headers["Range"])
            file = root / self.path.lstrip("/")
            if len(asked) > 2 and len(asked) <= 2 + broken:
                self.send_error(503)
                return
            if not file.is_file():
                self.send_error(404)
                return
            content, status = file.read_bytes(), 200
            if self.headers["Range"] and not ignored:
                first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                content, status = content[int(first) : int(last) + 1], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with QuietServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def same(one: list[RawSpectrum | NoSpectrum], other: list[RawSpectrum | NoSpectrum]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert isinstance(a, RawSpectrum)
        assert isinstance(b, RawSpectrum)
        np.testing.assert_array_equal(a.flux, b.flux)


def test_a_web_server_is_asked_for_few_ranges(release: tuple[Path, list[MockCoadd]]) -> None:
    root, coadds = release
    keys, counters = keys_of(coadds), FetchCounters()
    from_disk = read(Source(str(root)), keys)
    archive._last_shared.clear()
    with ranges(root) as (url, asked):
        same(read(Source(url), keys, counters), from_disk)
    assert None not in asked
    assert counters.requests == len(asked) <= 5 * len(coadds)
    assert counters.fetched < 0.6 * sum(each.coadd.stat().st_size for each in coadds)


def test_a_server_that_gives_no_ranges_gives_the_same(release: tuple[Path, list[MockCoadd]]) -> None:
    root, coadds = release
    from_disk = read(Source(str(root)), keys_of(coadds[:1]))
    archive._last_shared.clear()
    with ranges(root, ignored=True) as (url, _):
        same(read(Source(url), keys_of(coadds[:1])), from_disk)


def test_only_the_range_that_failed_is_asked_for_again(release: tuple[Path, list[MockCoadd]]) -> None:
    root, coadds = release
    with ranges(root, broken=2) as (url, asked):
        found = read(Source(url, backoff=0.01), keys_of(coadds[:1]))
    assert isinstance(found[0], RawSpectrum)
    assert len(asked) - len(set(asked)) == 2


def test_a_cache_keeps_what_was_fetched(release: tuple[Path, list[MockCoadd]], tmp_path: Path) -> None:
    root, coadds = release
    keys = keys_of(coadds)
    with ranges(root) as (url, asked):
        first = read(Source(url, cache=str(tmp_path / "cache")), keys)
        archive._last_shared.clear()
        count = len(asked)
        same(read(Source(url, cache=str(tmp_path / "cache")), keys), first)
        assert len(asked) == count
    kept = [file for file in (tmp_path / "cache").rglob("*.fits")]
    assert [file.name for file in sorted(kept)] == [each.coadd.name for each in coadds]
    assert all(file.stat().st_size < 0.5 * each.coadd.stat().st_size for file, each in zip(kept, coadds, strict=True))


def test_a_missing_coadd_and_one_that_is_none_are_said(release: tuple[Path, list[MockCoadd]], tmp_path: Path) -> None:
    _, coadds = release
    keys = keys_of(coadds)
    file = tmp_path / HEALPIX.path(keys[3])
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no FITS file")
    found = read(Source(str(tmp_path), retries=0), keys)
    assert found[:3] == [NoSpectrum(Quality.NO_FILE, "the source has no file of it")] * 3
    assert found[3:] == [NoSpectrum(Quality.BAD_FILE, "not a FITS file")] * 3


def test_a_compressed_file_is_read_as_a_whole(release: tuple[Path, list[MockCoadd]]) -> None:
    import gzip

    root, coadds = release
    keys = keys_of(coadds[:1])
    memory = f"memory://{uuid.uuid4().hex}"
    with fsspec.open(f"{memory}/{HEALPIX.path(keys[0])}", "wb") as file:
        file.write(gzip.compress(coadds[0].coadd.read_bytes(), 1))
    same(read(Source(memory), keys), read(Source(str(root)), keys))


def test_redshifts_are_those_beside_the_spectra(release: tuple[Path, list[MockCoadd]]) -> None:
    root, coadds = release
    keys = keys_of(coadds)
    found = list(Archive(Source(str(root)), HEALPIX).redshifts([*reversed(keys), "main-dark-1-1"]))
    rows = [row for each in coadds for row in each.rows]
    assert found[:-1] == [(row["Z"], row["ZERR"]) for row in reversed(rows)]
    assert found[-1] == NoSpectrum(Quality.NO_FILE, "the source has no file of it")
