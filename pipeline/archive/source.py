"""An archive or a mirror of it: files fetched concurrently and gently, transient faults retried."""

from __future__ import annotations

import asyncio
import email.utils
import itertools
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from fsspec.asyn import AsyncFileSystem, get_loop

from pipeline import storage
from pipeline.archive.pace import RateLimiter, _limiter_of
from pipeline.errors import ConfigError, redacted

T = TypeVar("T")

RETRIES = 10
"""Further attempts after a fault that may pass: about three minutes, as long as a server takes to start again."""

MAX_BACKOFF = 60.0
"""Seconds; the longest wait between two attempts that a server did not ask for."""

MAX_RETRY_AFTER = 600.0
"""Seconds; a server that asks for longer pauses, in sum, fails the file, so that a run never sleeps unnoticed."""


# Fetched or under way per file in flight: one slow file must not leave the others' connections idle.
AHEAD = 2
REMOTE_CONCURRENCY, LOCAL_CONCURRENCY = 64, 8
_PROBE = 80  # bytes; a FITS file's first card
_PROBE_RETRIES = 2  # a mistyped URL is reported soon
_PERMANENT_STATUS = frozenset({400, 401, 402, 403, 405, 406, 410, 411, 414, 416, 451, 501, 505})
_PERMANENT_ERRORS = (PermissionError, NotADirectoryError, NotImplementedError)


class SourceError(RuntimeError):
    """A file that could not be fetched although it may exist: a fault of the source or of the way to it."""


@dataclass
class FetchCounters:
    """What a source was asked for and gave, added up: bytes, requests, and those of them that repeat a failed one."""

    fetched: int = 0
    requests: int = 0
    retries: int = 0


@dataclass(frozen=True)
class Allowance:
    """What one of a run's tasks may ask of the source: files in flight, and requests per second (None: no limit)."""

    concurrency: int
    per_second: float | None = None


@dataclass(frozen=True)
class Source:
    """An archive's release root, and how to fetch files from it.

    url: the folder that the archive's paths begin in, any fsspec URL. concurrency: files in flight at
    once; None takes 64 over the network, 8 from a disk. per_second: requests started per second, at most.
    retries: further attempts after a transient fault, with exponential waits that start at about `backoff`
    seconds; those after a pause that the server asked for (Retry-After) are not counted. timeout: seconds for one
    attempt over the network. cache: folder or bucket that is looked in first, and filled with the FITS files that are
    fetched, in the archive's layout. first: only so many bytes of each file, where the source can give a part.
    """

    url: str
    concurrency: int | None = None
    per_second: float | None = None
    retries: int = RETRIES
    timeout: float = 60.0
    backoff: float = 0.5
    cache: str | None = None
    first: int | None = None

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError("concurrency", self.concurrency, "a whole number of at least 1")
        if self.per_second is not None and not self.per_second > 0:
            raise ConfigError("max_requests_per_second", self.per_second, "a number above 0")
        if self.retries < 0:
            raise ConfigError("retries", self.retries, "a whole number of at least 0")

    @property
    def at_once(self) -> int:
        """Files in flight."""
        return self.concurrency or default_concurrency(self.url)

    def fetch(self, paths: Sequence[str]) -> list[bytes | FileNotFoundError]:
        """Fetch files, in the order of `paths`; for one that the source does not have, its FileNotFoundError.

        Raises SourceError, naming the file, when one cannot be fetched after all retries or access is denied; the
        others of the call are then given up. Raises ConfigError for a source that cannot be opened.
        """
        return list(self.stream(paths))

    def stream(
        self, paths: Iterable[str], counters: FetchCounters | None = None
    ) -> Iterator[bytes | FileNotFoundError]:
        """Fetch files as `fetch` does, one by one: what waits in memory is bounded by `concurrency`, not by `paths`.

        counters: counts what goes to and comes from the source; what the cache gives is not counted.
        """
        # All requests live in fsspec's own event loop: a thread for each would cost more than the request.
        loop = get_loop()
        limit = asyncio.Semaphore(self.at_once)
        waiting: deque[Future[bytes | FileNotFoundError]] = deque()
        remaining = iter(paths)
        with _threads(self.at_once) as threads, _quick_turns(), _limiter_of(self.url, self.per_second) as limiter:
            run = _Run(self, limit, limiter, threads, counters or FetchCounters())

            def submit(path: str) -> None:
                waiting.append(asyncio.run_coroutine_threadsafe(run.fetch(path), loop))

            try:
                for path in itertools.islice(remaining, AHEAD * self.at_once):
                    submit(path)
                while waiting:
                    content = waiting.popleft().result()
                    for path in itertools.islice(remaining, 1):
                        submit(path)
                    yield content
            finally:
                for future in waiting:
                    future.cancel()

    def require_some(self, paths: Sequence[str], expected: str) -> None:
        """Refuse a source that has none of these files: a wrong root would make every target one without a file.

        expected: what the source should be, for the message. Raises ConfigError, also where it cannot be reached.
        """
        url = self.url
        try:
            probe = replace(self, first=_PROBE, retries=min(self.retries, _PROBE_RETRIES))
            if any(isinstance(content, bytes) for content in probe.stream(paths)):
                return
        except SourceError as error:
            raise ConfigError("source", url, expected, str(error)) from error
        raise ConfigError("source", url, expected, f"it has none of the {len(paths)} files tried, such as {paths[0]}")


