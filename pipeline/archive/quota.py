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
from pipeline.archive.source import Share, default_concurrency
from pipeline.config import SurveyConfig
from pipeline.surveys.registry import get_survey


@dataclass(frozen=True)
class Quota:
    """turns: tasks that may fetch at once, each with its share. name: of their semaphore; None where none is needed."""

    turns: int
    share: Share
    name: str | None = None


def divide(config: SurveyConfig, at_once: int | None = None) -> Quota:
    """Divide what a run may ask of its source.

    at_once: tasks that a cluster's workers can do at the same time, as many as there are now: those that join later
    take turns with them. None: one process, one task after the other. A disk is not bounded in concurrency.
    """
    layout = get_survey(config.survey).layouts[config.layout]
    wished = min(config.concurrency or default_concurrency(config.source), layout.at_once)
    rate = config.max_requests_per_second
    is_local = storage.local_path(config.source) is not None
    concurrency = wished if is_local else min(wished, config.max_requests)
    if at_once is None:
        return Quota(1, Share(concurrency, rate))
    turns = at_once if is_local else config.max_requests // concurrency
    if rate is None:
        return Quota(turns, Share(concurrency), None if is_local else _new_name())
    # the rate is divided among the turns: more of them than tasks would leave a part of it unused
    turns = min(turns, at_once)
    return Quota(turns, Share(concurrency, rate / turns), _new_name())


def _new_name() -> str:
    return f"source-{uuid.uuid4().hex}"


@contextmanager
def turn(quota: Quota) -> Iterator[Share]:
    """Wait for a turn, on a Dask worker, and give the share that goes with it."""
    if quota.name is None:
        yield quota.share
        return
    with Semaphore(max_leases=quota.turns, name=quota.name):  # type: ignore[no-untyped-call]
        yield quota.share
