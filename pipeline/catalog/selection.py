"""Rows of a catalog, block by block: which columns are read, which of them become ours, which rows are targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.catalog.kept import kept_columns, require_free
from pipeline.catalog.table import Kinds, Table
from pipeline.catalog.where import names as names_in
from pipeline.catalog.where import select
from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.choosing import JOINED, Candidates, Choice, Offer
from pipeline.surveys.columns import Columns, Coordinate
from pipeline.surveys.survey import Survey
from pipeline.surveys.values import as_strings

_NO_TEXT = frozenset({"", "null", "nan"})
"""What servers and libraries write for missing text. Other words, such as NA, are a survey's own in kept columns."""

SUGGESTED = "suggested"
"""Column of the rows whose reduction is what an id says, beside ours."""

_KEPT = "kept "
"""Before the names of kept columns, beside ours."""


@dataclass(frozen=True)
class Wishes:
    """What a user wants of a catalog. where: a condition. columns: ours -> the catalog's. keep: further columns."""

    where: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _ = self.conditions  # refused before a catalog is opened

    @property
    def conditions(self) -> frozenset[str]:
        """Return the names in the condition, in lower case. Raises ConfigError for one that is no condition."""
        return names_in(self.where) if self.where is not None else frozenset()


def kinds_of(survey: Survey, given: Mapping[str, str]) -> Kinds:
    """Return what is known of the columns that catalogs of a survey may have, and where in a file they may be."""

    def aliases(*dtypes: str) -> frozenset[str]:
        ours = {name: each for name, each in survey.coordinates.items() if each.dtype in dtypes}
        known = {alias for name, each in ours.items() for alias in (name, *each.aliases)}
        chosen = {theirs.lower() for name, theirs in given.items() if name in ours}
        return frozenset(known | chosen | {alias + ending for alias in known for ending in JOINED})

    return Kinds(
        text=aliases("str"),
        ids=aliases("int64", "uint64"),
        is_key=survey.catalog.is_key,
        keywords=survey.catalog.keywords,
        beside=survey.catalog.beside,
    )


@dataclass(frozen=True)
class Reading:
    """How a catalog is read. available: its columns. names: those to read. kept: to keep, by the user's names."""

    url: str
    available: tuple[str, ...]
    wishes: Wishes
    candidates: Candidates
    kept: Mapping[str, str]
    names: tuple[str, ...]

    @classmethod
    def of(cls, opened: Table, url: str, wishes: Wishes, survey: Survey, *, settled: bool = False) -> Reading:
        """Decide what to read of a catalog. settled: whether an archive is asked for what it may lack.

        Raises ConfigError for columns that the survey, the condition or the user misses.
        """
        available = opened.names
        has = f"the catalog has {', '.join(sorted(available)) or 'no columns'}"
        given = _given(available, wishes.columns, survey, has)
        candidates = survey.catalog.candidates(available, given)
        missing, instead = _missing(candidates, survey, settled=settled)
        if missing:
            further = opened.others()
            remedy = f"{has}{instead}{f'; {further}' if further else ''}"
            raise ConfigError("CATALOG", url, f"a catalog with the columns {', '.join(missing)}", remedy)
        lower = {name.lower() for name in available}
        unknown = sorted(wishes.conditions - lower - candidates.keys())
        if unknown:
            raise ConfigError("--where", wishes.where, f"columns of the catalog, not {', '.join(unknown)}", has)
        for number, name in enumerate(wishes.keep):
            require_free(name, survey)
            if name.lower() in [other.lower() for other in wishes.keep[:number]]:
                raise ConfigError("--keep", name, "each column once", "two names that differ only in case are one")
        kept = {name: _named("--keep", name, available, has) for name in wishes.keep}
        wanted = {*(each for theirs in candidates.values() for each in theirs), *kept.values()}
        read = tuple(name for name in available if name in wanted or name.lower() in wishes.conditions)
        return cls(url, available, wishes, candidates, kept, read)

    def choose(self, first: Columns, survey: Survey) -> Choice:
        """Choose among the candidates by the first rows."""
        given = frozenset(self.wishes.columns)
        return survey.catalog.choose(Offer(self.url, self.available, self.candidates, first, given))

    def shadowed(self, choice: Choice) -> list[str]:
        """Say which names in the condition are the catalog's, where ours of that name is another column."""
        lower = {name.lower() for name in self.available}
        return [
            f"{ours} in --where is the catalog's column {ours}; ours is written {theirs}"
            for ours, theirs in choice.names.items()
            if ours in self.wishes.conditions and ours in lower and theirs.lower() != ours
        ]

    def selected(self, columns: Columns, choice: Choice, survey: Survey) -> NDArray[np.bool_]:
        """Evaluate the condition: names are the catalog's, then ours. Text of ours is compared by its one rule."""
        lower = {name.lower() for name in self.available}
        ours = {theirs: name for name, theirs in choice.names.items()}
        visible = {name: columns[name] for name in self.names if name.lower() in self.wishes.conditions}
        visible |= {
            name: columns[choice.names[name]]
            for name in self.wishes.conditions - lower
            if name in choice.names and name not in lower
        }
        for name, values in visible.items():
            read = survey.catalog.texts.get(name if name not in ours and name in choice.names else ours.get(name, ""))
            if read is not None and values.ndim == 1:
                visible[name] = as_strings(read(values))
        return select(self.wishes.where or "", visible)


