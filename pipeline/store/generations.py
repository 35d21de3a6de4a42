"""The targets of a run, generation by generation: read and checked against the plan, and restored where they are lost.

The plan holds the SHA-256 of the targets of each generation. By it the tables that a run was planned with are
recognized, whatever they are called and in whatever order they are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.catalog import targets as target_table
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning import schema
from pipeline.planning.plan import Generation, Plan, targets_sha256
from pipeline.store.arrays import checksum
from pipeline.store.root import ingest_ledger, targets_url
from pipeline.surveys.columns import Coordinate
from pipeline.surveys.survey import Survey


def read(root: str, plan: Plan, *, kept: bool = False) -> tuple[pd.DataFrame | None, str]:
    """Return the targets of a run, None where they cannot be read or are others, and then what is wrong with them.

    kept: with their further columns.
    """
    url = targets_url(root)
    try:
        rows = target_table.read_rows(url, 0, plan.n_spectra, plan.survey, plan.kept if kept else None)
    except (OSError, ValueError, IndexError) as error:
        # pyarrow raises OSError for damaged files, too; where storage does not answer, the next look says so
        return None, _unreadable(url, error)
    if targets_sha256(rows, plan.survey.coordinates) != plan.targets_sha256:
        return None, f"{url} is not the table that the plan was made with"
    return rows, ""


def _unreadable(url: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error.__cause__, FileNotFoundError):
        reason = "it is not there"
    elif isinstance(error, ConfigError) and error.expected:  # its remedy is that of a table that a user gives
        what = "" if error.key == "targets" else f"{error.key} is {error.value!r}, "
        reason = f"{what}expected {error.expected}"
    return f"{url} cannot be read ({reason})"


def remedy(root: str, plan: Plan) -> str:
    """Say how the table of a run's targets is restored."""
    count = len(plan.generations)
    if count == 1:
        return f"restore it: spender-pipeline plan {root} --targets ORIGINAL, the table that the run was planned with"
    tables = f"all {count} tables that the run was planned and extended with, in any order"
    return f"restore it: spender-pipeline plan {root} --targets FIRST --targets SECOND ..., {tables}"


def rows_of(root: str, plan: Plan) -> pd.DataFrame:
    """Return the targets of a run with their further columns, unchecked. Raises RefusedError where they are lost."""
    url = targets_url(root)
    try:
        return target_table.read_rows(url, 0, plan.n_spectra, plan.survey, plan.kept)
    except (OSError, ValueError, IndexError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # pyarrow's, for damaged files, have none
            raise
        raise RefusedError("targets.parquet", _unreadable(url, error), remedy(root, plan)) from error


def restored(root: str, plan: Plan, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the targets of a run from the tables that it was planned and extended with, in any order.

    A copy of the run's own table will do, too. Raises RefusedError where they are not those of the plan.
    """
    rows: pd.DataFrame | None = None
    left = list(range(len(tables)))
    while rows is None or len(rows) < plan.n_spectra:
        found = next(((i, made) for i in left for made in _continued(plan, rows, tables[i])), None)
        if found is None:
            raise RefusedError("--targets", _unmatched(plan, rows, tables), _REMEDY)
        left.remove(found[0])
        rows = found[1]
    _require_kept(root, plan, rows)
    return rows


_REMEDY = "pass the tables that the run was planned and extended with, each with --targets, in any order"


def new_rows(present: pd.DataFrame, more: pd.DataFrame, survey: Survey, kept: Mapping[str, Coordinate]) -> pd.DataFrame:
    """Return the targets that a run does not have yet, sorted as a catalog's are.

    Raises ConfigError where a target that it has comes with another redshift, or another value of a kept column.
    """
    where = pd.Index(present["target"]).get_indexer(pd.Index(more["target"]))
    repeated = where >= 0
    for name in ("z", *kept):
        mine, theirs = more[name].to_numpy()[repeated], present[name].to_numpy()[where[repeated]]
        other = _differs(mine, theirs)
        if other.any():
            first = int(np.flatnonzero(other)[0])
            target = more["target"].to_numpy()[repeated][first]
            problem = f"target {target} has {name} {mine[first]!s} here, and {theirs[first]!s} in the run"
            remedy = f"leave out the {int(other.sum())} targets that differ, or plan them in another ROOT"
            raise RefusedError("targets", problem, remedy)
    rows = more[~repeated]
    keys = list(survey.catalog.sort_by)
    if set(keys) <= set(rows.columns):
        rows = rows.sort_values(keys, kind="stable")
    return rows.reset_index(drop=True)


def _continued(plan: Plan, rows: pd.DataFrame | None, table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the targets of a generation that a table makes of those so far, if there is one; the newest first."""
    behind = 0 if rows is None else len(rows)
    wanted = [each for each in reversed(plan.generations) if each.n_spectra > behind]
    for made in _candidates(plan, rows, table):
        for generation in wanted:
            if len(made) >= generation.n_spectra and _is_of(generation, made, plan.survey):
                yield made.head(generation.n_spectra).reset_index(drop=True)


def _candidates(plan: Plan, rows: pd.DataFrame | None, table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    yield table  # of the first generation, or a copy of the run's own
    if rows is None:
        return
    try:
        new = new_rows(rows, table, plan.survey, plan.kept)
    except ConfigError:  # a table of another run
        return
    yield pd.concat([rows, new], ignore_index=True)


def _is_of(generation: Generation, rows: pd.DataFrame, survey: Survey) -> bool:
    own = rows.head(generation.n_spectra)
    return targets_sha256(own, survey.coordinates) == generation.targets_sha256


def _unmatched(plan: Plan, rows: pd.DataFrame | None, tables: Sequence[pd.DataFrame]) -> str:
    """Say which generation none of the tables is of."""
    behind = 0 if rows is None else len(rows)
    number, generation = next((i, each) for i, each in enumerate(plan.generations, 1) if each.n_spectra > behind)
    which = f"the run's {generation.n_spectra:,} targets"
    if len(plan.generations) > 1:
        which = f"generation {number} of the targets, {generation.n_spectra:,} in all"
    given = " and ".join(f"{len(table):,}" for table in tables)
    return f"no table given (of {given} rows) makes {which} (SHA-256 {generation.targets_sha256[:12]}... in the plan)"


def _require_kept(root: str, plan: Plan, rows: pd.DataFrame) -> None:
    """Refuse further columns that are not those of the spectra's store, if that was made: no SHA-256 holds them."""
    try:
        made = ingest_ledger(root, plan).read_store()
        expected, generations = dict(made["checksums"]), made["generations"]
    except (FileNotFoundError, LookupError, TypeError, ValueError):
        return
    if generations != [[each.n_spectra, each.targets_sha256] for each in plan.generations]:
        return
    for name, coordinate in plan.kept.items():
        found = checksum({name: schema.column(rows, name, coordinate)})[name]
        if expected.get(name) not in (None, found):
            problem = f"the column {name} of the tables given has other values than that of the run's stores"
            raise RefusedError("--targets", problem, _REMEDY)


def _differs(mine: NDArray[np.generic], theirs: NDArray[np.generic]) -> NDArray[np.bool_]:
    both_missing = pd.isna(mine) & pd.isna(theirs)
    return np.asarray((mine != theirs) & ~both_missing, dtype=bool)
