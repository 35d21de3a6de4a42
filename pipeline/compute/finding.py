"""Targets of which a catalog names only the number: the archive's files with redshifts tell where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import storage
from pipeline.archive.reach import require_answer
from pipeline.archive.reader import Archive
from pipeline.archive.source import SourceError
from pipeline.compute.units import NO_FETCH, Progress
from pipeline.errors import ConfigError, RefusedError, redacted
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import NoSpectrum
from pipeline.surveys.survey import Search, Survey

MOST_FILES = 1000
"""Files of a small mirror that are read for targets of which nothing says where they are."""

REMEDY = f"check the network and the URL, or leave z and the reductions unchecked with {NO_FETCH}"
MOST_NAMED = 3
"""Targets, or files, that a message names."""

_ASKED_FIRST = 3  # files, of which one must be answered for

Found = tuple[str, float, float]
"""Key of a target, its redshift and that one's error."""


def lost_rows(frame: pd.DataFrame, survey: Survey) -> NDArray[np.intp]:
    """Return the rows of targets of which only the number is known."""
    if survey.search is None:
        return np.zeros(0, np.intp)
    unknown = survey.search.unknown.items()
    return np.flatnonzero(np.logical_or.reduce([(frame[name] == value).to_numpy() for name, value in unknown]))


def locate(
    frame: pd.DataFrame, survey: Survey, archive: Archive, rows: NDArray[np.intp], progress: Progress
) -> tuple[pd.DataFrame, list[str]]:
    """Return targets, those of the rows with the keys and redshifts that the archive's files say; and what was found.

    Raises RefusedError for targets that are nowhere, and for an archive that gives no files; ConfigError for one that
    does not answer.
    """
    search, beside = survey.search, archive.layout.redshifts
    assert search is not None
    assert beside is not None
    lost, url = frame.iloc[rows], redacted(archive.source.url)
    first = [beside.path(key) for keys in search.candidates(lost[:_ASKED_FIRST]) for key in keys[:_ASKED_FIRST]]
    if said := silence(archive, first):
        raise said
    bad: list[str] = []
    try:
        found = dict(_by_candidates(lost, search, archive, progress, bad))
        rest = np.array([row for row in range(len(lost)) if row not in found], np.intp)
        found |= dict(_by_listing(lost, rest, search, archive, bad))
    except SourceError as error:
        raise RefusedError("source", f"{url} gives no files: {error}", "check the network and the URL") from error
    missing = [row for row in range(len(lost)) if row not in found]
    if missing:
        names = lost[survey.lookup.id_column or "target"].iloc[missing[:MOST_NAMED]].tolist()
        problem = f"{url} has no file with {len(missing)} of {len(lost)} targets, such as {', '.join(map(str, names))}"
        problem += f"; one file that may have them cannot be read: {bad[0]}" if bad else ""
        raise RefusedError("CATALOG", problem, f"give {search.missing}, or positions, or leave it out with --where")
    keys = [found[row][0] for row in range(len(lost))]
    made = search.named(lost, keys)
    for name, place in (("z", 1), ("z_err", 2)):
        known = np.isfinite(made[name].to_numpy())
        values = np.array([found[row][place] for row in range(len(lost))], made[name].dtype)
        made = made.assign(**{name: np.where(known, made[name].to_numpy(), values)})
    folders = Counter(PurePosixPath(beside.path(key)).name for key in keys)
    shown = [f"{count} in {name}" for name, count in folders.most_common(MOST_NAMED)]
    more = f" and {len(folders) - MOST_NAMED} more files" if len(folders) > MOST_NAMED else ""
    lines = [f"{len(keys)} target{'s' if len(keys) > 1 else ''} found at {url}: {', '.join(shown)}{more}"]
    return written(frame, rows, made), lines


def require_places(frame: pd.DataFrame, survey: Survey, why: str) -> None:
    """Refuse targets of which only the number is known. why: they cannot be looked for. Raises RefusedError."""
    lost = lost_rows(frame, survey)
    if len(lost) and survey.search is not None:
        problem = f"{len(lost)} of {len(frame)} targets have no {survey.search.missing}: {why}"
        raise RefusedError("CATALOG", problem, f"give these columns, or leave {NO_FETCH} out")


def _by_candidates(
    lost: pd.DataFrame, search: Search, archive: Archive, progress: Progress, bad: list[str]
) -> Iterator[tuple[int, Found]]:
    """Look for each target under the keys that it may have. bad: gets what is wrong with files that there are."""
    done: set[int] = set()
    asked = [(row, key) for row, keys in enumerate(search.candidates(lost)) for key in keys]
    for (row, key), value in zip(asked, archive.redshifts([key for _, key in asked]), strict=True):
        if row not in done and not isinstance(value, NoSpectrum):
            done.add(row)
            progress("targets found", len(done), len(lost))
            yield row, (key, *value)
        elif isinstance(value, NoSpectrum):
            _note(value, bad)


def _by_listing(
    lost: pd.DataFrame, rows: NDArray[np.intp], search: Search, archive: Archive, bad: list[str]
) -> Iterator[tuple[int, Found]]:
    """Look for targets in all files of a mirror, where these are few and can be listed; the first that has one counts.

    bad: as of `_by_candidates`.
    """
    if not len(rows) or storage.protocol(archive.source.url) in storage.WEB:
        return
    rest, done = lost.iloc[rows], set[int]()
    for file in search.order(_files(archive.source.url, search.files)):
        keys = {place: key for place, key in search.keys_in(file, rest).items() if place not in done}
        for (place, key), value in zip(keys.items(), archive.redshifts(list(keys.values())), strict=True):
            if isinstance(value, NoSpectrum):
                _note(value, bad)
                continue
            done.add(place)
            yield int(rows[place]), (key, *value)


def _note(value: NoSpectrum, bad: list[str]) -> None:
    """Keep the reason of a file that is there and cannot be read; a file without the target is none."""
    if value.bit == Quality.BAD_FILE:
        bad.append(value.reason)


def _files(url: str, pattern: str) -> list[str]:
    """List the files of a mirror; none of one with too many to read."""
    fs, inner = storage.filesystem(storage.join(url, pattern))
    with storage.translated_errors(url):
        found = sorted(fs.glob(inner))
    return found if len(found) <= MOST_FILES else []


def written(frame: pd.DataFrame, rows: NDArray[np.intp], part: pd.DataFrame) -> pd.DataFrame:
    """Return targets with those of some rows replaced."""
    columns = {}
    for column in frame.columns:
        whole = frame[column].to_numpy(copy=True)
        whole[rows] = part[column].to_numpy()
        columns[column] = pd.Series(whole, frame.index, frame[column].dtype)
    return pd.DataFrame(columns)


def silence(archive: Archive, paths: Sequence[str]) -> ConfigError | None:
    """Return what to say of a source that does not answer, or of a folder that does not exist."""
    folder = storage.local_path(archive.source.url)
    if folder is not None:
        return None if folder.is_dir() else ConfigError("source", archive.source.url, "a folder that exists")
    try:
        if paths:
            require_answer("source", archive.source, paths[0], REMEDY, others=paths[1:_ASKED_FIRST])
    except ConfigError as error:
        return error
    return None
