"""The results of a run as one table, one row per spectrum: as pandas, as dask, or block by block as Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.catalog import targets as target_table
from pipeline.catalog import where as condition
from pipeline.errors import ConfigError
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from pipeline.results.damage import damage_named
from pipeline.results.tables.columns import (
    CHI2_N,
    DENSITY,
    ENCODINGS,
    MADE,
    SAMPLE,
    SPECTRA,
    TARGETS,
    WORDS,
    Column,
    by_name,
    chosen,
    columns_of,
    flat,
)
from pipeline.results.tables.header import header
from pipeline.results.tables.split import SAMPLES, Split, read_entries, split_of
from pipeline.spectra.quality import Quality
from pipeline.store.arrays import density_url, encodings_url, read_region, read_rows, spectra_url
from pipeline.store.root import density_ledger, encode_ledger, targets_url

if TYPE_CHECKING:
    import dask.dataframe as dd

BLOCK = 2**17
"""Rows that are in memory at once, about; whole chunks of the run."""

Where = str | Sequence[bool] | NDArray[np.bool_]
"""Which rows: a condition on the columns, or a mask of the run's rows."""

Values = dict[str, NDArray[Any]]


class Writable(Protocol):
    """What is written to a file: columns, what the file says of its origin, and its rows, as Arrow."""

    @property
    def columns(self) -> list[Column]:
        """The columns, in order."""

    @property
    def header(self) -> dict[str, str]:
        """What the file says of its origin, as text by key."""

    def counted(self) -> list[int]:
        """Return how many rows each block has."""

    def blocks(self, columns: Sequence[Column] | None = None) -> Iterator[pa.Table]:
        """Yield the rows block by block; columns: instead of its own."""


