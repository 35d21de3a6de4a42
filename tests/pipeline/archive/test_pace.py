"""Requests start at a server's pace: shown by when they arrive there."""

from __future__ import annotations

import email.utils
import time

import pytest

from pipeline.archive.source import Source
from tests.faulty_server import Faults

pytestmark = pytest.mark.slow


def test_requests_that_wait_for_their_turn_heed_what_the_server_asks_meanwhile(faulty: str):
    # all 20 requests have a turn in the first second; the first answer asks for two seconds of peace
    Source(faulty, concurrency=32, per_second=20, retries=0).fetch(["busy2/1/name", *(f"ok/0/{i}" for i in range(20))])
    started = sorted(Faults.times)
    late = [moment for moment in started if moment - started[0] > 0.5]
    assert len(started) - len(late) < 8  # those under way when the answer came
    assert late[0] - started[0] >= 1.9


def test_requests_do_not_start_all_at_once_after_a_pause(faulty: str):
    Source(faulty, concurrency=64, retries=0).fetch(["busy2/1/name", *(f"slow/0/{i}" for i in range(400))])
    late = sorted(moment for moment in Faults.times if moment - min(Faults.times) > 1.9)
    assert len(late) > 20
    assert late[-1] - late[0] > 0.5  # spread over as long as the pause


def test_tasks_at_the_same_time_have_each_its_share_of_the_rate(faulty: str):
    source = Source(faulty, per_second=10)
    first, second = (source.stream(f"ok/0/{name}{i}" for i in range(9)) for name in "ab")
    started = time.monotonic()
    for _ in range(9):
        next(first), next(second)
    assert time.monotonic() - started < 1.6  # one after the other they would take 1.7 s


def test_requests_start_no_faster_than_allowed(faulty: str):
    Source(faulty, concurrency=8, per_second=20).fetch([f"ok/0/{i}" for i in range(11)])
    started = sorted(Faults.times)
    # Ten gaps of 1/20 s, whatever a busy machine adds; two that start late may come close to each other.
    assert started[-1] - started[0] >= 0.45
    assert all(late - early >= 0.45 for early, late in zip(started, started[10:], strict=False))


def test_retries_count_as_requests(faulty: str):
    Source(faulty, per_second=10, retries=4, backoff=0.001).fetch(["503/4/name"])
    assert max(Faults.times) - min(Faults.times) >= 0.35


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(faulty: str, form: str):
    asked = "2" if form == "seconds" else email.utils.formatdate(time.time() + 3, usegmt=True).replace(" ", "_")
    Source(faulty, retries=1, backoff=0.001, concurrency=1).fetch([f"busy{asked}/1/name", "ok/0/other"])
    # A date has whole seconds: 3 s ahead is at least 2 s. The other file waits as well.
    assert len(Faults.times) == 3
    assert Faults.times[1] - Faults.times[0] >= 1.9


def test_a_pace_lasts_from_one_task_to_the_next(faulty: str):
    for i in range(5):
        Source(faulty, per_second=10).fetch([f"ok/0/{i}"])
    assert max(Faults.times) - min(Faults.times) >= 0.35


def test_work_that_is_given_up_waits_for_nothing(faulty: str):
    stream = Source(faulty, per_second=0.01).stream(f"ok/0/{i}" for i in range(60))
    started = time.monotonic()
    next(stream)
    stream.close()
    assert time.monotonic() - started < 5
    time.sleep(0.3)
    assert len(Faults.seen) == 1
