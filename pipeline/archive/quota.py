"""How many requests a whole run may make of its source, divided among the tasks that fetch at the same time.

A semaphore of the Dask scheduler has a slot for each task that may fetch, with its allowance of connections and of the
rate. So the sum is bounded, whichever workers join or leave, and the slot of a dead worker becomes free again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from distributed import Semaphore

from pipeline import storage
from pipeline.archive.source import Allowance, default_concurrency
from pipeline.config import SurveyConfig
from pipeline.surveys.registry import get_survey


@dataclass(frozen=True)
class Quota:
    """slots: tasks that may fetch at once, each with its allowance. name: of the semaphore; None if none is needed."""

    slots: int
    allowance: Allowance
    name: str | None = None


def divide(config: SurveyConfig, at_once: int | None = None, witnesses: tuple[str, ...] = ()) -> Quota:
    """Divide the connections and the rate that a run is allowed among its tasks.

    at_once: tasks that the cluster's workers can do at the same time, counted now: workers that join later wait for the
    same slots. None: one process, one task after the other. A disk is not bounded in concurrency. witnesses: files that
    the source gave before the run, for every task.
    """
    layout = get_survey(config.survey).layouts[config.layout]
    wished = min(config.concurrency or default_concurrency(config.source), layout.at_once)
    rate = config.max_requests_per_second
    is_local = storage.local_path(config.source) is not None
    concurrency = wished if is_local else min(wished, config.max_requests)
    if at_once is None:
        return Quota(1, Allowance(concurrency, rate, witnesses))
    slots = at_once if is_local else config.max_requests // concurrency
    if rate is None:
        return Quota(slots, Allowance(concurrency, None, witnesses), None if is_local else _new_name())
    # the rate is divided among the slots: with more slots than tasks, part of it would go unused
    slots = min(slots, at_once)
    return Quota(slots, Allowance(concurrency, rate / slots, witnesses), _new_name())


def _new_name() -> str:
    return f"source-{uuid.uuid4().hex}"


@contextmanager
def slot(quota: Quota) -> Iterator[Allowance]:
    """Wait for a slot, on a Dask worker, and give its allowance."""
    if quota.name is None:
        yield quota.allowance
        return
    with Semaphore(max_leases=quota.slots, name=quota.name):  # type: ignore[no-untyped-call]
        yield quota.allowance
