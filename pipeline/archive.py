"""The spectra of an archive: rows of the targets table -> what their files hold, or the bit that says why not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pandas as pd
from fsspec import AbstractFileSystem

from pipeline import fits, layouts, storage
from pipeline.fits import BadSpectrum, Plate, RawSpectrum
from pipeline.layouts import Ids
from pipeline.quality import Quality
from pipeline.sources import Source, Traffic

Content = bytes | FileNotFoundError
Timer = Callable[[str], AbstractContextManager[None]]
"""Gives a context for a named part of the work, whose time is taken."""

# The plate that this process read last, by source, as it is reached, and path: the next chunk often begins on it. Only
# a good one: a plate that is missing or damaged may be mended while workers live on.
_last_plate: dict[tuple[AbstractFileSystem, str, str], Plate] = {}


def _untimed(part: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Archive:
    """A source and the layout of its files."""

    source: Source
    layout: str

    def paths(self, rows: pd.DataFrame) -> list[str]:
        """Return the file of every row of a targets table, relative to the release root. Raises ConfigError."""
        return layouts.paths(self.layout, rows["target"])

    def spectra(
        self, rows: pd.DataFrame, timer: Timer = _untimed, traffic: Traffic | None = None
    ) -> Iterator[RawSpectrum | Quality]:
        """Give the spectrum of every row, in order, or the quality bit that says why there is none.

        timer: takes the time of "fetch" (waiting for files) and "parse". traffic: counts what the source is asked for
        and gives. Raises SourceError where a file cannot be fetched although it may be there, ConfigError for a source
        that nobody can open.
        """
        ids = [layouts.ids_of(target) for target in rows["target"]]
        paths = self.paths(rows)
        if layouts.LAYOUTS[self.layout].shared:
            yield from self._from_plates(ids, paths, timer, traffic)
            return
        for each, content in zip(ids, self._fetched(paths, timer, traffic), strict=True):
            with timer("parse"):
                spectrum = _from_file(content, each)
            yield spectrum

    def _from_plates(
        self, ids: list[Ids], paths: list[str], timer: Timer, traffic: Traffic | None
    ) -> Iterator[RawSpectrum | Quality]:
        """Read each plate once for all its rows, which follow one another in a sorted table."""
        pairs = itertools.groupby(zip(paths, ids, strict=True), key=lambda pair: pair[0])
        groups = [(path, [each for _, each in members]) for path, members in pairs]
        source = storage.filesystem(self.source.url)
        plate: Plate | Quality | None = _last_plate.get((*source, groups[0][0])) if groups else None
        first = 0 if plate is None else 1
        contents = self._fetched([path for path, _ in groups[first:]], timer, traffic)
        for number, (path, members) in enumerate(groups):
            if plate is None or number >= first:
                content = next(contents)
                _last_plate.clear()
                with timer("parse"):
                    plate = _plate(content)
                if isinstance(plate, Plate):
                    _last_plate[*source, path] = plate
            for each in members:
                with timer("parse"):
                    spectrum = _from_plate(plate, each)
                yield spectrum

    def _fetched(self, paths: list[str], timer: Timer, traffic: Traffic | None) -> Iterator[Content]:
        contents = self.source.stream(paths, traffic)
        while True:
            with timer("fetch"):
                content = next(contents, None)
            if content is None:
                return
            yield content


def _from_file(content: Content, ids: Ids) -> RawSpectrum | Quality:
    if isinstance(content, FileNotFoundError):
        return Quality.NO_FILE
    try:
        raw = fits.read_spec(content)
    except BadSpectrum:
        return Quality.BAD_FILE
    is_its = raw.belongs_to(ids.plate, ids.mjd, ids.last, is_sdss_v=layouts.is_sdss_v(ids.run2d))
    return raw if is_its else Quality.WRONG_FILE


def _plate(content: Content) -> Plate | Quality:
    if isinstance(content, FileNotFoundError):
        return Quality.NO_FILE
    try:
        return fits.read_plate(content)
    except BadSpectrum:
        return Quality.BAD_FILE


def _from_plate(plate: Plate | Quality, ids: Ids) -> RawSpectrum | Quality:
    if isinstance(plate, Quality):
        return plate
    try:
        raw = plate.spectrum(ids.last)
    except BadSpectrum:
        return Quality.BAD_FILE
    return raw if raw.belongs_to(ids.plate, ids.mjd, ids.last) else Quality.WRONG_FILE
