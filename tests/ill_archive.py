"""An archive of real files that answers some requests as servers on bad days do."""

from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.faulty_server import QuietServer

RELEASE = "/sas/dr17"
STATUSES = ("401", "403", "404", "410", "429", "500", "503")
BODIES = ("empty", "halved", "page", "gzipped", "gzipped and said", "plain and said gzip", "half-gzipped")


@dataclass
class IllArchive:
    """A folder that is served, and what is wrong with it.

    spoiled: end of a file's path -> fault, and how many requests for it fail (None: all). everything: the faults of all
    files, once `after` whole files were asked for: each of so many requests, the last one for good. seen: requests
    by path; asked: whole files that were asked for, in order.
    """

    folder: Path
    spoiled: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    everything: list[tuple[str, int]] = field(default_factory=list)
    after: int = 0
    url: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    asked: dict[str, None] = field(default_factory=dict)
    late: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, path: str, whole: bool) -> str:
        """Return what is wrong with the next answer."""
        with self.lock:
            self.seen[path] += 1
            if whole:
                self.asked[path] = None
            if self.everything and len(self.asked) > self.after:
                self.late += 1
                left = self.late
                for fault, times in self.everything:
                    if left <= times:
                        return fault
                    left -= times
                return self.everything[-1][0]
            for end, (fault, times) in self.spoiled.items():
                if path.endswith(end) and (times is None or self.seen[path] <= times):
                    return fault
        return ""

    def heal(self) -> None:
        """Make all well again."""
        self.spoiled, self.everything = {}, []


@contextmanager
def serve(folder: Path) -> Iterator[IllArchive]:
    """Serve a release root on a free port of this machine, below the path of its release: runs keep its name."""
    archive = IllArchive(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the base class's name
            fault = archive.fault(self.path, whole="Range" not in self.headers)
            if fault == "silent":
                time.sleep(600)
            file = archive.folder / self.path.removeprefix(f"{RELEASE}/")
            if fault in STATUSES or not file.is_file():
                self.send_error(int(fault) if fault in STATUSES else 404)
                return
            body, said = spoil(file.read_bytes(), fault)
            self.send_response(200)
            if said:
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with QuietServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        archive.url = f"http://127.0.0.1:{server.server_address[1]}{RELEASE}"
        yield archive
        server.shutdown()
        thread.join()


def spoil(body: bytes, fault: str) -> tuple[bytes, bool]:
    """Return what comes of a body, and whether the headers say that it is compressed."""
    bodies = {
        "": (body, False),
        "empty": (b"", False),
        "halved": (body[: len(body) // 2], False),
        "page": (b"<html>Down for maintenance</html>", False),
        "gzipped": (gzip.compress(body, 1), False),
        "gzipped and said": (gzip.compress(body, 1), True),
        "plain and said gzip": (body, True),
        "half-gzipped": (gzip.compress(body, 1)[: len(body) // 4], False),
    }
    return bodies[fault]