@dataclass(frozen=True)
class ResultsTable:
    """The rows and columns of one model's table. Nothing is read before it is asked for.

    names: of the columns, None for all. where: a condition on any column of the table, such as "z < 0.1 and quality ==
    0". among: which of the run's rows may be in the table, shape (n_spectra,), bool; among_is: what they are, in words.
    Both must hold. Rows of chunks that are not done are left out, and counted. Raises ConfigError for columns that
    there are not, and for conditions that cannot be read.
    """

    root: str
    plan: Plan
    model: ModelConfig
    names: tuple[str, ...] | None = None
    where: str | None = None
    among: NDArray[np.bool_] | None = None
    among_is: str = ""

    def __post_init__(self) -> None:
        chosen(self.available, self.names)
        if self.where is not None:
            _ = self._needed_by_where
        if self.among is not None and (self.among.dtype != np.bool_ or self.among.shape != (self.plan.n_spectra,)):
            expected = f"a mask of bool of the run's {self.plan.n_spectra} rows"
            raise ConfigError("where", f"an array of {self.among.dtype}, shape {self.among.shape}", expected)

    @cached_property
    def columns(self) -> list[Column]:
        """The columns, in order."""
        return chosen(self.available, self.names)

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """Return the rows of each block, [start, stop): done chunks, next to each other."""
        most = max(BLOCK // self.plan.shard, 1)
        found: list[tuple[int, int]] = []
        pieces = 0
        for shard in self.plan.shards():
            if shard.index not in self.done:
                continue
            if found and found[-1][1] == shard.start and pieces < most:
                found[-1], pieces = (found[-1][0], shard.stop), pieces + 1
            else:
                found.append((shard.start, shard.stop))
                pieces = 1
        return found

    @cached_property
    def done(self) -> set[int]:
        """The chunks that are encoded."""
        return encode_ledger(self.root, self.plan, self.model.name).done()

    @property
    def n_left_out(self) -> int:
        """Number of rows that are left out since their chunks are not done."""
        return self.plan.n_spectra - sum(stop - start for start, stop in self.bounds)

    @cached_property
    def header(self) -> dict[str, str]:
        """What a file of this table says of its origin; see `tables.header`."""
        parts = ([self.where] if self.where else []) + ([self.among_is] if self.among is not None else [])
        return header(self.root, self.plan, self.model, self.done, self._entries or {}) | {
            "split": self._split.rule,
            **({"where": "; ".join(parts)} if parts else {}),
            **({"rows_not_done": str(self.n_left_out)} if self.n_left_out else {}),
        }

    def counted(self) -> list[int]:
        """Return how many rows of each block are in the table; reads what the condition needs."""
        if self.where is None and self.among is None:
            return [stop - start for start, stop in self.bounds]
        return [int(np.count_nonzero(self._mask(start, stop))) for start, stop in self.bounds]

    def blocks(self, columns: Sequence[Column] | None = None) -> Iterator[pa.Table]:
        """Yield the rows block by block, as Arrow; columns: instead of the table's own."""
        for start, stop in self.bounds:
            yield self.block(start, stop, columns)[0]

    def block(
        self, start: int, stop: int, columns: Sequence[Column] | None = None
    ) -> tuple[pa.Table, NDArray[np.intp]]:
        """Return the rows of the table that lie in [start, stop) of the run, and their numbers in the run."""
        columns = self.columns if columns is None else columns
        mask = self._mask(start, stop)
        if not mask.any():
            return _empty(columns), np.empty(0, np.intp)
        values = self._read(start, stop, columns)
        made = [_arrow(values[column.name], column, mask) for column in columns]
        return pa.table(made, names=[column.name for column in columns]), start + np.flatnonzero(mask)

    def read(self, start: int, stop: int, names: Iterable[str]) -> Values:
        """Return columns for all rows in [start, stop) of the run, whatever is chosen, by name."""
        return self._read(start, stop, chosen(self.available, names))

    def rows(self, start: int, stop: int) -> NDArray[np.intp]:
        """Return which rows of the run in [start, stop), a block of `bounds`, are in the table."""
        return start + np.flatnonzero(self._mask(start, stop))

    def at(self, rows: NDArray[np.intp], names: Iterable[str]) -> Values:
        """Return columns for a few rows of the run, in any order, by name; just their chunks are read. Not `sample`."""
        columns = chosen(self.available, names)
        own = _stored_names(columns)
        with damage_named(self.root):
            stored = {
                DENSITY: self._scores_at(rows, own[DENSITY]),
                ENCODINGS: read_rows(encodings_url(self.root, self.model.name), own[ENCODINGS], rows),
                SPECTRA: read_rows(spectra_url(self.root), own[SPECTRA], rows) if own[SPECTRA] else {},
            }
        frame = target_table.read_chosen(targets_url(self.root), rows, self.plan.survey, self.plan.kept)
        return self._values(columns, stored, frame, len(rows), 0)

    def to_pandas(self) -> pd.DataFrame:
        """Return all rows; the index is the row in the run, `attrs` the header of the files and the units."""
        columns = flat(self.columns)
        whole = self._frame_of(columns)
        whole.attrs = {**self.header, "units": {column.name: column.units for column in columns if column.units}}
        return whole

    def frame_of(self, names: Iterable[str]) -> pd.DataFrame:
        """Return other columns of the table's rows than its own, by their names."""
        return self._frame_of(flat(chosen(self.available, names)))

    def _frame_of(self, columns: Sequence[Column]) -> pd.DataFrame:
        parts = [_frame(*self.block(start, stop, columns)) for start, stop in self.bounds]
        return pd.concat(parts) if parts else _frame(_empty(columns), np.empty(0, np.intp))

    def to_dask(self) -> dd.DataFrame:
        """Return the rows as a lazy frame of one partition per block, indexed by the row in the run."""
        import dask.dataframe as dd

        columns = flat(self.columns)
        meta = _frame(_empty(columns), np.empty(0, np.intp))
        if not self.bounds:
            return dd.from_pandas(meta, npartitions=1)  # type: ignore[attr-defined, no-any-return, no-untyped-call, unused-ignore]
        edges = (*(start for start, _ in self.bounds), self.bounds[-1][1] - 1)
        made: dd.DataFrame = dd.from_map(self._partition, self.bounds, meta=meta, divisions=edges)  # type: ignore[attr-defined, no-untyped-call, unused-ignore]
        return made

    def _partition(self, bounds: tuple[int, int]) -> pd.DataFrame:
        return _frame(*self.block(*bounds, flat(self.columns)))

    @cached_property
    def available(self) -> list[Column]:
        """All columns that a table of this model can have."""
        return columns_of(self.plan, self.model)

    @cached_property
    def _entries(self) -> dict[str, Any] | None:
        return read_entries(self.model)

    @cached_property
    def _split(self) -> Split:
        return split_of(self.plan, self._entries)

    @cached_property
    def _needed_by_where(self) -> list[Column]:
        """Return the columns that the condition names, in any case."""
        known = {name.lower(): column for name, column in by_name(self.available).items() if not column.labels}
        wanted = sorted(condition.names(str(self.where)))
        for name in wanted:
            if name not in known:
                raise ConfigError("where", name, f"a column of the table: {', '.join(known)}")
        return [known[name] for name in wanted]

    def _mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        mask = np.ones(stop - start, np.bool_) if self.among is None else self.among[start:stop]
        if self.where is None or not mask.any():
            return mask
        return mask & condition.select(self.where, self._read(start, stop, self._needed_by_where))

    def _read(self, start: int, stop: int, columns: Iterable[Column]) -> Values:
        """Return the values of columns for all rows in [start, stop), by name; rows of several have two dimensions."""
        columns = list(columns)
        own = _stored_names(columns)
        with damage_named(self.root):
            stored = {
                DENSITY: self._scores(start, stop, own[DENSITY]),
                ENCODINGS: read_region(encodings_url(self.root, self.model.name), own[ENCODINGS], start, stop),
                SPECTRA: read_region(spectra_url(self.root), own[SPECTRA], start, stop) if own[SPECTRA] else {},
            }
        is_named = any(column.origin == TARGETS or column.name == SAMPLE for column in columns)
        rows = self._targets(start, stop) if is_named else pd.DataFrame()
        return self._values(columns, stored, rows, stop - start, start)

    def _values(
        self, columns: Sequence[Column], stored: Mapping[str, Values], rows: pd.DataFrame, n: int, start: int
    ) -> Values:
        """Return the values of columns for n rows that were read. start: the first of them in the run."""
        found: Values = {}
        made = {column.name for column in columns if column.origin == MADE}
        for column in columns:
            if column.origin == TARGETS:
                found[column.name] = rows[column.variable].to_numpy()
            elif column.origin != MADE:
                values = stored[column.origin][column.variable].reshape(n, -1)
                found[column.name] = values if column.labels else values[:, column.part or 0]
        if CHI2_N in made:
            found[CHI2_N] = reduced(stored[ENCODINGS]["chi2"], stored[ENCODINGS]["n_pixels"])
        if WORDS in made:
            found[WORDS] = words(stored[ENCODINGS]["quality"])
        if SAMPLE in made:
            numbers = self._split.sample(start, rows, stored[SPECTRA]["quality"])
            found[SAMPLE] = np.array(SAMPLES, dtype=object)[numbers]
        return found

    def _scores(self, start: int, stop: int, names: Sequence[str]) -> Values:
        """Return scores by name; their fill in chunks that have none yet."""
        found = self._unscored(stop - start, names)
        for shard in self.plan.shards() if names else ():
            if start <= shard.start and shard.stop <= stop and shard.index in self._scored:
                own = read_region(density_url(self.root, self.model.name), names, shard.start, shard.stop)
                for name, values in own.items():
                    found[name][shard.start - start : shard.stop - start] = values
        return found

    def _scores_at(self, rows: NDArray[np.intp], names: Sequence[str]) -> Values:
        """Return scores of single rows by name; their fill in chunks that have none yet."""
        found = self._unscored(len(rows), names)
        starts = np.array([shard.start for shard in self.plan.shards()])
        chunks = np.searchsorted(starts, rows, side="right") - 1
        is_scored = np.isin(chunks, list(self._scored)) if names else np.zeros(len(rows), np.bool_)
        if is_scored.any():
            own = read_rows(density_url(self.root, self.model.name), names, rows[is_scored])
            for name, values in own.items():
                found[name][is_scored] = values
        return found

    def _unscored(self, n: int, names: Sequence[str]) -> Values:
        return {name: np.full(n, self.model.scored[name].fill, np.float32) for name in names}

    @cached_property
    def _scored(self) -> set[int]:
        return density_ledger(self.root, self.plan, self.model.name).done()

    def _targets(self, start: int, stop: int) -> pd.DataFrame:
        return target_table.read_rows(targets_url(self.root), start, stop, self.plan.survey, self.plan.kept)


def reduced(chi2: NDArray[np.floating[Any]], n_pixels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Return chi2 divided by the number of pixels, float32, NaN without any; both of shape (N,)."""
    n = np.where(n_pixels > 0, n_pixels, 1).astype(np.float32)
    return np.where(n_pixels > 0, chi2 / n, np.nan).astype(np.float32)


def words(quality: NDArray[np.uint32]) -> NDArray[np.object_]:
    """Return the names of quality bits, joined by "|", "GOOD" for none: shape (N,) -> text, shape (N,)."""
    values, place = np.unique(quality, return_inverse=True)
    return np.array([Quality.describe(value) for value in values.tolist()] or [""], dtype=object)[place]


def _empty(columns: Iterable[Column]) -> pa.Table:
    return pa.schema([(column.name, column.arrow) for column in columns]).empty_table()


def _stored_names(columns: Iterable[Column]) -> dict[str, list[str]]:
    """Return the variables that columns are read or made of, by the store."""
    columns = list(columns)
    made = {column.name for column in columns if column.origin == MADE}
    stores = (DENSITY, ENCODINGS, SPECTRA)
    own = {origin: {column.variable for column in columns if column.origin == origin} for origin in stores}
    own[ENCODINGS] |= ({"chi2", "n_pixels"} if CHI2_N in made else set()) | ({"quality"} if WORDS in made else set())
    own[SPECTRA] |= {"quality"} if SAMPLE in made else set()
    return {origin: sorted(names) for origin, names in own.items()}


def _arrow(values: NDArray[Any], column: Column, mask: NDArray[np.bool_]) -> pa.Array:
    """Return the selected rows of a column as Arrow; NaN stays NaN."""
    kept = values if mask.all() else values[mask]
    if column.labels:
        flat_values = pa.array(np.ascontiguousarray(kept).reshape(-1), column.arrow.value_type, from_pandas=False)
        return pa.FixedSizeListArray.from_arrays(flat_values, len(column.labels))
    return pa.array(kept, column.arrow, from_pandas=False)


def _frame(table: pa.Table, rows: NDArray[np.intp]) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    frame.index = pd.Index(rows, name="row", dtype=np.int64)
    return frame
