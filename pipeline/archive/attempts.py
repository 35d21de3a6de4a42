"""One file of an archive: looked for in its places, and asked for again after faults that may pass."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from fsspec.asyn import AsyncFileSystem

from pipeline import storage
from pipeline.archive import answers
from pipeline.archive.answers import Kind
from pipeline.archive.pace import RateLimiter
from pipeline.errors import ConfigError
from pipeline.surveys.survey import Parts

T = TypeVar("T")
Place = Callable[[str], str]
"""A file's path -> where a mirror may keep it."""

MAX_BACKOFF = 60.0
"""Seconds; the longest wait between two attempts that a server did not ask for."""

MAX_RETRY_AFTER = 600.0
"""Seconds; a server that asks for longer pauses, in sum, fails the file, so that a run never sleeps unnoticed."""

MAX_SILENCE = 75.0
"""Seconds without any answer, all attempts at a file together, after which the server is given up."""

# The place in which each source has its files, by URL and places: found with the first of them, in this process.
_preferred: dict[tuple[str, tuple[Place, ...]], int] = {}


class Settings(Protocol):
    """What `Source` says of a request."""

    @property
    def url(self) -> str: ...  # noqa: D102
    @property
    def retries(self) -> int: ...  # noqa: D102
    @property
    def timeout(self) -> float: ...  # noqa: D102
    @property
    def backoff(self) -> float: ...  # noqa: D102
    @property
    def first(self) -> int | None: ...  # noqa: D102
    @property
    def places(self) -> tuple[Place, ...]: ...  # noqa: D102
    @property
    def parts(self) -> Callable[[], Parts] | None: ...  # noqa: D102


@dataclass
class FetchCounters:
    """What a source was asked for and gave, added up: bytes, requests, and those of them that repeat a failed one."""

    fetched: int = 0
    requests: int = 0
    retries: int = 0


class NotGiven(Exception):  # noqa: N818 - an answer, not an error of ours
    """A file did not come, after all attempts."""

    def __init__(self, path: str, kind: Kind, reason: str, attempts: int) -> None:
        super().__init__(path, kind, reason, attempts)
        self.path = path
        self.kind = kind
        self.reason = reason
        self.attempts = attempts

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} (attempt {self.attempts})"


