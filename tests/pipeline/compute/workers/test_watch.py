from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.compute import cluster
from pipeline.compute.workers import scheduler, watch
from pipeline.compute.workers.admission import Admission, Denied
from pipeline.compute.workers.watch import LOOK, SILENCE, Watch
from pipeline.errors import ConfigError
from pipeline.planning.stages import Kind
from tests import clusters

pytestmark = pytest.mark.slow

INGEST: Kind = ("ingest", None)
ENCODE: Kind = ("encode", "random")
AGAIN = "continuing: workers are available"


def test_work_that_no_worker_may_do_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    with clusters.start(tmp_path, workers=0, SPENDER_DEVICE="cpu") as running:
        running.add_worker("--resources", "GPU=1")
        only_cpu = running.add_worker("--resources", "CPU=1")
        with cluster.connect(scheduler=running.address) as both:
            assert both is not None
            both.wait_for_workers(2)
            admission = Admission(both)
            admission.open()
            looking = Watch(both, admission, said.append)
            _look_until_quiet(looking, said, {INGEST, ENCODE})
            only_cpu.terminate()
            only_cpu.wait(60)
            assert looking.look({INGEST, ENCODE}) is False
            looking.look({ENCODE})
    assert said == [
        "waiting: all workers offer the resource GPU, and those do not ingest here; Ctrl-C stops the run",
        AGAIN,
    ]


def of(status: str = "running", last_seen: float = 0.0, resource: str = "CPU") -> dict[str, object]:
    return {"status": status, "last_seen": last_seen, "resources": {resource: 1.0}}


class Stub:
    """A client that is connected; what its scheduler says comes from elsewhere. Its workers do either."""

    status = "running"
    scheduler = None
    denied: ClassVar[dict[str, Denied]] = {}

    def place(self, kind: Kind) -> str:
        return "CPU" if kind == INGEST else "GPU"

    def missing(self, kind: Kind, workers: object) -> str:
        return f"nobody may {kind[0]}"

    def look(self, workers: object) -> list[Denied]:
        return []

    def has_changed(self, workers: object) -> bool:
        return False


def test_workers_that_are_paused_or_silent_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = [0.0]
    workers: dict[str, object] = {}
    monkeypatch.setattr(watch, "workers_of", lambda client: workers)
    looking = Watch(Stub(), Stub(), said.append, clock=lambda: now[0])  # type: ignore[arg-type]

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
            client.wait_for_workers(1)
            admission = Admission(client)
            admission.open()
            looking = Watch(client, admission, said.append)
            _look_until_quiet(looking, said, {INGEST})
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


def test_a_wait_is_said_each_minute_and_ends_where_no_worker_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = [0.0]
    workers: dict[str, object] = {}
    monkeypatch.setattr(watch, "workers_of", lambda client: workers)
    patient = Watch(Stub(), Stub(), said.append, None, clock=lambda: now[0])  # type: ignore[arg-type]
    impatient = Watch(Stub(), Stub(), lambda text: None, 90.0, clock=lambda: now[0])  # type: ignore[arg-type]
    for second in range(0, 3600, 10):
        now[0] = second
        patient.look({INGEST})
        if second <= 90:
            impatient.look({INGEST})
    assert len(said) == 60
    assert set(said) == {f"waiting: the scheduler has no workers; {watch._ADVICE}"}
    with pytest.raises(ConfigError, match=r"expected a scheduler that has workers \(90 s waited\); start some with"):
        impatient.look({INGEST})
    workers["a"] = of(resource="GPU")
    with pytest.raises(ConfigError, match=r"workers that can ingest \(90 s waited\); nobody may ingest"):
        impatient.look({INGEST})
    impatient.look({INGEST, ENCODE})  # one of them can be done
    workers.clear()
    impatient.look({INGEST, ENCODE})  # and workers that were there are waited for
    restarted = Watch(Stub(), Stub(), said.append, 90.0, clock=lambda: now[0])  # type: ignore[arg-type]
    now[0] += 100
    restarted.note_end()
    restarted.look({INGEST})  # likewise where tasks ended before anybody looked


def _look_until_quiet(looking: Watch, said: list[str], kinds: set[Kind]) -> None:
    """Look until workers can do all of these."""
    deadline = time.monotonic() + 60
    while True:
        looking.look(kinds)
        if not looking._shown:
            said.clear()
            return
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def _look_until(looking: Watch, said: list[str], expected: str) -> None:
    deadline = time.monotonic() + 30
    while not any(expected in text for text in said):
        assert time.monotonic() < deadline, said
        looking.look({INGEST})
        time.sleep(0.2)
    said.clear()
