"""A web server that fails as often as the paths asked of it say, and remembers how it was asked."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Faults(BaseHTTPRequestHandler):
    """Answers after what the path says: /<fault>/<times>/name fails that often, then serves its own path."""

    seen: dict[str, int] = {}
    agents: set[str] = set()
    times: list[float] = []
    ranges: set[str | None] = set()
    lock = threading.Lock()
    running = 0
    most = 0

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        with Faults.lock:
            Faults.running += 1
            Faults.most = max(Faults.most, Faults.running)
            Faults.agents.add(self.headers["User-Agent"])
            Faults.ranges.add(self.headers["Range"])
            Faults.times.append(time.monotonic())
            count = Faults.seen[self.path] = Faults.seen.get(self.path, 0) + 1
        fault, times = self.path.split("/")[1:3]
        fault = fault if count <= int(times) else "ok"
        time.sleep({"hang": 3, "slow": 0.1}.get(fault, 0))
        # counted until now, not until the answer is sent: a client that has it may ask again before this thread goes on
        with Faults.lock:
            Faults.running -= 1
        self.answer(fault)

    def answer(self, fault: str) -> None:
        body = b"<html>" if fault == "page" else content_of(self.path)
        if fault.isdecimal() or fault.startswith("busy"):
            self.send_response(int(fault) if fault.isdecimal() else 503)
            if fault.startswith("busy"):
                self.send_header("Retry-After", fault.removeprefix("busy").replace("_", " "))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            self.connection.close()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault == "cut":
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def content_of(path: str) -> bytes:
    """What the server above has at a path: a FITS file of a header alone."""
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0"]
    return "".join(card.ljust(80) for card in [*cards, f"COMMENT {path}", "END"]).ljust(2880).encode()


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about the connections that were broken on purpose."""
