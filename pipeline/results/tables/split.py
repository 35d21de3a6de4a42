"""Whether a model was trained on a spectrum of a run, by what its checkpoint says of its data and of their split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.catalog import where as condition
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from pipeline.spectra.quality import Quality

if TYPE_CHECKING:
    import pandas as pd

EXCLUDED_FROM_TRAINING = (
    Quality.UNUSABLE | Quality.NO_REDSHIFT | Quality.NO_NORM | Quality.NEGATIVE_NORM | Quality.FEW_PIXELS
)
"""Spectra with any of these bits are left out: nothing to learn from, no restframe, or another scale."""

SAMPLES = ("unknown", "training", "validation", "neither")
"""What a spectrum was to the training of a model; the number of a name is its place."""

UNKNOWN, TRAINING, VALIDATION, NEITHER = range(len(SAMPLES))

Numbers = NDArray[np.int8]


@dataclass(frozen=True)
class Split:
    """How the spectra of a run are told apart by what they were to the training of a model.

    rule: in words, for the header of a table. sample: the row of the first target in the run, N targets, and the
    quality bits of their spectra, shape (N,), uint32 -> numbers in SAMPLES, shape (N,), int8.
    """

    rule: str
    sample: Callable[[int, pd.DataFrame, NDArray[np.uint32]], Numbers]


def read_entries(model: ModelConfig) -> dict[str, Any] | None:
    """Return what a model's checkpoint says beside its weights; None where it cannot be read, or is another one now."""
    from spender_core.weights import WeightsError, read_extras  # torch: not for every reader of a run

    try:
        return read_extras(model.checkpoint, model.sha256)
    except (WeightsError, OSError):
        return None


def split_of(plan: Plan, entries: Mapping[str, Any] | None) -> Split:
    """Return what the spectra of a run were to a model, by the entries of its checkpoint; None: it cannot be read.

    A checkpoint that the trainer of this package wrote names its runs by the hash of their targets, the condition, and
    the rule that keeps spectra for validation. The embedded models have a list of plate-mjd-fiberid instead: what is
    not in it is "neither". All is unknown where a checkpoint says nothing of this.
    """
    if entries is None:
        return _unknown("unknown: the checkpoint cannot be read")
    rule = entries.get("split")
    if isinstance(rule, str):
        from spender_core.dataset import SPLIT_RULE

        return _by_rule(plan, rule, entries.get("data")) if rule == SPLIT_RULE else _unknown(f"unknown: {rule}")
    if isinstance(entries.get("trained_on"), list | tuple):
        names = frozenset(map(str, entries["trained_on"]))
        return Split(
            "training: the spectra that the checkpoint lists",
            lambda start, rows, quality: np.where(_listed(rows, names), TRAINING, NEITHER).astype(np.int8),
        )
    return _unknown("unknown: the checkpoint does not say what the model was trained on")


def split_ids(rows: pd.DataFrame, column: str | None) -> NDArray[np.uint64]:
    """Return the number of each target that decides its side of the split; where it has none, one made of its key."""

    def made(key: str) -> int:
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")

    own = [0] * len(rows) if column is None else rows[column].tolist()
    return np.array([number or made(key) for number, key in zip(own, rows["target"], strict=True)], dtype=np.uint64)


def _unknown(why: str) -> Split:
    return Split(why, lambda start, rows, quality: np.full(len(rows), UNKNOWN, np.int8))


def _by_rule(plan: Plan, rule: str, data: object) -> Split:
    """Return the split of a checkpoint of our trainer. data: its entry of that name."""
    facts = data if isinstance(data, Mapping) else {}
    runs, where = facts.get("runs") or [], facts.get("where")
    known = [_rows_of(plan, run) for run in runs]
    n_known = max(known, default=0)
    if not n_known:
        return _unknown(f"unknown: the model was trained on other runs; {rule}")
    # Targets that were added since were in no other run, where there was none.
    beyond = NEITHER if all(known) else UNKNOWN

    def sample(start: int, rows: pd.DataFrame, quality: NDArray[np.uint32]) -> Numbers:
        from spender_core.dataset import validation

        found = np.full(len(rows), beyond, np.int8)
        learnt = rows.iloc[: max(n_known - start, 0)]
        usable = (quality[: len(learnt)] & np.uint32(EXCLUDED_FROM_TRAINING)) == 0
        if where is not None:
            usable &= condition.select(str(where), {str(name): learnt[name].to_numpy() for name in learnt.columns})
        valid = validation(split_ids(learnt, plan.survey.lookup.id_column))
        found[: len(learnt)] = np.where(usable, np.where(valid, VALIDATION, TRAINING), beyond)
        return found

    return Split(rule if where is None else f"{rule}; of the spectra where {where}", sample)


def _rows_of(plan: Plan, run: Mapping[str, Any]) -> int:
    """Return how many of a plan's rows a run that was trained on had; 0 where it is another run."""
    if run.get("survey") != plan.survey.name or run.get("instrument") != plan.config.instrument:
        return 0
    same = (each.n_spectra for each in plan.generations if each.targets_sha256 == run.get("targets_sha256"))
    return next(same, 0)


def _listed(rows: pd.DataFrame, names: frozenset[str]) -> NDArray[np.bool_]:
    """Tell which targets are in a list of plate-mjd-fiberid, which may have leading zeros."""
    wanted = {_plain(name) for name in names}
    return np.fromiter((_plain(key.rpartition("/")[2]) in wanted for key in rows["target"]), np.bool_, len(rows))


def _plain(name: str) -> str:
    return "-".join(part.lstrip("0") for part in name.split("-"))
