"""An archive or a mirror of it: files fetched concurrently and gently, transient faults retried."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

from fsspec.asyn import get_loop

from pipeline import storage
from pipeline.archive.answers import Kind, NoAnswer
from pipeline.archive.attempts import Attempts, FetchCounters, NotGiven, Place, in_thread
from pipeline.archive.pace import _limiter_of
from pipeline.errors import ConfigError
from pipeline.surveys.fits import is_whole
from pipeline.surveys.survey import Parts

RETRIES = 10
"""Further attempts after a fault that may pass: about three minutes, as long as a server takes to start again."""

MAX_WITNESS = 45.0
"""Seconds for a file that came before to come again."""

# Fetched or under way per file in flight: one slow file must not leave the others' connections idle.
AHEAD = 2
REMOTE_CONCURRENCY, LOCAL_CONCURRENCY = 64, 8
WITNESSES = 3  # several: one may have become bad itself
_PROBE = 80  # bytes; a FITS file's first card
_PROBE_RETRIES = 2  # a mistyped URL is reported soon
_PROBE_TIMEOUT = 30.0
_PROBE_PATIENCE = 100.0  # seconds for all of them


class SourceError(RuntimeError):
    """A file that could not be fetched although it may exist: a fault of the source or of the way to it."""


class FileFault(Exception):  # noqa: N818 - an answer, not an error of ours
    """A file that the source does not give, while it gives others. kind: FORBIDDEN or PASSING. reason: in words."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason


Content: TypeAlias = bytes | FileNotFoundError | FileFault
"""What became of a file: its bytes; or that the source has none; or that it does not give this one."""


@dataclass(frozen=True)
class Allowance:
    """What one of a run's tasks may ask of the source: files in flight, and requests per second (None: no limit).

    witnesses: files that came before, see `Source`.
    """

    concurrency: int
    per_second: float | None = None
    witnesses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """An archive's release root, and how to fetch files from it.

    url: the folder that the archive's paths begin in, any fsspec URL. concurrency: files in flight at
    once; None takes 64 over the network, 8 from a disk. per_second: requests started per second, at most.
    retries: further attempts after a transient fault, with exponential waits that start at about `backoff`
    seconds; those after a pause that the server asked for (Retry-After) are not counted. timeout: seconds for one
    attempt over the network. cache: folder or bucket that is looked in first, and filled with the FITS files that are
    fetched, in the archive's layout. first: only so many bytes of each file, where the source can give a part.
    places: where mirrors may keep a file, path -> path; the first place that has it is taken, and looked at first from
    then on. parts: what of a file is fetched, and kept in the cache; None: all of it. witnesses: paths of files that
    came before.

    A fault is held against a file only while the source gives others. Before that, files that came earlier are asked
    for (of the same stream, else the witnesses), then this file once more.
    """

    url: str
    concurrency: int | None = None
    per_second: float | None = None
    retries: int = RETRIES
    timeout: float = 60.0
    backoff: float = 0.5
    cache: str | None = None
    first: int | None = None
    places: tuple[Place, ...] = ()
    parts: Callable[[], Parts] | None = None
    witnesses: tuple[str, ...] = ()

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

    def fetch(self, paths: Sequence[str]) -> list[Content]:
        """Fetch files, in the order of `paths`; for one that the source does not have, its FileNotFoundError.

        For one that it does not give while it gives others, a FileFault. Raises SourceError, naming the file, when
        one cannot be fetched after all retries or access is denied, and no other file came; the others of the call
        are then given up. Raises ConfigError for a source that cannot be opened.
        """
        return list(self.stream(paths))

    def stream(self, paths: Iterable[str], counters: FetchCounters | None = None) -> Iterator[Content]:
        """Fetch files as `fetch` does, one by one: what waits in memory is bounded by `concurrency`, not by `paths`.

        counters: counts what goes to and comes from the source; what the cache gives is not counted.
        """
        return self._stream(paths, counters or FetchCounters(), deque(self.witnesses, WITNESSES))

    def probe(self, paths: Iterable[str]) -> Iterator[Content]:
        """Fetch files as `stream` does, but give every fault as a FileFault, whosever it is; its cause says more."""
        return self._stream(paths, FetchCounters(), deque(maxlen=WITNESSES), is_probe=True)

    def _stream(
        self,
        paths: Iterable[str],
        counters: FetchCounters,
        came: deque[str],
        until: float | None = None,
        is_probe: bool = False,
    ) -> Iterator[Content]:
        """Fetch files one by one. came: gets those that the source gave. until: monotonic time of a TimeoutError.

        is_probe: give every fault of a file as such.
        """
        # All requests live in fsspec's own event loop: a thread for each would cost more than the request.
        loop = get_loop()
        limit = asyncio.Semaphore(self.at_once)
        waiting: deque[Future[Content]] = deque()
        remaining = iter(paths)
        with _threads(self.at_once) as threads, _quick_turns(), _limiter_of(self.url, self.per_second) as limiter:
            run = _Run(self, Attempts(self, limit, limiter, threads, counters), came, is_probe)

            def submit(path: str) -> None:
                waiting.append(asyncio.run_coroutine_threadsafe(run.fetch(path), loop))

            try:
                for path in itertools.islice(remaining, AHEAD * self.at_once):
                    submit(path)
                while waiting:
                    content = waiting.popleft().result(until and max(0.0, until - time.monotonic()))
                    for path in itertools.islice(remaining, 1):
                        submit(path)
                    yield content
            finally:
                for future in waiting:
                    future.cancel()

    def require_some(self, paths: Sequence[str], expected: str) -> tuple[str, ...]:
        """Refuse a source that has none of these files: a wrong root would make every target one without a file.

        expected: what the source should be, for the message. Returns some that the source gave, as witnesses; none
        where the cache has them. Raises ConfigError, also where it cannot be reached.
        """
        came = deque[str](maxlen=WITNESSES)
        timeout, retries = min(self.timeout, _PROBE_TIMEOUT), min(self.retries, _PROBE_RETRIES)
        probe = replace(self, first=_PROBE, retries=retries, timeout=timeout)
        found, reasons = 0, []
        try:
            until = time.monotonic() + _PROBE_PATIENCE
            for content in probe._stream(paths, FetchCounters(), came, until, is_probe=True):
                found += isinstance(content, bytes)
                if found == WITNESSES:
                    break
                if isinstance(content, FileFault):
                    reasons.append(content.reason)
        except TimeoutError:
            reasons.append(f"no answer for {_PROBE_PATIENCE:.0f} s")
        if not found:
            nothing = f"it has none of the {len(paths)} files tried, such as {paths[0]}"
            raise ConfigError("source", self.url, expected, reasons[0] if reasons else nothing)
        return tuple(came)


