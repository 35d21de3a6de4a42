"""What a catalog leaves open is settled at the archive: the reduction of targets, and their redshifts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.archive.reader import Archive
from pipeline.archive.source import WITNESSES, Source, SourceError
from pipeline.compute.finding import REMEDY, locate, lost_rows, require_places, silence, written
from pipeline.compute.units import (
    Progress,
    Trial,
    Unit,
    find,
    first_paths,
    given_units,
    open_units,
    passed_over,
    reductions_of,
    require_found,
    with_present,
)
from pipeline.config import require_choice
from pipeline.errors import ConfigError, RefusedError, redacted
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import NoSpectrum, RawSpectrum
from pipeline.surveys.survey import Survey
from pipeline.surveys.values import as_strings

RETRIES, TIMEOUT = 5, 20.0
"""Of a file: an archive that stops to answer is given up after some two minutes."""

AUTO = "auto"
"""A reduction that is found out."""

# Bytes of a file that hold its redshift: a spec file with its exposures has several times as many.
_WITH_TABLE = 500_000
_ASKED_FIRST = 3  # files, of which one must be answered for
_SPREAD = 50  # files among which those that came are looked for
_BY_RULE, _NOT_ASKED = "by rule alone", "no archive was asked"


@dataclass(frozen=True)
class Settled:
    """Targets with what could be settled.

    frame: the targets, in the order of those given. lines: what was decided, and what stays unknown, in words.
    """

    frame: pd.DataFrame
    lines: list[str]


def settling(
    survey: Survey, reduction: str, source: str | None, layout: str | None, fetch: bool, progress: Progress | None
) -> Callable[[pd.DataFrame, NDArray[np.bool_], bool], tuple[pd.DataFrame, list[str]]]:
    """Return what settles targets of a survey so, for `find_targets`.

    reduction: AUTO, or a name, read as a catalog's values are. Where a source is named, redshifts are looked for that a
    catalog with a column of them has not, and a file of every reduction that is given. Raises ConfigError for what is
    no reduction's name, and for an unknown layout.
    """
    if layout is not None:
        require_choice("layout", layout, tuple(survey.layouts))
    name = _name_of(survey, reduction)

    def settled(frame: pd.DataFrame, suggested: NDArray[np.bool_], has_z: bool) -> tuple[pd.DataFrame, list[str]]:
        found = settle(
            frame,
            survey,
            source,
            layout,
            reduction=name,
            fetch=fetch,
            redshifts=source is not None or not has_z,
            check=source is not None,
            suggested=suggested,
            progress=progress or (lambda what, done, total: None),
        )
        return found.frame, found.lines

    return settled


def settle(
    frame: pd.DataFrame,
    survey: Survey,
    source: str | None = None,
    layout: str | None = None,
    *,
    reduction: str | None = None,
    fetch: bool = True,
    redshifts: bool = True,
    check: bool = False,
    suggested: NDArray[np.bool_] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Settled:
    """Settle the reductions and redshifts that a catalog of targets leaves open.

    frame: the survey's coordinates; the reduction "" where it is unknown; z where it is not finite or at most -1.
    reduction: that of all targets whose is open, a name as paths have it; None finds it out. source: release root,
    default the survey's archive; its release says which rules hold. fetch: whether it is asked; otherwise the rules
    alone settle, and z stays unknown; so they do, and it is said, where the survey's archive does not answer and no
    other is named. redshifts: whether unknown ones are looked for. check: whether a file is looked for of the
    reductions that are known, too; without it only of those whose targets have no redshift. layout: the source's,
    default the survey's first. suggested: rows, shape (N,), whose reduction is a suggestion only, such as that of an
    id: it is kept where the source has a file of it.
    A reduction is decided by one file for each plate and night: the first of the rule's candidates that has one. z
    (and z_err, where it is unknown) comes from the target's own file.
    Raises RefusedError for plates of which no candidate has a file, ConfigError for a source that does not answer.
    """
    if reduction is not None:
        frame, line = _given(frame, survey, reduction, suggested)
        rest = settle(frame, survey, source, layout, fetch=fetch, redshifts=redshifts, check=check, progress=progress)
        return replace(rest, lines=[*line, *rest.lines])
    is_named, source = source is not None, source or survey.archive
    lost = lost_rows(frame, survey)
    if len(lost):
        if not fetch:
            require_places(frame, survey, _NOT_ASKED)
        frame, line = locate(frame, survey, _archive(survey, source, layout), lost, progress)
        rest = settle(frame, survey, source, layout, redshifts=redshifts, check=check, progress=progress)
        return replace(rest, lines=[*line, *rest.lines])
    is_open = _is_open(frame, survey, suggested)
    lacks_z = redshifts & _is_unknown(frame["z"].to_numpy())
    opened, unknown_z = open_units(frame, survey, source, np.flatnonzero(is_open)), np.flatnonzero(lacks_z)
    if not fetch:
        return _by_rule(frame, survey, opened, len(unknown_z), _NOT_ASKED)
    units = [*opened, *given_units(frame, survey, np.flatnonzero(~is_open & (check | lacks_z)))]
    if not units and not len(unknown_z):
        return Settled(frame, [])
    kind = layout or next(iter(survey.layouts))
    archive = _archive(survey, source, layout)
    progress(f"files looked for at {redacted(source)}", 0, len(units) + len(unknown_z))
    first = first_paths(units, survey, archive, _ASKED_FIRST) or _spread(frame, unknown_z, archive)
    trials = silence(archive, first) or _found(units, survey, archive, progress)
    if isinstance(trials, ConfigError) and is_named:
        raise trials
    if isinstance(trials, ConfigError):
        return _by_rule(frame, survey, opened, len(unknown_z), f"{redacted(source)} does not answer (see --source)")
    require_found(units, trials, survey, kind, source)
    witnesses, trials = tuple(trial.path for trial in trials[:WITNESSES]), trials[: len(opened)]
    names = [trial.name for trial in trials]
    lines = _reduction_lines(survey, opened, names, f"at {redacted(source)}")
    lines += passed_over(trials, survey) if opened else []
    frame = _renamed(frame, survey, opened, names)
    frame, z_lines = _with_redshifts(frame, unknown_z, survey, archive, witnesses, progress)
    return Settled(frame, lines + z_lines)


def _archive(survey: Survey, source: str, layout: str | None) -> Archive:
    """Return a source's files in a layout, default the survey's first."""
    kind = layout or next(iter(survey.layouts))
    return Archive(Source(source, retries=RETRIES, timeout=TIMEOUT), survey.layouts[kind])


def _name_of(survey: Survey, reduction: str) -> str | None:
    """Read a reduction's name as a catalog's values are read; None to find it out. Raises ConfigError for no name."""
    if reduction.strip().lower() == AUTO:
        return None
    if survey.reductions is None:
        raise RefusedError("--run2d", f"targets of {survey.name} have no reduction", "leave it out")
    column = survey.reductions.column
    read = survey.catalog.texts.get(column)
    name = reduction.strip() if read is None else str(as_strings(read(np.array([reduction])))[0])
    pattern = survey.coordinates[column].pattern
    if not name or (pattern is not None and not re.fullmatch(pattern, name)):
        raise ConfigError(f"--{column}", reduction, survey.coordinates[column].example or "the name of a reduction")
    return name


def _is_open(frame: pd.DataFrame, survey: Survey, suggested: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Tell the targets whose reduction is unknown, or suggested only."""
    if survey.reductions is None:
        return np.zeros(len(frame), np.bool_)
    unknown = (frame[survey.reductions.column] == "").to_numpy(dtype=np.bool_)
    return np.asarray(unknown if suggested is None else unknown | suggested)