@dataclass(frozen=True)
class _Run:
    """One call's fetching: what its requests share."""

    source: Source
    limit: asyncio.Semaphore
    limiter: RateLimiter
    threads: ThreadPoolExecutor
    counters: FetchCounters  # only the event loop's thread adds to it

    async def fetch(self, path: str) -> bytes | FileNotFoundError:
        """Take a file from the cache, or from the source and keep it there."""
        cache = self.source.cache
        if cache is None:
            return await self._retried(path)
        try:
            return await self._in_thread(storage.read_bytes, storage.join(cache, path))
        except FileNotFoundError:
            pass
        content = await self._retried(path)
        # what is no FITS file, or a part of one, may be better next time
        if self.source.first is None and isinstance(content, bytes) and content.startswith(b"SIMPLE"):
            await self._in_thread(storage.write_bytes, storage.join(cache, path), content)
        return content

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function in one of the threads that reach storage as this plan says (`storage.configure`)."""
        within = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self.threads, within, function, *arguments)

    async def _retried(self, path: str) -> bytes | FileNotFoundError:
        source = self.source
        faults, asked_in_sum = 0, 0.0
        for attempt in itertools.count():
            try:
                async with self.limit:
                    await self.limiter.wait()
                    self.counters.requests += 1
                    self.counters.retries += attempt > 0
                    content = await self._read(path)
                    self.counters.fetched += len(content)
                    return content
            except FileNotFoundError:
                return FileNotFoundError(path)
            except IsADirectoryError:
                return b""  # a folder in the file's place: the source has something there, and it is no spectrum
            except ConfigError:
                raise
            except Exception as error:
                # every backend raises its own classes, and none of its faults may pass for a missing file
                asked = _retry_after(error)
                faults += not asked
                wait = min(source.backoff * 2**attempt, MAX_BACKOFF) * random.uniform(0.5, 1.0)
                asked_in_sum += max(asked, wait) if asked else 0.0
                if faults > source.retries or _is_permanent(error) or asked_in_sum > MAX_RETRY_AFTER:
                    reason = f"{type(error).__name__}: {redacted(str(error))}"
                    if asked:
                        reason += f", and asks for a pause of {asked:.0f} s"
                    raise SourceError(f"{path}: {reason} (attempt {attempt + 1})") from error
            if asked:
                # every request of this process: the server is busy, not the file
                self.limiter.retry_after.extend(asked)
            await asyncio.sleep(wait)
        raise AssertionError("itertools.count() ended")

    async def _read(self, path: str) -> bytes:
        fs, inner = storage.filesystem(storage.join(self.source.url, path))
        get = partial(fs._cat_file if isinstance(fs, AsyncFileSystem) else fs.cat_file, inner, end=self.source.first)
        if not isinstance(fs, AsyncFileSystem):
            return bytes(await asyncio.get_running_loop().run_in_executor(self.threads, get))
        # without a limit a dead connection holds the chunk
        content = bytes(await asyncio.wait_for(get(), self.source.timeout))
        if content[:_PROBE].lstrip().startswith(b"<"):
            # from a login or maintenance page with status 200: the file itself may be well
            raise OSError("the server returned a web page instead of the file")
        return content


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads for what waits on a disk; they are not waited for at the end."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Let the event loop run soon while the caller computes: at Python's 5 ms, connections lie idle.

    It fetches a third more files (benchmarks/RESULTS.md, "Ingest").
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, 2e-4))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def default_concurrency(url: str) -> int:
    """Return the files in flight by default: many hide the latency of a network, a disk has next to none."""
    return LOCAL_CONCURRENCY if storage.local_path(url) is not None else REMOTE_CONCURRENCY


def _is_permanent(error: Exception) -> bool:
    return (
        isinstance(error, _PERMANENT_ERRORS)
        or getattr(error, "status", None) in _PERMANENT_STATUS
        or storage.is_misconfigured(error)
    )


def _retry_after(error: Exception) -> float:
    """Return the pause that a server asks for, in seconds, 0 for none (RFC 9110, section 10.2.3)."""
    headers = getattr(error, "headers", None) or {}
    text = str(headers.get("Retry-After", "")).strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()) if text else 0.0
    except ValueError:
        return 0.0
