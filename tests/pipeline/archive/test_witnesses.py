"""Whose fault it is that a file does not come: its own, while others come; and where mirrors may have it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pipeline.archive.answers import Kind
from pipeline.archive.source import FileFault, Source, SourceError
from tests.faulty_server import Faults, content_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", ["403", "401", "503", "reset", "cut", "page"])
def test_a_fault_of_one_file_is_its_own_while_others_come(faulty: str, fault: str):
    before, after, bad = "ok/0/a", "ok/0/b", f"{fault}/99/name"
    one, found, other = Source(faulty, retries=2, backoff=0.01, concurrency=1).fetch([before, bad, after])
    assert (one, other) == (content_of(f"/{before}"), content_of(f"/{after}"))
    assert isinstance(found, FileFault)
    assert found.kind is (Kind.FORBIDDEN if fault.startswith("40") else Kind.PASSING)
    again = 2 if fault == "reset" else 1  # aiohttp itself asks twice where a kept connection is reset
    assert Faults.seen[f"/{bad}"] == (2 if found.kind is Kind.FORBIDDEN else 4 * again)
    assert max(Faults.seen[f"/{path}"] for path in (before, after)) == 2  # one of them was asked for as a witness


@pytest.mark.parametrize("fault", ["403", "503"])
def test_a_file_that_came_before_the_stream_is_a_witness(faulty: str, fault: str):
    source = Source(faulty, retries=0, backoff=0.01, witnesses=("404/99/gone", "ok/0/a"))
    (found,) = source.fetch([f"{fault}/99/name"])
    assert isinstance(found, FileFault)
    assert Faults.seen == {f"/{fault}/99/name": 2, "/ok/0/a": 1}


@pytest.mark.parametrize("witness", ["503/99/other", "403/99/other", "404/99/other", "page/99/other"])
def test_a_fault_of_the_archive_is_held_against_no_file(faulty: str, witness: str):
    source = Source(faulty, retries=0, backoff=0.01, witnesses=(witness,))
    with pytest.raises(SourceError, match=r"503 Service .*\(attempt 1\), and no file that came before comes again$"):
        source.fetch(["503/99/name"])
    assert Faults.seen == {"/503/99/name": 1, f"/{witness}": 1}


def test_a_file_that_comes_after_its_witness_is_taken(faulty: str):
    source = Source(faulty, retries=1, backoff=0.01, witnesses=("ok/0/a",))
    assert source.fetch(["503/2/name"]) == [content_of("/503/2/name")]


def test_a_file_is_no_witness_against_itself(faulty: str):
    with pytest.raises(SourceError, match=r"\(attempt 1\)$"):
        Source(faulty, retries=0, witnesses=("503/99/name",)).fetch(["503/99/name"])


def test_a_silent_server_is_given_up_after_a_while_whatever_retries_are_left(
    faulty: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.archive.attempts.MAX_SILENCE", 0.5)
    with pytest.raises(SourceError, match=r"no answer for 0 s \(attempt 3\)"):
        Source(faulty, retries=9, backoff=0.01, timeout=0.2).fetch(["hang/9/name"])


# --- places ---


def packed(path: str) -> str:
    return f"{path}.gz"


def test_a_file_is_looked_for_in_its_places_and_the_next_one_first_where_it_was(tmp_path: Path):
    files = {"a.gz": gzip.compress(content_of("/a")), "b.gz": content_of("/b"), "c": content_of("/c")}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    found = Source(str(tmp_path), places=(packed,)).fetch(["a", "b", "c", "d"])
    assert found[:3] == [content_of(f"/{name}") for name in "abc"]
    assert isinstance(found[3], FileNotFoundError)


def test_not_every_file_is_asked_for_twice(faulty: str):
    def there(path: str) -> str:
        return path.replace("404/99", "ok/0")

    source = Source(faulty, places=(there,), concurrency=1)
    contents = list(source.stream(f"404/99/{i}" for i in range(20)))
    assert contents == [content_of(f"/ok/0/{i}") for i in range(20)]
    assert sum(Faults.seen[path] for path in Faults.seen if path.startswith("/404")) <= 2
