"""What a whole run may ask of its source, divided among the tasks that ask at the same time.

Tasks take turns through a semaphore of the Dask scheduler: only so many fetch at once, each with its share of the
connections and of the rate. So the sum is bounded whatever joins or leaves, and a dead worker's turn runs out.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from distributed import Semaphore

from pipeline import storage
from pipeline.config import SurveyConfig
from pipeline.layouts import LAYOUTS
from pipeline.sources import Share, default_concurrency


@dataclass(frozen=True)
class Quota:
    """turns: tasks that may fetch at once, each with its share. name: of their semaphore; None where none is needed."""

    turns: int
    share: Share
    name: str | None = None


def divide(config: SurveyConfig, at_once: int) -> Quota:
    """Divide what a run may ask of its source.

    at_once: tasks that the workers there are can do at the same time, 1 in one process. Workers that join later take
    turns with them. A source on a disk is not bounded in concurrency.
    """
    wished = min(config.concurrency or default_concurrency(config.source), LAYOUTS[config.layout].at_once)
    rate = config.max_requests_per_second
    is_local = storage.local_path(config.source) is not None
    concurrency = wished if is_local else min(wished, config.max_requests)
    turns = max(1, min(at_once, at_once if is_local else config.max_requests // concurrency))
    share = Share(concurrency, None if rate is None else rate / turns)
    is_bounded = at_once > 1 and (rate is not None or not is_local)
    return Quota(turns, share, f"source-{uuid.uuid4().hex}" if is_bounded else None)


@contextmanager
def turn(quota: Quota) -> Iterator[Share]:
    """Wait for a turn, on a Dask worker, and give the share that goes with it."""
    if quota.name is None:
        yield quota.share
        return
    with Semaphore(max_leases=quota.turns, name=quota.name):  # type: ignore[no-untyped-call]
        yield quota.share
