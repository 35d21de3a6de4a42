"""The spectra of an archive: keys of targets -> what their files hold, or why there is nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fsspec import AbstractFileSystem

from pipeline import storage
from pipeline.archive import answers
from pipeline.archive.answers import Kind
from pipeline.archive.attempts import FetchCounters
from pipeline.archive.source import Content, FileFault, Source
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import BadSpectrum, NoSpectrum, RawSpectrum, WrongSpectrum
from pipeline.surveys.survey import Layout

T = TypeVar("T")
Timer = Callable[[str], AbstractContextManager[None]]
"""Gives a context for a named part of the work, whose time is taken."""

# The shared file that this process read last, by source, as it is reached, and path: the next chunk often begins in it.
# Only a good one: a file that is missing or damaged may be repaired while workers live on.
_last_shared: dict[tuple[AbstractFileSystem, str, str], Any] = {}


def _untimed(phase: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Archive:
    """A source and the layout of its files; the source looks where mirrors may keep these."""

    source: Source
    layout: Layout

    def __post_init__(self) -> None:
        asked = replace(self.source, places=self.layout.places, parts=self.layout.parts)
        object.__setattr__(self, "source", asked)

    def paths(self, keys: Sequence[str]) -> list[str]:
        """Return the file of every target, relative to the release root. Raises ConfigError."""
        return [self.layout.path(key) for key in keys]

    def spectra(
        self, keys: Sequence[str], timer: Timer = _untimed, counters: FetchCounters | None = None
    ) -> Iterator[RawSpectrum | NoSpectrum]:
        """Give the spectrum of every target, in order, or why there is none.

        timer: takes the time of "fetch" (waiting for files) and "parse". counters: count what the source is asked for
        and gives. Raises SourceError where a file cannot be fetched although it may be there, ConfigError for a source
        that cannot be opened.
        """
        paths = self.paths(keys)
        if self.layout.shared:
            yield from self._from_shared(keys, paths, timer, counters)
            return
        for key, content in zip(keys, self._fetched(paths, timer, counters), strict=True):
            with timer("parse"):
                spectrum = self._taken(self._opened(content, self.layout.read), key, self.layout.spectrum)
            yield spectrum

    def redshifts(self, keys: Sequence[str]) -> Iterator[tuple[float, float] | NoSpectrum]:
        """Give z and its error of every target, in order, from the files beside those of the spectra, or why not.

        Raises SourceError as `spectra`; ValueError for a layout that does not say where they are.
        """
        beside = self.layout.redshifts
        if beside is None:
            raise ValueError("the layout does not say where redshifts are")
        paths = [beside.path(key) for key in keys]
        distinct = list(dict.fromkeys(paths))
        contents = replace(self.source, parts=None).stream(distinct)
        opened: dict[str, Any] = {}
        for key, path in zip(keys, paths, strict=True):
            if path not in opened:
                opened[path] = self._opened(next(contents), beside.read)
            yield self._taken(opened[path], key, beside.redshift)

    def _from_shared(
        self, keys: Sequence[str], paths: list[str], timer: Timer, counters: FetchCounters | None
    ) -> Iterator[RawSpectrum | NoSpectrum]:
        """Read each file once for all its targets, which follow one another in a sorted table."""
        pairs = itertools.groupby(zip(paths, keys, strict=True), key=lambda pair: pair[0])
        groups = [(path, [key for _, key in members]) for path, members in pairs]
        source = storage.filesystem(self.source.url)
        opened: Any = _last_shared.get((*source, groups[0][0])) if groups else None
        first = 0 if opened is None else 1
        contents = self._fetched([path for path, _ in groups[first:]], timer, counters)
        for number, (path, members) in enumerate(groups):
            if opened is None or number >= first:
                content = next(contents)
                _last_shared.clear()
                with timer("parse"):
                    opened = self._opened(content, self.layout.read)
                if not isinstance(opened, NoSpectrum):
                    _last_shared[*source, path] = opened
            for key in members:
                with timer("parse"):
                    spectrum = self._taken(opened, key, self.layout.spectrum)
                yield spectrum

    def _fetched(self, paths: list[str], timer: Timer, counters: FetchCounters | None) -> Iterator[Content]:
        contents = self.source.stream(paths, counters)
        while True:
            with timer("fetch"):
                content = next(contents, None)
            if content is None:
                return
            yield content

    @staticmethod
    def _opened(content: Content, read: Callable[[bytes], Any]) -> Any | NoSpectrum:  # noqa: ANN401 - what read gives
        if isinstance(content, FileNotFoundError):
            return NoSpectrum(Quality.NO_FILE, "the source has no file of it")
        if isinstance(content, FileFault):
            forbidden = content.kind is Kind.FORBIDDEN
            return NoSpectrum(Quality.NO_FILE if forbidden else Quality.BAD_FILE, content.reason)
        try:
            return read(answers.opened(content))
        except (BadSpectrum, answers.BadBody) as error:
            return NoSpectrum(Quality.BAD_FILE, str(error))

    @staticmethod
    def _taken(opened: Any | NoSpectrum, key: str, take: Callable[[Any, str], T]) -> T | NoSpectrum:  # noqa: ANN401
        if isinstance(opened, NoSpectrum):
            return opened
        try:
            return take(opened, key)
        except WrongSpectrum as error:
            return NoSpectrum(Quality.WRONG_FILE, str(error))
        except BadSpectrum as error:
            return NoSpectrum(Quality.BAD_FILE, str(error))
