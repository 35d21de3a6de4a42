"""Add targets to a run: new rows behind those that are there, as a new generation; what is done stays done.

The order of writing is what makes an interruption harmless: the stores are described for more rows, then the table of
targets gets them, and only plan.json, which comes last, makes them part of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.catalog import targets as target_table
from pipeline.errors import RefusedError
from pipeline.planning.plan import Generation, Plan, targets_sha256
from pipeline.store import stores
from pipeline.store.clients import CHUNKS, PLANNING, alive, refuse
from pipeline.store.root import ledgers, targets_url
from pipeline.surveys.columns import Coordinate
from pipeline.surveys.survey import Survey

COMMAND = f"{PLANNING} --extend"

MAX_CHUNKS = 20_000
"""Chunks of a run that grows: each is a marker to be listed, and an object per variable."""


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


def extended(plan: Plan, rows: pd.DataFrame) -> Plan:
    """Return the plan with a generation more, of all these targets; as it is, where there are no more of them.

    Raises ConfigError for too many chunks.
    """
    if len(rows) == plan.n_spectra:
        return plan
    sha256 = targets_sha256(rows, plan.survey.coordinates)
    grown = replace(plan, generations=(*plan.generations, Generation(len(rows), sha256)))
    chunks = len(grown.shards())
    if chunks > MAX_CHUNKS:
        problem = f"the run would have {chunks:,} chunks of {plan.shard} spectra, at most {MAX_CHUNKS:,} are allowed"
        raise RefusedError("targets", problem, "plan all targets in another ROOT, with --expect or a larger --shard")
    return grown


def require_idle(root: str, plan: Plan, own: str) -> None:
    """Refuse to add targets while a client describes or closes stores, or may be at the chunk that would get more rows.

    own: the id of the caller's Presence. Raises ConfigError.
    """
    others = alive(root, besides=own)
    last = plan.shards()[-1]
    if len(last) == plan.shard or all(last.index in ledger.done() for ledger in ledgers(root, plan)):
        others = [client for client in others if client.doing != CHUNKS]
    refuse(root, others)


def prepare(root: str, plan: Plan, rows: pd.DataFrame) -> None:
    """Bring ROOT to the targets of a plan's new generation, all but plan.json; see the module for the order."""
    stores.grow(root, plan, rows)
    target_table.write_targets(rows, targets_url(root), plan.shard, plan.survey, plan.kept)


def _differs(mine: NDArray[np.generic], theirs: NDArray[np.generic]) -> NDArray[np.bool_]:
    both_missing = pd.isna(mine) & pd.isna(theirs)
    return np.asarray((mine != theirs) & ~both_missing, dtype=bool)
