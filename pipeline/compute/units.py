"""Targets that share a reduction, such as those of a plate: which one it is, is found by their files at a source."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import storage
from pipeline.archive.answers import BadBody, Kind
from pipeline.archive.reader import Archive
from pipeline.archive.source import Content, FileFault, SourceError
from pipeline.errors import RefusedError, redacted
from pipeline.surveys.survey import Reductions, Survey

Progress = Callable[[str, int, int], None]
"""Is given what is being done, how many of it are done, and of how many."""

NO_FETCH = "--no-fetch"
"""The option of `targets` that settles without an archive, for messages."""

TRIED, TRIED_OF_GIVEN = 3, 10
"""Targets of a plate whose files are looked for: that of a single fiber may be missing. More where one reduction is
asked for, so that a mirror of a part of a plate has one of them."""

_FIRST_CARD = 80  # bytes
_FILES = (b"SIMPLE", b"\x1f\x8b", b"BZh")  # how a FITS file begins, gzipped and bzipped ones as well
_RETRIES_AGAIN = 2  # where one file has failed for all retries: each of many would take as long
_PATIENCE = 90.0  # seconds with nothing but faults that may pass


@dataclass(frozen=True)
class Unit:
    """Targets that share one reduction.

    rows: theirs. keys: of those whose files are tried. suggested: the reduction that the catalog says, "" for none.
    names: those that it may be, in the order to try. words: the unit's name. is_open: whether it is to be found out,
    not checked.
    """

    rows: NDArray[np.intp]
    keys: Sequence[str]
    suggested: str
    names: tuple[str, ...]
    words: str
    is_open: bool


@dataclass(frozen=True)
class Trial:
    """What became of the search for a unit's file.

    names: the reductions that it may be. faults: of them, why a file did not come, other than that there is none. name,
    path: the one that has a file, and that file, "" for none. is_silent: whether the source said nothing of any file.
    """

    names: tuple[str, ...]
    faults: Mapping[str, FileFault]
    name: str = ""
    path: str = ""
    is_silent: bool = False


def open_units(frame: pd.DataFrame, survey: Survey, source: str, rows: NDArray[np.intp]) -> list[Unit]:
    """Gather rows whose reduction is open, or suggested only, by what shares one."""
    reductions = survey.reductions
    if reductions is None:
        return []

    def names(key: str, suggested: str) -> tuple[str, ...]:
        found = reductions.candidates(key, source)
        return tuple(dict.fromkeys([*([suggested] if suggested else []), *found]))

    return _gathered(frame, reductions, rows, names, is_open=True)


def given_units(frame: pd.DataFrame, survey: Survey, rows: NDArray[np.intp]) -> list[Unit]:
    """Gather rows whose reduction is given, by it and what shares one."""
    if survey.reductions is None:
        return []
    return _gathered(frame, survey.reductions, rows, lambda key, given: (given,), is_open=False)


def _gathered(
    frame: pd.DataFrame,
    reductions: Reductions,
    rows: NDArray[np.intp],
    names: Callable[[str, str], tuple[str, ...]],
    *,
    is_open: bool,
) -> list[Unit]:
    columns = [*reductions.unit, reductions.column]
    tried = TRIED if is_open else TRIED_OF_GIVEN
    units = []
    for values, places in frame.iloc[rows][columns].groupby(columns, sort=True).indices.items():
        keys = frame["target"].iloc[rows[places[:tried]]].tolist()
        said = str(values[-1])
        words = ", ".join(f"{name} {value}" for name, value in zip(reductions.unit, values, strict=False))
        units.append(Unit(rows[places], keys, said, names(keys[0], said), words, is_open))
    return units


def with_present(units: Sequence[Unit], survey: Survey, source: str) -> list[Unit]:
    """Let the open units be of the source's own reductions, too, where they are cheap to list; web servers' are not."""
    if storage.protocol(source) in ("http", "https") or not any(unit.is_open for unit in units):
        return list(units)
    try:
        folders = survey.lookup.reduction_folders
        listed = [name for folder in folders for name in storage.list_names(storage.join(source, folder))]
    except OSError:
        return list(units)
    present = [name for name in listed if "." not in name]  # catalogs lie beside the reductions
    return [
        replace(unit, names=tuple(dict.fromkeys([*unit.names, *present]))) if unit.is_open else unit for unit in units
    ]


def first_paths(units: Sequence[Unit], survey: Survey, archive: Archive, most: int) -> list[str]:
    """Return the first file that is asked for of each unit, of so many units spread over all."""
    chosen = [units[i] for i in np.unique(np.linspace(0, len(units) - 1, most, dtype=int))] if units else []
    return archive.paths([reductions_of(survey).key(unit.keys[0], unit.names[0]) for unit in chosen])


def find(units: Sequence[Unit], survey: Survey, archive: Archive, progress: Progress) -> list[Trial]:
    """Look for a file of every unit: the first of its reductions that has one is its own.

    Raises SourceError for what is not about a file.
    """
    searches = [_search(unit, survey, archive) for unit in units]
    asked = {number: next(search) for number, search in enumerate(searches)}
    trials: dict[int, Trial] = {}
    source, heard, came = replace(archive.source, first=_FIRST_CARD), time.monotonic(), 0
    while asked:
        contents = source.probe([path for paths in asked.values() for path in paths])
        has_failed, given_up = False, time.monotonic() - heard > _PATIENCE
        for number, paths in list(asked.items()):
            answers = [] if given_up else [_answer(next(contents), path) for path in paths]
            passing = [_may_pass(answer) for answer in answers]
            has_failed |= any(passing)
            heard = heard if all(passing) else time.monotonic()
            try:
                asked[number] = searches[number].send(answers)
            except StopIteration as end:
                trials[number] = end.value
                del asked[number]
                if end.value.path:
                    came += 1
                    progress(f"{reductions_of(survey).noun}s with their reduction", came, len(units))
        if has_failed:
            source = replace(source, retries=min(source.retries, _RETRIES_AGAIN))
    return [trials[number] for number in range(len(units))]


def _search(unit: Unit, survey: Survey, archive: Archive) -> Generator[list[str], list[Content], Trial]:
    """Give the paths to ask for next, and take what came of them, nothing to give up.

    Where a file fails that may be there, the others of its reduction come first: another one would be a guess.
    """
    key_in = reductions_of(survey).key
    faults: dict[str, FileFault] = {}
    tried: set[str] = set()
    is_silent = True
    for key, name in itertools.product(unit.keys, unit.names):
        for keys in ([key], [other for other in unit.keys if other != key]):
            named = archive.paths([key_in(each, name) for each in keys])
            paths = [path for path in dict.fromkeys(named) if path not in tried]
            if not paths:
                break
            tried.update(paths)
            answers = yield paths
            if not answers:
                return Trial(unit.names, faults, is_silent=is_silent)
            came = next((path for path, each in zip(paths, answers, strict=True) if isinstance(each, bytes)), None)
            if came is not None:
                return Trial(unit.names, faults, name, came)
            for each in answers:
                if isinstance(each, FileFault):
                    faults.setdefault(name, each)
            is_silent &= all(_is_silence(each) for each in answers)
            if not any(_may_pass(each) for each in answers):
                break
    return Trial(unit.names, faults, is_silent=is_silent)


def _answer(content: Content, path: str) -> Content:
    """Return what came in a file's place. Raises SourceError for what is never about a file."""
    if isinstance(content, FileFault) and content.kind.is_of_the_source:
        raise SourceError(content.reason) from content.__cause__
    if isinstance(content, bytes) and not content.startswith(_FILES):
        return FileFault(Kind.GONE, f"{path}: no FITS file")
    return content