@dataclass(frozen=True)
class Attempts:
    """The requests of one call, and what they share."""

    settings: Settings
    limit: asyncio.Semaphore
    limiter: RateLimiter
    threads: ThreadPoolExecutor
    counters: FetchCounters  # only the event loop's thread adds to it

    async def fetch(self, path: str, retries: int) -> bytes | FileNotFoundError:
        """Fetch a file, again after faults that may pass.

        Raises NotGiven, and ConfigError for a source that cannot be opened.
        """
        settings = self.settings
        came: dict[tuple[str, int, int], bytes] = {}
        faults, asked_in_sum, silent = 0, 0.0, 0.0
        for attempt in itertools.count():
            try:
                content = await self._from_places(path, came, again=attempt > 0)
            except ConfigError:
                raise
            except Exception as error:
                # every backend raises its own classes, and none of its faults may pass for a missing file
                kind = answers.classify(error)
                if kind is Kind.GONE:
                    return FileNotFoundError(path)
                asked = answers.pause_of(error)
                faults += not asked
                wait = min(settings.backoff * 2**attempt, MAX_BACKOFF) * random.uniform(0.5, 1.0)
                asked_in_sum += max(asked, wait) if asked else 0.0
                silent += error.seconds if isinstance(error, answers.NoAnswer) else 0.0
                given_up = faults > retries or asked_in_sum > MAX_RETRY_AFTER or silent > MAX_SILENCE
                if not kind.may_pass or given_up:
                    reason = answers.in_words(error, settings.url)
                    if asked:
                        reason += f", and asks for a pause of {asked:.0f} s"
                    raise NotGiven(path, kind, reason, attempt + 1) from error
            else:
                return content
            if asked:
                # every request of this process: the server is busy, not the file
                self.limiter.retry_after.extend(asked)
            await asyncio.sleep(wait)
        raise AssertionError("itertools.count() ended")

    async def _from_places(self, path: str, came: dict[tuple[str, int, int], bytes], again: bool) -> bytes:
        """Fetch a file from the first of its places that has it. Raises what the most telling of them answered.

        came: gets the ranges of the file that came, which are not asked for again.
        """
        places = (_same, *self.settings.places)
        source = self.settings.url, places
        first = _preferred.get(source, 0)
        refusal: Exception | None = None
        asked: set[str] = set()
        for number in (first, *(each for each in range(len(places)) if each != first)):
            place = places[number](path)
            if place in asked:
                continue
            asked.add(place)
            try:
                content = await self._read(place, came, again=again)
            except Exception as error:
                kind = answers.classify(error)
                if kind not in (Kind.GONE, Kind.FORBIDDEN):
                    raise
                if refusal is None or kind is Kind.FORBIDDEN:
                    refusal = error
                continue
            _preferred[source] = number
            return content
        raise refusal or FileNotFoundError(path)

    async def _read(self, path: str, came: dict[tuple[str, int, int], bytes], again: bool) -> bytes:
        """Fetch what is needed of a file, range by range, in the order in which its layout asks for them."""
        if self.settings.parts is None or self.settings.first is not None:
            return await self._get(path, None, self.settings.first, again=again)
        parts = self.settings.parts()
        wanted = next(parts)
        while True:
            got = came.get((path, *wanted))
            if got is None:
                got = came[path, *wanted] = await self._get(path, *wanted, again=again)
            if wanted[0] == 0 and answers.is_compressed(got):
                return await self._get(path, None, None, again=again)
            try:
                wanted = parts.send(got)
            except StopIteration as end:
                content: bytes = end.value
                if not self._is_disk:
                    try:
                        answers.require_body(content)
                    except answers.BadBody:
                        came.clear()  # a range came short, or another file's
                        raise
                return content

    @property
    def _is_disk(self) -> bool:
        """Whether the source is a disk: what is there is there, whole or not, and no other try gives another."""
        return not isinstance(storage.filesystem(self.settings.url)[0], AsyncFileSystem)

    async def _get(self, path: str, start: int | None, end: int | None, again: bool) -> bytes:
        """Send one request, for a file or for a range of its bytes."""
        async with self.limit:
            await self.limiter.wait()
            self.counters.requests += 1
            self.counters.retries += again
            content = await self._answer(path, start, end)
            self.counters.fetched += len(content)
            return content

    async def _answer(self, path: str, start: int | None, end: int | None) -> bytes:
        fs, inner = storage.filesystem(storage.join(self.settings.url, path), as_sent=True)
        get = partial(fs._cat_file if isinstance(fs, AsyncFileSystem) else fs.cat_file, inner, start=start, end=end)
        is_part = end is not None
        if not isinstance(fs, AsyncFileSystem):
            return await asyncio.get_running_loop().run_in_executor(self.threads, _from_disk, get, is_part)
        began = time.monotonic()
        try:
            # without a limit a dead connection holds the chunk
            content = bytes(await asyncio.wait_for(get(), self.settings.timeout))
        except TimeoutError as error:
            raise answers.NoAnswer(time.monotonic() - began) from error
        if not is_part and answers.is_compressed(content):
            content = await in_thread(self.threads, answers.opened, content)
        if not start:
            answers.require_body(content, is_part=is_part)
        return content


def _same(path: str) -> str:
    return path


def _from_disk(get: Callable[[], bytes], is_part: bool) -> bytes:
    """Read a file that is on a disk: what is there is there, whole or not, and no other try gives another."""
    try:
        content = bytes(get())
        return content if is_part else answers.opened(content)
    except IsADirectoryError:
        return b""  # a folder in the file's place: the source has something there, and it is no spectrum
    except answers.BadBody:
        return content


async def in_thread(threads: ThreadPoolExecutor, function: Callable[..., T], *arguments: object) -> T:
    """Call a function in one of the threads that reach storage as this plan says (`storage.configure`)."""
    within = copy_context().run
    return await asyncio.get_running_loop().run_in_executor(threads, within, function, *arguments)
