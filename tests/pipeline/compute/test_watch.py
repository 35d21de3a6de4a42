from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.compute import cluster, scheduler, watch
from pipeline.compute.watch import LOOK, SILENCE, Watch
from pipeline.planning.plan import Kind
from tests import clusters

pytestmark = pytest.mark.slow

INGEST: Kind = ("ingest", None)
ENCODE: Kind = ("encode", "random")
AGAIN = "continuing: workers are available again"


def place(kind: Kind) -> str:
    return "CPU" if kind == INGEST else "GPU"


def test_work_that_no_worker_may_do_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    with clusters.start(tmp_path, workers=0, SPENDER_DEVICE="cpu") as running:
        running.add_worker("--resources", "GPU=1")
        only_cpu = running.add_worker("--resources", "CPU=1")
        with cluster.connect(scheduler=running.address) as both:
            assert both is not None
            both.wait_for_workers(2)
            looking = Watch(both, place, said.append)
            only_cpu.terminate()
            only_cpu.wait(60)
            looking.look({INGEST, ENCODE})
            looking.look({ENCODE})
    assert said == [
        "waiting: none of the workers offers the resource CPU, needed to ingest; Ctrl-C stops the run",
        AGAIN,
    ]


def of(status: str = "running", last_seen: float = 0.0, resource: str = "CPU") -> dict[str, object]:
    return {"status": status, "last_seen": last_seen, "resources": {resource: 1.0}}


class Stub:
    """A client that is connected; what its scheduler says comes from elsewhere."""

    status = "running"


def test_workers_that_are_paused_or_silent_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = [0.0]
    workers: dict[str, object] = {}
    monkeypatch.setattr(watch, "workers_of", lambda client: workers)
    looking = Watch(Stub(), place, said.append, clock=lambda: now[0])  # type: ignore[arg-type]

    workers |= {"a": of("paused"), "b": of("closing_gracefully"), "c": of(resource="GPU")}
    looking.look({INGEST})
    assert said.pop().startswith("waiting: no worker that can ingest accepts tasks (closing_gracefully, paused: ")
    workers["b"] = of()
    looking.look({INGEST})
    assert said.pop() == AGAIN
    now[0] = SILENCE
    workers["a"] = of("paused", last_seen=1.0)
    looking.look({INGEST})  # one is paused and the other silent
    assert "accepts tasks (paused" in said.pop()
    now[0] = 2 * SILENCE
    looking.look({INGEST})
    assert said.pop().startswith(f"waiting: no worker that can ingest has answered for {SILENCE:.0f} s; ")
    workers["b"] = of(last_seen=2.0)
    looking.look({INGEST})
    assert said == [AGAIN]
    assert not looking.due
    now[0] += LOOK
    assert looking.due


def test_a_stopped_worker_and_a_stopped_scheduler_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENCE", 2.0)
    monkeypatch.setattr(scheduler, "ANSWER", 1.0)
    said: list[str] = []
    with clusters.start(tmp_path, workers=0) as running:
        worker = running.add_worker("--no-nanny")
        with cluster.connect(scheduler=running.address) as client:
            assert client is not None
            looking = Watch(client, lambda kind: None, said.append)
            looking.look({INGEST})
            assert said == []
            _stopped(worker.pid, looking, said, "has answered for")
            _stopped(running.scheduler.pid, looking, said, "the scheduler does not answer")


def _stopped(pid: int, looking: Watch, said: list[str], expected: str) -> None:
    """Stop a process, look until that is reported, let it go on, look until that is reported."""
    os.kill(pid, signal.SIGSTOP)
    try:
        _look_until(looking, said, expected)
    finally:
        os.kill(pid, signal.SIGCONT)
    _look_until(looking, said, AGAIN)


def _look_until(looking: Watch, said: list[str], expected: str) -> None:
    deadline = time.monotonic() + 30
    while not any(expected in text for text in said):
        assert time.monotonic() < deadline, said
        looking.look({INGEST})
        time.sleep(0.2)
    said.clear()
