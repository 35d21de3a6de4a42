from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline import storage


class Quiet(SimpleHTTPRequestHandler):
    """Python's own server, which ignores Range."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [(None, None, b"0123456789"), (2, 5, b"234"), (-3, None, b"789"), (7, None, b"789"), (None, 2, b"01"), (4, 4, b"")],
)
def test_a_part_of_a_file_is_that_part(
    tmp_path: Path, url: str, start: int | None, end: int | None, found: bytes
) -> None:
    (tmp_path / "digits").write_bytes(b"0123456789")
    fs, path = storage.filesystem(f"{url}/digits")
    assert fs.cat_file(path, start=start, end=end) == found


def test_shards_are_read_from_a_server_that_ignores_ranges(tmp_path: Path, url: str) -> None:
    values = np.arange(64, dtype=np.float32)
    made = zarr.create_array(tmp_path / "a.zarr", shape=(64,), dtype="f4", chunks=(4,), shards=(16,))
    made[:] = values
    array = zarr.open_array(storage.zarr_store(f"{url}/a.zarr", read_only=True), mode="r")
    np.testing.assert_array_equal(array[18:50], values[18:50])


def test_what_is_not_there_is_not_found(url: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{url}/none")
