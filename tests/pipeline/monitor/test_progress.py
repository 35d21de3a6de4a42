from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.compute.stages import metrics
from pipeline.compute.stages.tasks import Outcome, Task
from pipeline.monitor.progress import LINE_SECONDS, Bar, LogLines, SchedulerCounters, Tee, make_progress
from pipeline.planning.partition import Shard


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def outcome(index: int, reason: str | None = None) -> Outcome:
    task = Task("ingest", None, Shard(index, 4 * index, 4 * index + 4))
    return Outcome(task, None if reason else {"spectra": 4}, reason)


def test_a_terminal_gets_a_bar_and_a_log_gets_lines() -> None:
    assert isinstance(make_progress(Terminal()), Bar)
    assert isinstance(make_progress(io.StringIO()), LogLines)


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    now = 0.0
    stream = io.StringIO()
    lines = LogLines(stream, clock=lambda: now)
    lines.start(total=10, done_before=2)
    for index in range(2, 10):
        now += LINE_SECONDS / 4
        lines.advance(outcome(index))
    lines.close()
    shown = stream.getvalue().splitlines()
    assert shown == [
        "10 chunks, 2 done before, 8 to do",
        "ingest 000005: 6 of 10 chunks, 1.6 spectra/s",
        "ingest 000009: 10 of 10 chunks, 1.6 spectra/s",
    ]


def test_failures_are_told_at_once() -> None:
    stream = io.StringIO()
    lines = LogLines(stream, clock=lambda: 0.0)
    lines.start(total=2, done_before=0)
    lines.advance(outcome(0, "no answer"))
    lines.advance(outcome(1))
    assert "failed: ingest 000000: no answer" in stream.getvalue()
    assert "2 of 2 chunks, 1 failed" in stream.getvalue()


def test_the_bar_shows_chunks_and_failures() -> None:
    stream = Terminal()
    bar = Bar(stream)
    bar.start(total=3, done_before=1)
    bar.advance(outcome(1))
    bar.advance(outcome(2, "no answer"))
    bar.close()
    assert "3/3" in stream.getvalue()
    assert "failed: ingest 000002: no answer" in stream.getvalue()


def test_several_are_told_the_same() -> None:
    streams = io.StringIO(), io.StringIO()
    both = Tee(*(LogLines(stream, clock=lambda: 0.0) for stream in streams))
    both.start(total=2, done_before=1)
    both.advance(outcome(1))
    both.close()
    assert streams[0].getvalue() == streams[1].getvalue()
    assert "2 of 2 chunks" in streams[0].getvalue()


def test_a_scheduler_counts_what_is_to_do_what_is_done_and_what_failed() -> None:
    calls: list[tuple[Any, ...]] = []
    counted = SchedulerCounters(lambda *call: calls.append(call))
    counted.start(total=3, done_before=1)
    counted.advance(outcome(0))
    counted.advance(outcome(1, "no answer"))
    counted.close()
    assert calls == [
        (metrics.begin, 3, 1),
        (metrics.count, "ingest", None, {"spectra": 4}, metrics.SCHEDULER),
        (metrics.fail, "ingest", None, metrics.SCHEDULER),
    ]


def test_a_scheduler_that_cannot_count_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def there(function: Callable[..., None], *arguments: object) -> None:
        calls.append(function)
        raise ModuleNotFoundError("No module named 'pipeline'")

    counted = SchedulerCounters(there)
    with caplog.at_level(logging.WARNING, logger="pipeline.monitor.progress"):
        counted.start(total=2, done_before=0)
        counted.advance(outcome(0))
        counted.advance(outcome(1))
    assert len(calls) == 1
    assert "No module named 'pipeline'" in caplog.text
