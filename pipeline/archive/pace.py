"""When requests to a server may start: a rate, and a pause where the server asks for one."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SPREAD = 5.0  # seconds; after a pause that a server asked for, requests start again over so long


class Hold:
    """A server's wish to be left alone, heeded by all of a process's requests to it."""

    def __init__(self) -> None:
        self._until = 0.0

    def extend(self, seconds: float) -> None:
        """Let no request start for so long."""
        self._until = max(self._until, time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds until requests may start again."""
        return max(0.0, self._until - time.monotonic())


class Pace:
    """When a task's requests may start: evenly spaced in time, none of them while the server is to be left alone.

    per_second: requests started in any one second, None for no limit.
    """

    def __init__(self, hold: Hold, per_second: float | None = None) -> None:
        self.hold = hold
        self._interval = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    async def wait(self) -> None:
        """Return when the caller's request may start."""
        await self._turn()
        # looked at when the turn has come: many requests wait for theirs while the server answers the first
        while pause := self.hold.remaining:
            await asyncio.sleep(pause + random.uniform(0, min(pause, _SPREAD)))
            await self._turn()

    async def _turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
        if start > now:
            await asyncio.sleep(start - now)


_holds: dict[str, Hold] = {}  # by source


_paces: dict[tuple[str, float | None], list[Pace]] = {}  # those that no task is using now


@contextmanager
def _pace_of(url: str, per_second: float | None) -> Iterator[Pace]:
    """Lend a task a pace of its own, which lasts from one of the process's tasks to the next."""
    free = _paces.setdefault((url, per_second), [])
    try:
        pace = free.pop()
    except IndexError:
        pace = Pace(_holds.setdefault(url, Hold()), per_second)
    try:
        yield pace
    finally:
        free.append(pace)
