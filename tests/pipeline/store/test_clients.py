from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import storage
from pipeline.store import clients
from pipeline.store.clients import ALIVE, Presence, alive, conditional_writes
from pipeline.version import __version__

HOUR = 3600.0
PATIENCE = 10.0


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "run")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "RENEWAL", 0.02)


def left_behind(root: str, client: str, age: float, **changes: object) -> Path:
    """Write the object of a killed client, last renewed `age` seconds ago by the storage's clock."""
    moment = time.time() - age
    started = datetime.fromtimestamp(moment - 60, UTC).isoformat(timespec="seconds")
    content = {
        "host": "far",
        "pid": 7,
        "command": "run",
        "doing": "chunks",
        "version": "1.0",
        "started": started,
        "renewed": started,
    }
    path = Path(root) / "clients" / f"{client}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **changes}))
    os.utime(path, (moment, moment))
    return path


def ids(root: str, **options: str) -> list[str]:
    return [record.id for record in alive(root, **options)]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def set_clock(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """Have this machine's clock, but not the disk's, go wrong."""
    now = time.time
    monkeypatch.setattr(clients, "time", SimpleNamespace(time=lambda: now() + ahead))


def without_times(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = storage.modified
    monkeypatch.setattr(storage, "modified", lambda url: dict.fromkeys(listed(url)))


def test_nobody_works_where_nothing_is(root: str) -> None:
    assert alive(root) == []
    assert not Path(root).exists()


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_a_client_is_seen_while_it_works(root: str, scheme: str) -> None:
    with Presence(scheme + root, "run") as presence:
        (record,) = alive(scheme + root)
        assert (record.id, record.command, record.version) == (presence.id, "run", __version__)
        assert (record.host, record.pid) == (socket.gethostname(), os.getpid())
        assert datetime.now(UTC).timestamp() - datetime.fromisoformat(record.started).timestamp() < PATIENCE
        assert 0 <= record.age < PATIENCE
    assert alive(scheme + root) == []
    assert storage.list_names(storage.join(scheme + root, "clients")) == []


def test_a_client_does_not_count_itself(root: str) -> None:
    with Presence(root, "run") as one, Presence(root, "status") as other:
        assert ids(root, besides=one.id) == [other.id]
        assert sorted(ids(root)) == sorted([one.id, other.id])


def test_an_id_is_a_file_name(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a/b *[?] ü" + "x" * 300)
    with Presence(root, "run") as presence:
        assert re.fullmatch(rf"[A-Za-z0-9.-]{{1,64}}-{os.getpid()}-[0-9a-f]{{6}}", presence.id)
        assert ids(root) == [presence.id]


def test_clients_are_listed_by_their_start(root: str) -> None:
    for client, started in (("b", "2026-01-01"), ("a", "2026-01-03"), ("c", "2026-01-02")):
        left_behind(root, client, 1.0, started=f"{started}T00:00:00+00:00")
    assert ids(root) == ["b", "c", "a"]


def test_the_object_is_renewed(root: str, quick: None) -> None:
    with Presence(root, "run") as presence:
        path = Path(root) / "clients" / f"{presence.id}.json"
        started = json.loads(path.read_text())["started"]
        for _ in range(3):
            os.utime(path, (0, 0))
            wait_until(lambda: path.stat().st_mtime > 0)
        assert json.loads(path.read_text())["started"] == started
        assert ids(root) == [presence.id]


def test_a_killed_client_counts_until_its_object_is_old(root: str) -> None:
    left_behind(root, "young", ALIVE - 30)
    left_behind(root, "old", ALIVE + 1)
    assert ids(root) == ["young"]
    (record,) = alive(root)
    assert record.age == pytest.approx(ALIVE - 30, abs=PATIENCE)


@pytest.mark.parametrize("ahead", [-HOUR, HOUR])
def test_whoever_has_a_presence_needs_no_right_clock(root: str, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    left_behind(root, "young", ALIVE - 30)
    left_behind(root, "old", ALIVE + 1)
    set_clock(monkeypatch, ahead)
    with Presence(root, "run") as presence:
        assert ids(root, besides=presence.id) == ["young"]


def test_others_renewed_after_the_own_object_are_young(root: str) -> None:
    with Presence(root, "run") as presence:
        left_behind(root, "later", -2 * ALIVE)
        left_behind(root, "other", 1.0)
        assert sorted(ids(root, besides=presence.id)) == ["later", "other"]
        assert min(record.age for record in alive(root, besides=presence.id)) == 0


def test_a_slow_clock_misses_no_client_and_is_corrected_by_a_younger_object(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, -HOUR)
    left_behind(root, "old", ALIVE + 30)
    assert ids(root) == ["old"]
    left_behind(root, "young", 1.0)
    assert ids(root) == ["young"]
    assert alive(root)[0].age == 0


def test_without_times_the_contents_say_when(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_times(monkeypatch)
    for client, age in (("young", ALIVE - 30), ("old", ALIVE + 1)):
        renewed = datetime.fromtimestamp(time.time() - age, UTC).isoformat(timespec="seconds")
        left_behind(root, client, 0.0, renewed=renewed)
    assert ids(root) == ["young"]
    assert alive(root)[0].age == pytest.approx(ALIVE - 30, abs=PATIENCE)


DAMAGED = [b"", b"{", b"[]", b"\xff", b"{}", b'{"host": 1}', b'{"pid": "x"}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_object_is_an_unknown_client_while_it_is_young(root: str, content: bytes) -> None:
    path = left_behind(root, "damaged", 0.0)
    path.write_bytes(content)
    (record,) = alive(root)
    assert (record.id, record.host, record.pid) == ("damaged", "unknown", 0)
    os.utime(path, (time.time() - ALIVE - 1,) * 2)
    assert alive(root) == []


@pytest.mark.parametrize("key", ["host", "pid", "command", "doing", "version", "started"])
def test_each_entry_must_be_of_its_type(root: str, key: str) -> None:
    left_behind(root, "damaged", 0.0, **{key: None})
    assert [record.host for record in alive(root)] == ["unknown"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_object_of_unknown_age_is_skipped(root: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(root, "damaged", 0.0).write_bytes(content)
    without_times(monkeypatch)
    assert alive(root) == []


def test_an_object_that_vanishes_meanwhile_is_skipped(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(root, "here", 1.0)
    listed = storage.modified
    monkeypatch.setattr(storage, "modified", lambda url: {**listed(url), "gone.json": time.time()})
    assert ids(root) == ["here"]


def test_other_files_are_no_clients(root: str) -> None:
    notes = left_behind(root, "here", 1.0).with_name("notes.txt")
    notes.write_text("x")
    os.utime(notes, (time.time() + HOUR,) * 2)
    assert ids(root) == ["here"]


def test_old_objects_are_not_read(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(root, "young", 1.0)
    left_behind(root, "old", ALIVE + 1)
    reads: list[str] = []
    read = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda url: reads.append(url) or read(url))
    alive(root)
    assert [url.rsplit("/", 1)[-1] for url in reads] == ["young.json"]


def test_a_storage_that_does_not_answer_is_not_taken_for_nobody(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(root, "young", 1.0)

    def read_bytes(url: str) -> bytes:
        raise OSError("timeout")

    monkeypatch.setattr(storage, "read_bytes", read_bytes)
    with pytest.raises(OSError, match="timeout"):
        alive(root)


def test_a_root_that_cannot_be_written_is_noticed_at_once(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    threads = threading.active_count()
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "run"))), Presence(str(tmp_path / "run"), "run"):
        raise AssertionError("entered")
    assert threading.active_count() == threads


def test_the_thread_ends_at_once_with_the_work(root: str) -> None:
    presence = Presence(root, "run")
    begun = time.monotonic()
    with presence:
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "presence")
        assert thread.daemon
    assert not thread.is_alive()
    assert time.monotonic() - begun < clients.RENEWAL / 3


def test_the_object_is_removed_when_the_work_fails(root: str) -> None:
    with pytest.raises(KeyboardInterrupt), Presence(root, "run"):
        raise KeyboardInterrupt
    assert alive(root) == []


def test_a_renewal_that_hangs_neither_holds_the_client_nor_leaves_the_object(
    root: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_PATIENCE", 0.1)
    write = storage.write_json
    hanging, answered = threading.Event(), threading.Event()
    with Presence(root, "run") as presence:

        def hang(url: str, value: object) -> None:
            hanging.set()
            assert answered.wait(PATIENCE)
            write(url, value)

        monkeypatch.setattr(storage, "write_json", hang)
        assert hanging.wait(PATIENCE)
        begun = time.monotonic()
    assert time.monotonic() - begun < PATIENCE / 2
    assert ids(root) == [presence.id]
    answered.set()
    presence._thread.join(PATIENCE)
    assert alive(root) == []


def test_failing_renewals_are_logged_once_until_one_succeeds(
    root: str, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pipeline")  # the command, run by other tests, raises it
    write = storage.write_json
    failing, attempts = True, 0

    def write_json(url: str, value: object) -> None:
        nonlocal attempts
        attempts += 1
        if failing:
            raise OSError("no space")
        write(url, value)

    def attempted(more: int) -> None:
        target = attempts + more
        wait_until(lambda: attempts >= target)

    def warnings() -> int:
        return sum(record.levelno == logging.WARNING for record in caplog.records)

    with Presence(root, "run") as presence:
        monkeypatch.setattr(storage, "write_json", write_json)
        attempted(4)
        assert warnings() == 1
        assert "no space" in caplog.text
        assert presence.id in caplog.text
        failing = False
        attempted(3)
        failing = True
        attempted(4)
        assert warnings() == 2
    assert alive(root) == []


def test_an_object_that_cannot_be_removed_is_logged(
    root: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def remove(url: str) -> None:
        raise PermissionError("denied")

    caplog.set_level(logging.WARNING, "pipeline")  # the command, run by other tests, raises it
    with Presence(root, "run") as presence:
        monkeypatch.setattr(storage, "remove", remove)
    assert ids(root) == [presence.id]
    (record,) = caplog.records
    assert "denied" in record.getMessage()


def test_local_disks_write_conditionally_without_a_probe(root: str) -> None:
    assert conditional_writes(root)
    assert conditional_writes(f"file://{root}")
    assert not Path(root).exists()


@pytest.mark.parametrize("honored", [True, False])
def test_a_storage_that_replaces_what_is_there_is_noticed(
    root: str, honored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{root}"

    def replace(url: str, data: bytes) -> bool:
        storage.write_bytes(url, data)
        return True

    if not honored:
        monkeypatch.setattr(storage, "create_bytes", replace)
    assert conditional_writes(url) is honored
    assert storage.list_names(url) == []