@dataclass(frozen=True)
class _Run:
    """One call's fetching: the cache, the source, and what is made of a file that does not come.

    is_probe: a fault is the answer that was asked for, whosever it is.
    """

    source: Source
    attempts: Attempts
    came: deque[str]  # only the event loop's thread adds to it
    is_probe: bool

    async def fetch(self, path: str) -> Content:
        """Take a file from the cache, or from the source and keep it there."""
        cache = self.source.cache
        if cache is None:
            return await self._judged(path)
        threads = self.attempts.threads
        try:
            kept = await in_thread(threads, storage.read_bytes, storage.join(cache, path))
            if is_whole(kept):
                return kept
        except (FileNotFoundError, IsADirectoryError):
            pass
        content = await self._judged(path)
        # what is no FITS file, or a part of one, may be better next time
        if self.source.first is None and isinstance(content, bytes) and is_whole(content):
            await in_thread(threads, storage.write_bytes, storage.join(cache, path), content)
        return content

    async def _judged(self, path: str) -> Content:
        """Fetch a file; where it does not come, find out whether that is its own fault. Raises SourceError."""
        try:
            return await self._noted(path, self.source.retries)
        except NotGiven as error:
            fault = error
        if self.is_probe:
            answer = FileFault(fault.kind, str(fault))
            answer.__cause__ = fault.__cause__
            return answer
        others = [each for each in reversed(self.came) if each != path]
        if fault.kind.is_of_the_source or not others:
            raise SourceError(str(fault)) from fault.__cause__
        if not await self._any_comes(others):
            raise SourceError(f"{fault}, and no file that came before comes again") from fault.__cause__
        try:
            return await self._noted(path, retries=0)
        except NotGiven as error:
            if error.kind.is_of_the_source:
                raise SourceError(str(error)) from error.__cause__
            count = f" ({fault.attempts + error.attempts} attempts)" if error.kind is Kind.PASSING else ""
            return FileFault(error.kind, f"{error.reason}{count}")

    async def _noted(self, path: str, retries: int) -> bytes | FileNotFoundError:
        content = await self.attempts.fetch(path, retries)
        if isinstance(content, bytes) and path not in self.came:
            self.came.append(path)
        return content

    async def _any_comes(self, paths: Sequence[str]) -> bool:
        """Ask for files that came before, one after the other, until one comes whole."""
        for path in paths:
            try:
                if isinstance(await asyncio.wait_for(self.attempts.fetch(path, retries=0), MAX_WITNESS), bytes):
                    return True
            except NotGiven as error:
                if isinstance(error.__cause__, NoAnswer):
                    return False  # the next one would be waited for as long
            except TimeoutError:
                return False
        return False


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
