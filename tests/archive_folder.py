"""Serve a folder as an archive over HTTP whose files can be made to fail; make targets that lack RUN2D or redshifts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pandas as pd

from tests.faulty_server import QuietServer


class Recording(SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked.

    The first `faults` requests fail with `status`, those of `bad` paths by `fault`, those of missing files by
    `missing`: a status, or the body of a status of success.
    """

    asked: list[str] = []
    faults = 0
    status = 503
    bad: tuple[str, ...] = ()
    fault: int | bytes = 404
    missing: int | bytes = 404

    def do_GET(self) -> None:
        Recording.asked.append(self.path)
        if len(Recording.asked) <= Recording.faults:
            self.fail(Recording.status)
        elif self.path.endswith(Recording.bad) and Recording.bad:
            self.fail(Recording.fault)
        elif not Path(self.translate_path(self.path)).is_file():
            self.fail(Recording.missing)
        else:
            super().do_GET()

    def fail(self, answer: int | bytes) -> None:
        if isinstance(answer, int):
            self.send_error(answer)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def served(
    folder: Path,
    faults: int = 0,
    status: int = 503,
    *,
    bad: tuple[str, ...] = (),
    fault: int | bytes = 404,
    missing: int | bytes = 404,
) -> Iterator[str]:
    Recording.asked, Recording.faults, Recording.status = [], faults, status
    Recording.bad, Recording.fault, Recording.missing = bad, fault, missing
    with QuietServer(("127.0.0.1", 0), partial(Recording, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def without(frame: pd.DataFrame, *, run2d: bool = True, z: bool = True) -> pd.DataFrame:
    """Give targets whose catalog says neither reduction nor redshift."""
    dtypes, frame = frame.dtypes, frame.copy()
    if run2d:
        frame["run2d"], frame["specobjid"] = "", np.uint64(0)
        frame["target"] = "/" + frame["target"].str.split("/").str[1]
    if z:
        frame["z"] = frame["z_err"] = np.float32("nan")
    return frame.astype(dtypes)


def rows(frame: pd.DataFrame, *keys: str) -> pd.DataFrame:
    return frame[frame["target"].isin(keys)].reset_index(drop=True)


def moved(frame: pd.DataFrame, plate: int, mjd: int, fiberid: int) -> pd.DataFrame:
    """Give one target of another plate, with nothing known."""
    made = without(frame.iloc[:1])
    return made.assign(target=f"/{plate}-{mjd}-{fiberid}", plate=plate, mjd=mjd, fiberid=fiberid).astype(frame.dtypes)


def place_file(mirror: Path, root: Path, name: str, path: str) -> None:
    """Put a real file of the mirror at another path."""
    (found,) = mirror.rglob(name)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(found, root / path)
