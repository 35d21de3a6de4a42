"""Add targets to a run: new rows behind those that are there, as a new generation; what is done stays done.

The order of writing is what makes an interruption harmless: the stores are described for more rows, then the table of
targets gets them, and only plan.json, which comes last, makes them part of the run.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from pipeline.catalog import targets as target_table
from pipeline.errors import RefusedError
from pipeline.planning.plan import Generation, Plan, targets_sha256
from pipeline.store import stores
from pipeline.store.clients import CHUNKS, PLANNING, alive, refuse
from pipeline.store.root import ledgers, targets_url

COMMAND = f"{PLANNING} --extend"

MAX_CHUNKS = 20_000
"""Chunks of a run that grows: each is a marker to be listed, and an object per variable."""


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