def _is_unknown(z: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell redshifts that are none; catalogs have -1 or -9999 for that, too."""
    return np.asarray(~(np.isfinite(z) & (z > -1)))


def _given(
    frame: pd.DataFrame, survey: Survey, name: str, suggested: NDArray[np.bool_] | None
) -> tuple[pd.DataFrame, list[str]]:
    """Give the targets whose reduction is open this one."""
    column = reductions_of(survey).column
    rows = np.flatnonzero(_is_open(frame, survey, suggested))
    if not len(rows):
        return frame, [f"{column} {name} for no target: the catalog names that of each"]
    frame = _with_reductions(frame, survey, rows, np.full(len(rows), name, np.object_))
    return frame, [f"{column} {name} for {_count(len(rows), 'target')}, as given"]


def _spread(frame: pd.DataFrame, rows: NDArray[np.intp], archive: Archive) -> list[str]:
    """Return files of some rows, spread over all."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _SPREAD, dtype=int))]
    return archive.paths(frame["target"].iloc[chosen].tolist())


def _found(units: Sequence[Unit], survey: Survey, archive: Archive, progress: Progress) -> list[Trial] | ConfigError:
    """Look for a file of every unit; return what to say of a source that said nothing of any.

    Raises RefusedError for a source that refuses to be asked.
    """
    url = archive.source.url
    try:
        trials = find(with_present(units, survey, url), survey, archive, progress)
    except SourceError as error:
        raise RefusedError("source", f"{redacted(url)} cannot be asked: {error}", REMEDY) from error
    if not trials or any(trial.path or not trial.is_silent for trial in trials):
        return trials
    fault = next(iter(trials[0].faults.values()))
    return ConfigError("source", url, "an archive that answers", f"{fault.reason}; {REMEDY}")


def _renamed(frame: pd.DataFrame, survey: Survey, units: Sequence[Unit], names: Sequence[str]) -> pd.DataFrame:
    """Write the reductions of units into the targets, where they are new, and what follows from them."""
    changed = [(unit.rows, name) for unit, name in zip(units, names, strict=True) if unit.suggested != name]
    if not changed:
        return frame
    rows = np.concatenate([each for each, _ in changed])
    values = np.repeat(np.array([name for _, name in changed], np.object_), [len(each) for each, _ in changed])
    return _with_reductions(frame, survey, rows, values)


def _with_reductions(
    frame: pd.DataFrame, survey: Survey, rows: NDArray[np.intp], values: NDArray[np.object_]
) -> pd.DataFrame:
    """Write the reductions of rows, and what follows from them."""
    reductions = reductions_of(survey)
    return written(frame, rows, reductions.named(frame.iloc[rows].assign(**{reductions.column: values})))


def _with_redshifts(
    frame: pd.DataFrame,
    rows: NDArray[np.intp],
    survey: Survey,
    archive: Archive,
    witnesses: tuple[str, ...],
    progress: Progress,
) -> tuple[pd.DataFrame, list[str]]:
    """Fill in the redshifts of rows from their files; also say of how many, and why others stay unknown.

    witnesses: as of a `Source`. Raises ConfigError for a source that stops to give files.
    """
    if not len(rows):
        return frame, []
    url = redacted(archive.source.url)
    archive = _with_table(survey, archive)
    witnesses = witnesses or _coming(_spread(frame, rows, archive), archive.source)
    archive = replace(archive, source=replace(archive.source, witnesses=witnesses))
    keys = frame["target"].iloc[rows].tolist()
    columns = {name: frame[name].to_numpy(copy=True) for name in ("z", "z_err") if name in frame}
    reasons: dict[str, list[str]] = {}
    try:
        found = _redshifts(keys, archive, progress)
    except SourceError as error:
        raise RefusedError("source", f"{url} gives no files: {error}", REMEDY) from error
    for key, row, each in zip(keys, rows, found, strict=True):
        if isinstance(each, NoSpectrum):
            reasons.setdefault(each.reason, []).append(key)
            continue
        is_marked = np.isfinite(columns["z"][row])  # a number in the place of none: its error is none, too
        for values, value in zip(columns.values(), each, strict=False):
            if is_marked or not np.isfinite(values[row]):
                values[row] = value
    known = len(rows) - sum(len(each) for each in reasons.values())
    lines = [f"z of {_count(known, 'target')} from their files at {url}"] if known else []
    lines += [_unknown_z(len(each), f"{reason} ({each[0]})") for reason, each in reasons.items()]
    return frame.assign(**columns), lines


def _coming(paths: Sequence[str], source: Source) -> tuple[str, ...]:
    """Return some of these files that the source gives."""
    came: list[str] = []
    for path, content in zip(paths, replace(source, first=80).probe(paths), strict=True):
        came += [path] if isinstance(content, bytes) else []
        if len(came) == WITNESSES:
            break
    return tuple(came)


def _with_table(survey: Survey, archive: Archive) -> Archive:
    """Return the archive in a layout that gives redshifts: files of whole plates do not."""
    kinds = (archive.layout, *survey.layouts.values())
    layout = next((each for each in kinds if not each.shared or each.redshifts is not None), archive.layout)
    return replace(archive, layout=layout)


def _redshifts(keys: Sequence[str], archive: Archive, progress: Progress) -> list[tuple[float, float] | NoSpectrum]:
    """Read z and z_err from the targets' files; of large ones the beginning, and the rest where that is not enough."""
    if archive.layout.redshifts is not None:
        return [each if isinstance(each, NoSpectrum) else _checked(*each) for each in archive.redshifts(keys)]
    is_large = archive.layout.size > _WITH_TABLE
    first = replace(archive, source=replace(archive.source, first=_WITH_TABLE)) if is_large else archive
    found: list[tuple[float, float] | NoSpectrum] = []
    for spectrum in first.spectra(keys):
        found.append(_redshift(spectrum))
        if len(found) % 100 == 0 or len(found) == len(keys):
            progress("redshifts from files", len(found), len(keys))
    if is_large:
        again = [i for i, each in enumerate(found) if isinstance(each, NoSpectrum) and each.bit == Quality.BAD_FILE]
        for place, spectrum in zip(again, archive.spectra([keys[i] for i in again]), strict=True):
            found[place] = _redshift(spectrum)
    return found


def _redshift(spectrum: RawSpectrum | NoSpectrum) -> tuple[float, float] | NoSpectrum:
    if isinstance(spectrum, NoSpectrum):
        return spectrum
    return _checked(spectrum.z, spectrum.z_err)


def _checked(z: float | None, z_err: float | None) -> tuple[float, float] | NoSpectrum:
    if z is None or _is_unknown(np.asarray(z)):
        return NoSpectrum(Quality.BAD_FILE, "the file has no redshift")
    return z, np.nan if z_err is None else z_err


def _by_rule(frame: pd.DataFrame, survey: Survey, units: Sequence[Unit], unknown_z: int, why: str) -> Settled:
    """Settle without an archive. why: there is none, for messages."""
    names = [unit.names[0] for unit in units]
    frame = _renamed(frame, survey, units, names)
    lines = _reduction_lines(survey, units, names, None, why)
    if unknown_z:
        lines.append(_unknown_z(unknown_z, why))
    return Settled(frame, lines)


def _reduction_lines(
    survey: Survey, units: Sequence[Unit], names: Sequence[str], place: str | None, why: str = ""
) -> list[str]:
    """Say how many plates have which reduction, and by what."""
    lines = []
    # one plate may have been observed in several nights
    kinds = {(name, unit.suggested, unit.words.split(",")[0]) for unit, name in zip(units, names, strict=True)}
    for (name, suggested), count in sorted(Counter(each[:2] for each in kinds).items()):
        reductions = reductions_of(survey)
        given = f" (the ids say {suggested}, which has no file there)" if suggested not in ("", name) else ""
        by = f"by {'their files' if count > 1 else 'its file'} {place}"
        if place is None:
            by = f"{'as the ids say' if suggested else _BY_RULE}: {why}"
        lines.append(f"{reductions.column} {name} for {_count(count, reductions.noun)} {by}{given}")
    return lines


def _unknown_z(count: int, reason: str) -> str:
    return f"z of {_count(count, 'target')} stays unknown; some models need it: {reason}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
