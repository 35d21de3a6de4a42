"""Fixtures for what asks an archive: a server with faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.faulty_server import Faults, QuietServer


@pytest.fixture
def faulty() -> Iterator[str]:
    Faults.seen, Faults.most, Faults.agents, Faults.ranges, Faults.times = {}, 0, set(), set(), []
    with QuietServer(("127.0.0.1", 0), Faults) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()