def missing_columns(candidates: Candidates, survey: Survey, *, settled: bool) -> list[str]:
    """Name the columns that a catalog has to have and has not, as ours. settled: as of `Reading.of`."""
    spared = {name for ours, names in survey.catalog.stands_for.items() if ours in candidates for name in names}
    spared |= set(survey.catalog.settled) if settled else set()
    required = {name for name, each in survey.coordinates.items() if each.required}
    return [name.upper() for name in survey.coordinates if name in required - spared - candidates.keys()]


def _missing(candidates: Candidates, survey: Survey, *, settled: bool) -> tuple[list[str], str]:
    """Name the columns that a catalog has to have and has not, and in words what may stand for them."""
    catalog = survey.catalog
    missing = missing_columns(candidates, survey, settled=settled)
    instead: dict[tuple[str, ...], list[str]] = {}
    for ours, names in catalog.stands_for.items():
        if {name.upper() for name in names} & {*missing}:
            instead.setdefault(names, []).append(ours.upper())
    words = [f"; {' or '.join(ours)} may stand for {', '.join(names).upper()}" for names, ours in instead.items()]
    return missing, "".join(words) + "; a column under another name is given by --column OUR=THEIRS"


def _given(available: Sequence[str], columns: Mapping[str, str], survey: Survey, has: str) -> dict[str, str]:
    """Return the columns that a user chose, by the catalog's names. Raises ConfigError."""
    ours = [*(name for name, each in survey.coordinates.items() if each.aliases), *survey.catalog.further]
    for name in columns:
        if name not in ours:
            raise ConfigError("--column", f"{name}={columns[name]}", f"one of {', '.join(ours)} before the =")
    return {name: _named("--column", theirs, available, has) for name, theirs in columns.items()}


def _named(key: str, name: str, available: Sequence[str], has: str) -> str:
    """Return a column by its name, in any case if only one fits. Raises ConfigError."""
    found = [name] if name in available else [each for each in available if each.lower() == name.lower()]
    if len(found) != 1:
        expected = f"one of the columns {' and '.join(found)}" if found else "a column of the catalog"
        raise ConfigError(key, name, expected, has)
    return found[0]


