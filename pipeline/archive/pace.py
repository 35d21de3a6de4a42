"""When requests to a server may start: a rate limit, and a pause when the server asks for one."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SPREAD = 5.0  # seconds; after a pause that a server asked for, requests start again over so long


class RetryAfter:
    """A pause that a server asked for (Retry-After); it holds for all requests of this process to that server."""

    def __init__(self) -> None:
        self._until = 0.0

    def extend(self, seconds: float) -> None:
        """Start no request for this many seconds."""
        self._until = max(self._until, time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds until requests may start again."""
        return max(0.0, self._until - time.monotonic())


class RateLimiter:
    """When a task's requests may start: evenly spaced in time, and none during a pause that the server asked for.

    per_second: requests started in any one second, None for no limit.
    """

    def __init__(self, retry_after: RetryAfter, per_second: float | None = None) -> None:
        self.retry_after = retry_after
        self._interval = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    async def wait(self) -> None:
        """Return when the caller's request may start."""
        await self._slot()
        # checked after the wait for a slot: the server may ask for a pause while many requests wait for theirs
        while pause := self.retry_after.remaining:
            await asyncio.sleep(pause + random.uniform(0, min(pause, _SPREAD)))
            await self._slot()

    async def _slot(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
        if start > now:
            await asyncio.sleep(start - now)


_retry_after: dict[str, RetryAfter] = {}  # by source


_limiters: dict[tuple[str, float | None], list[RateLimiter]] = {}  # those not in use


@contextmanager
def _limiter_of(url: str, per_second: float | None) -> Iterator[RateLimiter]:
    """Lend a task its own rate limiter; the next task of the process takes the same one."""
    free = _limiters.setdefault((url, per_second), [])
    try:
        limiter = free.pop()
    except IndexError:
        limiter = RateLimiter(_retry_after.setdefault(url, RetryAfter()), per_second)
    try:
        yield limiter
    finally:
        free.append(limiter)
