from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.store.ledger import Ledger


@pytest.fixture(
    params=[None, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS], ids=["links", "EPERM", "EOPNOTSUPP", "ENOSYS"]
)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of a file system with hard links, or of one that answers so where it has none."""
    if request.param is not None:

        def no_links(*names: object) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(os, "link", no_links)
    return tmp_path


def test_a_file_is_created_once(folder: Path) -> None:
    url = str(folder / "sub" / "a.json")
    assert storage.create_bytes(url, b"first")
    assert not storage.create_bytes(url, b"second")
    assert storage.read_bytes(url) == b"first"
    assert storage.list_names(str(folder / "sub")) == ["a.json"]
    storage.remove_partial(str(folder))
    assert os.listdir(folder / "sub") == ["a.json"]


def test_of_many_that_create_a_file_one_does(folder: Path) -> None:
    barrier, made = threading.Barrier(8), list[tuple[int, int]]()

    def create(number: int) -> None:
        for index in range(25):
            barrier.wait()
            if storage.create_bytes(str(folder / f"{index}.json"), b"%d" % number):
                made.append((index, number))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(index for index, _ in made) == list(range(25))
    assert all((folder / f"{index}.json").read_text() == str(number) for index, number in made)


def test_a_marker_is_written_without_links(folder: Path) -> None:
    ledger = Ledger(str(folder), "ingest", "0" * 64)
    assert ledger.mark(0, {"spectra": 4})
    assert not ledger.mark(0, {"spectra": 5})
    assert (ledger.done(), ledger.strays()) == ({0}, {})


def test_a_full_disk_is_no_lack_of_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*names: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        storage.create_bytes(str(tmp_path / "a.json"), b"")
    assert os.listdir(tmp_path) == []