def _is_silence(answer: Content) -> bool:
    """Tell a fault of the connection or the server from an answer; an empty body and a web page are answers, too."""
    return isinstance(answer, FileFault) and answer.kind.may_pass and not isinstance(answer.__cause__, BadBody)


def _may_pass(answer: Content) -> bool:
    return isinstance(answer, FileFault) and answer.kind.may_pass


def require_found(units: Sequence[Unit], trials: Sequence[Trial], survey: Survey, layout: str, url: str) -> None:
    """Refuse units of which no file came. layout: the name of the one that was asked for. Raises RefusedError."""
    missing = [(unit, trial) for unit, trial in zip(units, trials, strict=True) if not trial.path]
    if not missing:
        return
    column, noun = reductions_of(survey).column, reductions_of(survey).noun
    unit, trial = missing[0]
    fault = next(iter(trial.faults.values()), None)
    of_layout = "" if layout == next(iter(survey.layouts)) else f", layout {layout}"
    tried = f"({column} {', '.join(trial.names)} tried{of_layout})"
    problem = f"{redacted(url)} {'gives' if fault else 'has'} no file of {unit.words} {tried}"
    if len(missing) > 1:
        problem += f", nor of {len(missing) - 1} more of {len(units)} {noun}s"
    archive = "name the archive that has it by --source"
    if fault:
        raise RefusedError(column, f"{problem}: {fault.reason}", f"{archive}, or ask none with {NO_FETCH}")
    remedy = f"give the {column} by --{column} NAME or a column" if unit.is_open else f"correct the {column}"
    remedy += f", name another --layout or {archive[5:]}" if of_layout else f", {archive}"
    raise RefusedError(column, problem, f"{remedy}, or leave the {noun} out with --where")


def passed_over(trials: Sequence[Trial], survey: Survey) -> list[str]:
    """Say of how many units a reduction before the one that was found failed, rather than being absent."""
    reductions = reductions_of(survey)
    found = []
    for trial in trials:
        before = trial.names[: trial.names.index(trial.name)]
        found += [trial.faults[name] for name in before if name in trial.faults][:1]
    if not found:
        return []
    count = f"{len(found)} {reductions.noun}{'' if len(found) == 1 else 's'}"
    return [f"{reductions.column} of {count} taken since no file of the one before it came, such as {found[0].reason}"]


def reductions_of(survey: Survey) -> Reductions:
    """Return how reductions are found, of a survey that has units."""
    assert survey.reductions is not None
    return survey.reductions
