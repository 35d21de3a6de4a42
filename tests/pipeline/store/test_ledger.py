from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.store.ledger import Ledger

FINGERPRINT = "0123456789abcdef" * 4


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def test_folder_names_stage_model_and_fingerprint(root: str) -> None:
    assert Ledger(root, "ingest", FINGERPRINT).folder == f"{root}/ledger/ingest-01234567"
    assert Ledger(root, "encode", FINGERPRINT, "sdss_II").folder == f"{root}/ledger/encode-sdss_II-01234567"


def test_nothing_is_done_at_first(root: str) -> None:
    ledger = Ledger(root, "ingest", FINGERPRINT)
    assert ledger.done() == set()
    assert ledger.failures() == {}
    assert ledger.records(ledger.done()) == {}
    assert not ledger.store_created()


def test_marked_chunks_are_done_and_read_back(root: str) -> None:
    ledger = Ledger(root, "ingest", FINGERPRINT)
    ledger.mark(3, {"start": 12, "stop": 16})
    ledger.mark(1_000_000, {"start": 0, "stop": 4})
    assert ledger.done() == {3, 1_000_000}
    assert ledger.read(3) == {"chunk": 3, "start": 12, "stop": 16, "fingerprint": FINGERPRINT}
    with pytest.raises(ConfigError, match="000003.json"):  # it does not tell all that it should
        ledger.records(ledger.done())
    for index in (3, 1_000_000):
        ledger.replace(index, {"spectra": 4, "good": 4, "usable": 4, "quality": {}, "checksums": {}})
    assert list(ledger.records(ledger.done())) == [3, 1_000_000]


def test_a_marker_is_created_once(root: str) -> None:
    ledger = Ledger(root, "ingest", FINGERPRINT)
    assert ledger.mark(0, {"start": 0, "stop": 4})
    assert ledger.mark(0, {"stop": 4, "start": 0})  # the same content: perhaps our own, sent again
    assert not ledger.mark(0, {"start": 0, "stop": 5})
    assert ledger.read(0)["stop"] == 4
    ledger.replace(0, {"start": 0, "stop": 5})
    assert ledger.read(0)["stop"] == 5


def test_a_chunk_without_a_marker_is_not_done(root: str) -> None:
    ledger = Ledger(root, "ingest", FINGERPRINT)
    with pytest.raises(FileNotFoundError):
        ledger.read(0)


def test_markers_of_equal_records_are_equal_bytes(root: str) -> None:
    one, other = Ledger(root + "/a", "ingest", FINGERPRINT), Ledger(root + "/b", "ingest", FINGERPRINT)
    one.mark(0, {"start": 0, "stop": 4})
    other.mark(0, {"stop": 4, "start": 0})
    assert storage.read_bytes(f"{one.folder}/000000.json") == storage.read_bytes(f"{other.folder}/000000.json")


def test_failures_and_the_store_marker_do_not_count_as_done(root: str) -> None:
    ledger = Ledger(root, "ingest", FINGERPRINT)
    ledger.fail(5, {"reason": "timeout"})
    ledger.mark_store({"checksums": {"z": "ab"}})
    assert ledger.done() == set()
    assert ledger.failures()[5]["reason"] == "timeout"
    assert ledger.store_created()
    assert ledger.read_store()["checksums"] == {"z": "ab"}


def test_a_failure_is_cleared_once_the_chunk_is_done(root: str) -> None:
    ledger = Ledger(root, "ingest", FINGERPRINT)
    ledger.fail(5, {"reason": "timeout"})
    ledger.clear_failure(5)
    ledger.clear_failure(6)
    assert ledger.failures() == {}


def test_models_and_stages_do_not_see_each_other(root: str) -> None:
    Ledger(root, "encode", FINGERPRINT, "a").mark(0, {})
    assert Ledger(root, "encode", FINGERPRINT, "b").done() == set()
    assert Ledger(root, "ingest", FINGERPRINT).done() == set()


def test_marker_of_another_fingerprint_with_the_same_start_is_refused(root: str) -> None:
    Ledger(root, "ingest", FINGERPRINT).mark(0, {})
    twin = Ledger(root, "ingest", FINGERPRINT[:8] + "f" * 56)
    with pytest.raises(ConfigError, match="000000.json"):
        twin.read(0)


def test_half_written_markers_do_not_count(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "ingest", FINGERPRINT)
    ledger.mark(0, {})
    (Path(ledger.folder) / "000001.json.77aa.partial").write_text("{")
    assert ledger.done() == {0}


def test_done_is_one_listing_and_no_reads(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(root, "ingest", FINGERPRINT)
    for index in range(5):
        ledger.mark(index, {})
    listings: list[str] = []
    real = storage.modified
    monkeypatch.setattr(storage, "modified", lambda url: listings.append(url) or real(url))
    monkeypatch.setattr(storage, "read_bytes", lambda url: pytest.fail(f"read {url}"))
    assert ledger.done() == set(range(5))
    assert listings == [ledger.folder]
