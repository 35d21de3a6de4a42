"""Columns of a run's table in memory, a number for each spectrum: what maps of millions are drawn of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.catalog import targets as target_table
from pipeline.errors import ConfigError
from pipeline.results.tables.columns import CHI2_N, SAMPLE, TARGETS, WORDS, Column, by_name, flat
from pipeline.results.tables.table import ResultsTable, reduced, words
from pipeline.store.root import targets_url

MOST_WORDS = 12
"""Groups that a column of words has at most: the most frequent ones, and all others."""

OTHERS, NONE = "others", "none"
"""Names of groups that are no word of the column: the less frequent ones, and no word at all."""

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Groups:
    """A column of words. number: of each spectrum's word in `names`, shape (n_spectra,), int8, -1 where not done."""

    number: NDArray[np.int8]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """The columns of one model's table, read when they are asked for, and kept.

    table: all rows of the run. `done` says which of them are encoded. A column has a value for each row, NaN where it
    has none and where it is not done.
    """

    table: ResultsTable
    _numbers: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _groups: dict[str, Groups] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of spectra of the run."""
        return self.table.plan.n_spectra

    @property
    def numbers(self) -> list[str]:
        """Names of the columns of numbers: latents first, then other outputs, then those of the targets."""
        known = [each for each in flat(self.table.available) if each.dtype != "str" and each.of != "latents_cov"]
        known = [each for each in known if each.name not in _IDS]
        return [each.name for each in sorted(known, key=lambda each: (each.of != "latents", each.origin == TARGETS))]

    @property
    def words(self) -> list[str]:
        """Names of the columns of words."""
        texts = [each.name for each in self.table.available if each.dtype == "str"]
        return [name for name in texts if name not in ("target", SAMPLE)]

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which rows are encoded, shape (n_spectra,)."""
        found = np.zeros(self.n, np.bool_)
        for start, stop in self.table.bounds:
            found[start:stop] = True
        return found

    def number(self, name: str) -> Numbers:
        """Return a column of numbers, shape (n_spectra,), float32. Raises ConfigError for what is none."""
        if name not in self._numbers:
            column = by_name(self.table.available).get(name)
            if column is None or column.dtype == "str" or column.labels:
                raise ConfigError("column", name, f"one of {', '.join(self.numbers)}")
            self._numbers.update(self._read(column))
        return self._numbers[name]

    def groups(self, name: str) -> Groups:
        """Return a column of words. Raises ConfigError for what is none."""
        if name not in self.words:
            raise ConfigError("column", name, f"one of {', '.join(self.words)}")
        if name not in self._groups:
            self._groups[name] = _grouped(self._texts(name), self.n, self.done)
        return self._groups[name]

    def _read(self, column: Column) -> dict[str, Numbers]:
        """Read a column, and with it all others of the same variable."""
        if column.origin == TARGETS:
            return {column.name: _filled(self._of_targets(column.name), self.n, self.done)}
        if column.name == CHI2_N:
            return {CHI2_N: reduced(self.number("chi2"), np.nan_to_num(self.number("n_pixels")).astype(np.int64))}
        whole = next(each for each in self.table.available if each.name == column.variable)
        names = whole.labels or (whole.name,)
        found = {name: np.full(self.n, np.nan, np.float32) for name in names}
        for start, stop in self.table.bounds:
            values = self.table.read(start, stop, [whole.name])[whole.name].reshape(stop - start, -1)
            for number, name in enumerate(names):
                found[name][start:stop] = values[:, number]
        return found

    def _of_targets(self, name: str) -> Iterable[NDArray[Any]]:
        plan = self.table.plan
        for frame in target_table.read_columns(targets_url(self.table.root), [name], plan.survey, plan.kept):
            yield frame[name].to_numpy()

    def _texts(self, name: str) -> Iterable[tuple[int, NDArray[Any]]]:
        if name == WORDS:
            for start, stop in self.table.bounds:
                yield start, words(self.table.read(start, stop, ["quality"])["quality"])
            return
        start = 0
        for values in self._of_targets(name):
            yield start, values
            start += len(values)


_IDS = {"specobjid", "quality", "targetid"}


def _filled(parts: Iterable[NDArray[Any]], n: int, done: NDArray[np.bool_]) -> Numbers:
    values = np.concatenate([np.asarray(part, np.float32) for part in parts])[:n]
    values[~done] = np.nan
    return values


def _grouped(parts: Iterable[tuple[int, NDArray[Any]]], n: int, done: NDArray[np.bool_]) -> Groups:
    """Return words as numbers, the most frequent ones first."""
    number = np.full(n, -1, np.int32)
    known: dict[str, int] = {}
    for start, values in parts:
        own, names = pd.factorize(values)
        of_all = np.array([known.setdefault(str(name), len(known)) for name in names], np.int32)
        stop = min(start + len(own), n)
        number[start:stop] = of_all[own[: stop - start]]
    number[~done] = -1
    counts = np.bincount(number[number >= 0], minlength=len(known))
    order = np.argsort(-counts, kind="stable")[counts[np.argsort(-counts, kind="stable")] > 0]
    kept = order if len(order) <= MOST_WORDS else order[: MOST_WORDS - 1]
    place = np.full(len(known) + 1, len(kept), np.int8)  # the last one: of the number -1
    place[kept] = np.arange(len(kept))
    place[-1] = -1
    names_of = list(known)
    named = tuple(names_of[i] or NONE for i in kept) + ((OTHERS,) if len(kept) < len(order) else ())
    return Groups(place[number], named)
