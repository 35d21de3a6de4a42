"""Whose catalog or table of targets it is, by its columns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from pipeline import storage
from pipeline.catalog.reader import open_catalog
from pipeline.catalog.selection import kinds_of, missing_columns
from pipeline.catalog.table import Table
from pipeline.surveys.registry import DEFAULT, get_survey, installed_surveys
from pipeline.surveys.survey import Survey
from pipeline.surveys.values import as_strings, read_text

TARGET = "target"


def publish_archives() -> None:
    """Read what lies in the surveys' public buckets without credentials: catalogs, of a survey not known yet."""
    storage.publish(prefix for survey in installed_surveys() for prefix in survey.public)


@contextmanager
def opened_as(
    survey: str | None, url: str, columns: Mapping[str, str]
) -> Iterator[tuple[Table, Survey, tuple[str, ...]]]:
    """Open a catalog as that of a survey; also say how the survey was found, nothing where it is given.

    survey: its name; None: by the columns, see `_recognized`. columns: ours to the catalog's, which the user chose.
    Raises ConfigError as `open_catalog`, and for a survey that is not known.
    """
    if survey is not None:
        known = get_survey(survey)
        with open_catalog(url, kinds_of(known, columns)) as opened:
            yield opened, known, ()
        return
    with _recognized(url, columns) as (opened, known):
        yield opened, known, (_said_of(known, opened, columns),)


@contextmanager
def _recognized(url: str, given: Mapping[str, str]) -> Iterator[tuple[Table, Survey]]:
    """Open a catalog as that of the survey whose columns it has; of several such, as that whose keys it has.

    Where columns are missing for all of them, as that of the survey that misses fewest. A text is opened again for each
    survey, as it depends on the survey what its columns are; a list is that of the survey which calls its ids so.
    """
    surveys = installed_surveys()
    keywords = tuple(key for survey in surveys for key in survey.catalog.keywords)
    beside = {name: tables for survey in surveys for name, tables in survey.catalog.beside.items()}
    with open_catalog(url, replace(kinds_of(surveys[0], given), keywords=keywords, beside=beside)) as opened:
        misses = {survey.name: _misses(opened, survey, given) for survey in surveys}
        titled = [survey for survey in surveys if _has_alias(survey, opened.title)]
        own = [survey for survey in surveys if not misses[survey.name][0] and _has_keys(opened, survey, url, given)]
        if opened.form != "text" or (own[:1] == surveys[:1] and titled in ([], [surveys[0]])):
            yield opened, own[0] if own else _nearest(misses)
            return
    surveys = titled + [survey for survey in [*own, *surveys] if survey not in titled]
    for survey in surveys:
        with open_catalog(url, kinds_of(survey, given)) as opened:
            misses[survey.name] = _misses(opened, survey, given)
            if not misses[survey.name][0]:
                yield opened, survey
                return
    nearest = _nearest(misses)
    with open_catalog(url, kinds_of(nearest, given)) as opened:
        yield opened, nearest


def _has_alias(survey: Survey, title: str) -> bool:
    """Whether what stands above a list of targets is what catalogs of a survey call their ids."""
    return any(title.lower() in each.aliases for each in survey.coordinates.values())


def _has_keys(opened: Table, survey: Survey, url: str, given: Mapping[str, str]) -> bool:
    """Whether the keys of a catalog are the survey's, where they alone say what its rows are; the first one tells."""
    candidates = survey.catalog.candidates(opened.names, given)
    if TARGET not in candidates or all(name in candidates for name in survey.catalog.stands_for.get(TARGET, ())):
        return True
    with open_catalog(url, kinds_of(survey, given)) as probe:
        if candidates[TARGET][0] not in probe.names:
            return False  # the heading of a text, which to others is a list of keys
        first = next(iter(probe.blocks(candidates[TARGET][:1], 1)), {})
    return any(survey.catalog.is_key(as_strings(read_text(values[:1]))[0]) for values in first.values() if len(values))


def _misses(opened: Table, survey: Survey, given: Mapping[str, str]) -> tuple[int, int, int]:
    """Return how many columns a catalog lacks: of those that no archive has, of all that are needed; and those it has.

    The last one negative: less is nearer.
    """
    candidates = survey.catalog.candidates(opened.names, given)
    counts = [len(missing_columns(candidates, survey, settled=settled)) for settled in (True, False)]
    return counts[0], counts[1], -len(candidates)


def _nearest(misses: Mapping[str, tuple[int, int, int]]) -> Survey:
    complete = (name for name, (count, *_) in misses.items() if not count)
    return get_survey(next(complete, min(misses, key=lambda name: misses[name][1:])))


def _said_of(survey: Survey, opened: Table, given: Mapping[str, str]) -> str:
    """Say in words by which columns a catalog was recognized."""
    candidates = survey.catalog.candidates(opened.names, given)
    ids = [name for name, each in survey.coordinates.items() if each.required and name != "z"]
    required = [candidates[ours][0] for ours in ids if ours in candidates]
    names = required or [theirs[0] for theirs in candidates.values()]
    return f"survey {survey.name}, by the column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def survey_of(columns: Collection[str]) -> Survey:
    """Return the survey whose coordinates are all columns of a table of targets; SDSS where none is."""
    found = (survey for survey in installed_surveys() if set(survey.coordinates) <= set(columns))
    return next(found, get_survey(DEFAULT))