@dataclass
class Found:
    """What was found in the blocks of a catalog so far.

    rows: that were read. selected: of these, that fulfil the condition. incomplete: of these, without the ids of a
    spectrum; lacking: by the column that has none. parts: tables of the others. choice: of columns, by the first block.
    shadowed: what to say of names in the condition.
    """

    rows: int = 0
    selected: int = 0
    incomplete: int = 0
    lacking: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    parts: list[pa.Table] = field(default_factory=list)
    shadowed: tuple[str, ...] = ()
    choice: Choice | None = None

    def add(self, columns: Columns, reading: Reading, survey: Survey) -> None:
        """Add a block of columns. Raises ConfigError for what cannot be read."""
        size = len(next(iter(columns.values())))
        if not size:
            return
        if self.choice is None:
            self.choice = reading.choose(columns, survey)
            self.shadowed = tuple(reading.shadowed(self.choice))
        self.rows += size
        if reading.wishes.where is not None:
            chosen = reading.selected(columns, self.choice, survey)
            columns = {name: values[chosen] for name, values in columns.items()}
            size = int(chosen.sum())
        if not size:
            return
        self.selected += size
        rows = survey.catalog.to_rows(columns, self.choice.names, reading.url)
        complete = np.ones(size, np.bool_)
        for name, without in rows.lacking.items():
            self.lacking[name] += int(without.sum())
            complete &= ~without
        self.incomplete += size - int(complete.sum())
        for text, true in rows.remarks.items():
            self.remarks[text] += int((true & complete).sum())
        table = rows.table
        suggested = np.zeros(size, np.bool_) if rows.suggested is None else rows.suggested
        table = table.append_column(SUGGESTED, pa.array(suggested))
        for name, theirs in reading.kept.items():
            table = table.append_column(_KEPT + name, _as_arrow(columns[theirs], name))
        self.parts.append(table if complete.all() else table.filter(pa.array(complete)))

    def table(self, url: str, *, skip_incomplete: bool) -> pa.Table:
        """Return all targets in one table. Raises RefusedError for rows without ids, unless they are to be skipped."""
        if self.incomplete and not skip_incomplete:
            counts = set(self.lacking.values())
            each = [name if len(counts) == 1 else f"{name} ({count})" for name, count in self.lacking.items()]
            verb = "has" if self.incomplete == 1 else "have"
            problem = f"{self.incomplete} of {self.selected} rows of {url} {verb} no {', '.join(each)}"
            raise RefusedError("CATALOG", problem, "leave them out with --skip-incomplete, or select with --where")
        if self.incomplete == self.selected:
            problem = f"none of the {self.selected} rows of {url} has all of {', '.join(self.lacking)}"
            raise RefusedError("CATALOG", problem, "choose another catalog")
        try:
            return pa.concat_tables(self.parts, promote_options="permissive").unify_dictionaries()
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            problem = f"a column to keep of {url} has text in some blocks of rows and numbers in others ({error})"
            raise RefusedError("--keep", problem, "leave it out, or write the catalog as FITS or Parquet") from error


def with_kept(
    frame: pd.DataFrame, table: pa.Table, reading: Reading, units: Mapping[str, str], survey: Survey
) -> tuple[pd.DataFrame, dict[str, Coordinate]]:
    """Return a frame of targets with the kept columns of their table, and what these are. Raises ConfigError."""
    for name in reading.kept:
        frame = frame.assign(**{name: _as_pandas(table[_KEPT + name], name)})
    attributes = {name: {"units": units[theirs]} for name, theirs in reading.kept.items() if theirs in units}
    return kept_columns(frame, list(reading.kept), survey, attributes)


def _as_arrow(values: NDArray[Any], name: str) -> pa.Array:
    """Return a block of a column that is kept: numbers, or stripped text; nulls where missing."""
    if values.ndim != 1:
        raise ConfigError("--keep", name, "a column of single numbers or text", "this one has others")
    data, missing = np.ma.getdata(values), np.ma.getmaskarray(values)
    if data.dtype.kind == "f":
        missing = missing | np.isnan(data)
    if missing.all():
        return pa.nulls(len(data))
    if data.dtype.kind == "S":
        data = np.array([item.decode("utf-8", "replace") for item in data.tolist()], np.str_)
    if data.dtype.kind == "U":
        words = [text.strip(" \t\0") for text in data.tolist()]
        return pa.array(
            [None if gone or word.lower() in _NO_TEXT else word for word, gone in zip(words, missing, strict=True)]
        )
    return pa.array(data, mask=missing)


def _as_pandas(column: pa.ChunkedArray, name: str) -> pd.Series[Any]:
    """Return a kept column; whole numbers with missing ones must be exact as the floats that they become."""
    if pa.types.is_null(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_integer(column.type) and column.null_count:
        most = max(abs(value) for value in column.drop_null().to_pylist())
        if most > 2**53:
            problem = f"column {name} misses values and has whole numbers beyond 2^53, which floats would cut"
            raise RefusedError("--keep", problem, "leave it out, or select rows that have it with --where")
    types = {pa.bool_(): pd.BooleanDtype(), **{kind: pd.Int64Dtype() for kind in _WHOLE}, pa.uint64(): pd.UInt64Dtype()}
    return column.to_pandas(types_mapper=types.get if column.null_count else None)


_WHOLE = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
