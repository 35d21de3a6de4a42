from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.archive.reach import require_answer
from pipeline.archive.source import Source
from pipeline.errors import ConfigError
from tests.faulty_server import Faults, QuietServer

pytestmark = pytest.mark.slow


class MoreFaults(Faults):
    """Also answers with nothing, and a status of success."""

    def answer(self, fault: str) -> None:
        if fault != "empty":
            super().answer(fault)
            return
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def faulty() -> Iterator[str]:
    Faults.seen.clear()
    with QuietServer(("127.0.0.1", 0), MoreFaults) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def ask(url: str, path: str, patience: float) -> float:
    """Return the seconds until the answer."""
    start = time.monotonic()
    require_answer("source", Source(url), path, "check the network", patience)
    return time.monotonic() - start


def refusal(url: str, path: str, patience: float) -> tuple[str, float]:
    start = time.monotonic()
    with pytest.raises(ConfigError) as error:
        require_answer("source", Source(url), path, "check the network", patience)
    return str(error.value), time.monotonic() - start


@pytest.mark.parametrize("answer", ["ok", "404", "403", "400", "503", "page", "empty"])
def test_any_answer_will_do(faulty: str, answer: str):
    assert ask(faulty, f"{answer}/9/a.fits", 5) < 3
    assert Faults.seen == {f"/{answer}/9/a.fits": 1}


def test_another_file_may_be_what_a_server_answers_for(faulty: str):
    start = time.monotonic()
    require_answer("source", Source(faulty), "reset/99/a.fits", "", 5, others=["404/9/b.fits"])
    assert time.monotonic() - start < 3
    assert Faults.seen["/404/9/b.fits"] == 1


def test_broken_connections_are_waited_for(faulty: str):
    assert 1 < ask(faulty, "reset/4/a.fits", 15) < 12
    assert Faults.seen["/reset/4/a.fits"] >= 5


def test_broken_connections_that_stay_are_said_within_the_patience(faulty: str):
    message, seconds = refusal(faulty, "reset/999/a.fits", 3)
    assert seconds < 4
    assert f"source is '{faulty}', expected an archive that answers; reset/999/a.fits: " in message
    assert message.endswith(", again and again for 3 s; check the network")
    assert "attempt" not in message


def test_a_server_that_accepts_and_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message, seconds = refusal(f"http://127.0.0.1:{silent.getsockname()[1]}", "a.fits", 3)
    assert seconds < 4.5
    assert message.endswith("a.fits: no answer for 3 s; check the network")


def test_the_whole_patience_is_said_not_that_of_the_last_attempt():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message, seconds = refusal(f"http://127.0.0.1:{silent.getsockname()[1]}", "a.fits", 8.5)
    assert 7 < seconds < 10
    assert "no answer for 8 s" in message  # the last attempt had less than two


def test_no_server_at_all_is_said_within_the_default_patience():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    message, seconds = refusal(f"http://127.0.0.1:{port}", "a.fits", 15)
    assert seconds < 17
    assert "Cannot connect" in message


def test_a_folder_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []
    monkeypatch.setattr(Source, "fetch", lambda self, paths: asked.extend(paths))
    require_answer("source", Source("/nowhere"), "a.fits", "", 0)
    assert asked == []
