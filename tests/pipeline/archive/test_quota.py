from __future__ import annotations

import threading
import time

import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.quota import Quota, divide, slot
from pipeline.archive.source import Allowance
from pipeline.config import SurveyConfig

REMOTE = "https://data.sdss.org/sas/dr17"


def config(source: str = REMOTE, **settings: object) -> SurveyConfig:
    return SurveyConfig.from_dict({"source": source, "targets": "t", **settings})


@given(
    at_once=st.integers(1, 500),
    concurrency=st.one_of(st.none(), st.integers(1, 100)),
    most=st.integers(1, 1000),
    rate=st.one_of(st.none(), st.floats(0.01, 1e4)),
    layout=st.sampled_from(["spec-lite", "spec", "spPlate"]),
)
def test_all_turns_together_stay_within_what_the_run_may_ask(
    at_once: int, concurrency: int | None, most: int, rate: float | None, layout: str
):
    asked = config(concurrency=concurrency, max_requests=most, max_requests_per_second=rate, layout=layout)
    quota = divide(asked, at_once)
    assert 1 <= quota.slots
    assert quota.name is not None
    assert 1 <= quota.allowance.concurrency
    assert quota.slots * quota.allowance.concurrency <= most
    if rate is None:
        assert quota.allowance.per_second is None
    else:
        assert quota.allowance.per_second is not None
        assert quota.slots * quota.allowance.per_second == pytest.approx(rate)


def test_one_process_keeps_64_requests_in_flight_and_all_of_the_rate():
    assert divide(config()) == Quota(slots=1, allowance=Allowance(64))
    assert divide(config(max_requests_per_second=5)) == Quota(slots=1, allowance=Allowance(64, 5))


@pytest.mark.parametrize("rate", [None, 100])
def test_workers_that_join_a_run_of_one_worker_take_turns_with_it(rate: float | None):
    quota = divide(config(max_requests_per_second=rate), at_once=1)
    assert quota.name is not None
    assert quota.slots == (4 if rate is None else 1)
    assert quota.allowance == Allowance(64, rate)


def test_a_large_cluster_takes_turns():
    quota = divide(config(max_requests_per_second=100), at_once=50)
    assert (quota.slots, quota.allowance) == (4, Allowance(64, 25.0))
    assert quota.name is not None


def test_a_disk_needs_no_turns_unless_a_rate_is_asked_for():
    assert divide(config("/data"), at_once=4) == Quota(slots=4, allowance=Allowance(8))
    assert divide(config("/data", max_requests_per_second=8), at_once=4).allowance == Allowance(8, 2.0)


def test_each_run_has_turns_of_its_own():
    assert divide(config(), at_once=2).name != divide(config(), at_once=2).name


# --- on workers ---

running: list[float] = []
lock = threading.Lock()


def _fetch(quota: Quota, seconds: float) -> tuple[float, float]:
    with slot(quota):
        start = time.monotonic()
        time.sleep(seconds)
        return start, time.monotonic()


def test_no_more_tasks_fetch_at_once_than_there_are_turns(threads: Client) -> None:
    quota = Quota(slots=2, allowance=Allowance(1), name="slots")
    spans = threads.gather([threads.submit(_fetch, quota, 0.2, key=f"fetch-{i}") for i in range(8)])
    most = max(sum(start <= moment < stop for start, stop in spans) for moment, _ in spans)
    assert most == 2


def test_one_process_waits_for_nobody():
    with slot(Quota(slots=1, allowance=Allowance(3))) as allowance:
        assert allowance == Allowance(3)
