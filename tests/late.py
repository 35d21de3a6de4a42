"""A task that stops in the middle of its work, and goes on later: as if its client was thought dead, but was not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.archive.quota import divide
from pipeline.catalog import targets
from pipeline.compute.stages import record, tasks
from pipeline.planning.plan import Plan
from pipeline.store import arrays

PLACES = ("after reading", "before writing", "between two arrays", "before marking")

PATIENCE = 120.0  # seconds


class LateTask:
    """A task in its own thread; it waits at one of PLACES until `go_on` is called."""

    def __init__(self, root: str, made: Plan, task: tasks.Task) -> None:
        self._root, self._made, self._task = root, made, task
        self._reached, self._told = threading.Event(), threading.Event()
        self._outcomes: list[tasks.Outcome] = []
        self._thread = threading.Thread(target=self._do, daemon=True)

    def _do(self) -> None:
        model = self._task.model
        fingerprint = self._made.ingest_fingerprint if model is None else self._made.encode_fingerprint(model)
        self._outcomes.append(tasks.attempt(self._root, fingerprint, self._task, divide(self._made.config)))

    def start(self) -> None:
        """Start the task, and return when it waits."""
        self._thread.start()
        assert self._reached.wait(PATIENCE)

    def go_on(self) -> tasks.Outcome:
        """Let the task go on to its end, and return how it ended."""
        self._told.set()
        self._thread.join(PATIENCE)
        (outcome,) = self._outcomes
        return outcome

    def waits(self, function: Callable[..., Any], call: int, *, after: bool = False) -> Callable[..., Any]:
        """Return a function that stops this task, and no other, in the call of this number."""
        calls = 0

        def do(*values: Any, **options: Any) -> Any:
            nonlocal calls
            mine = threading.current_thread() is self._thread
            calls += mine
            stops = mine and calls == call
            made = function(*values, **options) if after or not stops else None
            if stops:
                self._reached.set()
                assert self._told.wait(PATIENCE)
            return made if after or not stops else function(*values, **options)

        return do


@contextmanager
def late_task(root: str, made: Plan, task: tasks.Task, place: str, patch: pytest.MonkeyPatch) -> Iterator[LateTask]:
    """Start a task that waits at one of PLACES."""
    late = LateTask(root, made, task)
    if place == "after reading":
        patch.setattr(targets, "read_rows", late.waits(targets.read_rows, 1, after=True))
    elif place == "before writing":
        patch.setattr(record, "write_region", late.waits(record.write_region, 1))
    elif place == "between two arrays":
        patch.setattr(arrays, "_write", late.waits(arrays._write, 2))
    else:
        patch.setattr(record, "mark_shard", late.waits(record.mark_shard, 1))
    late.start()
    try:
        yield late
    finally:
        late._told.set()
