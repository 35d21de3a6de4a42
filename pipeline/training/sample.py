"""The spectra of finished ingests as samples to train on: one per instrument, of one or more runs each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import storage
from pipeline.catalog import where as condition
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning.plan import Plan
from pipeline.results.tables.split import EXCLUDED_FROM_TRAINING, split_ids
from pipeline.store import generations
from pipeline.store.arrays import open_handle, read_region, spectra_url
from pipeline.store.root import ingest_ledger, read_plan
from spender_core.dataset import Batches, Pooled, SpectrumDataset, validation
from spender_core.instrument import get_instrument

LEAST_BLOCK = 1024
"""Fewest rows that are read at once: a block is shuffled as a whole, and small runs have small chunks."""

_DOMAIN = ("z", "class", "sn_median")  # columns that say what a model knows


@dataclass(frozen=True)
class Part:
    """The spectra of one run.

    targets: columns z, class and sn_median of its table, as far as the survey has them, N rows. usable: shape (N,),
    bool, the spectra to learn from or to validate by. valid: shape (N,), bool, those on the side of validation.
    """

    root: str
    plan: Plan
    targets: pd.DataFrame
    usable: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    data: SpectrumDataset

    @property
    def facts(self) -> dict[str, Any]:
        """Return what the run is made of, as a checkpoint keeps it: plain values, and not where it lies."""
        return {
            "instrument": self.plan.config.instrument,
            "survey": self.plan.survey.name,
            "ingest_fingerprint": self.plan.ingest_fingerprint,
            "targets_sha256": self.plan.targets_sha256,
            "spectra": int(np.count_nonzero(self.usable)),
        }


@dataclass(frozen=True)
class Sample:
    """The spectra of one instrument. data: batches of all its runs."""

    instrument: str
    parts: tuple[Part, ...]
    data: Batches

    @property
    def z(self) -> NDArray[np.float32]:
        """Redshifts of the usable spectra, shape (n,)."""
        return np.concatenate([part.targets["z"].to_numpy(np.float32)[part.usable] for part in self.parts])

    @property
    def n_usable(self) -> int:
        """Number of spectra to learn from and to validate by."""
        return sum(int(np.count_nonzero(part.usable)) for part in self.parts)


def read_samples(roots: Sequence[str], where: str | None = None) -> list[Sample]:
    """Open the spectra of runs, those of one instrument together; only ids, columns and quality are read now.

    where: condition on the columns of the runs' targets. Samples come in the order in which their instruments do.
    Raises ConfigError for runs that are not ingested, have no usable spectra, or are named twice, and for conditions.
    """
    places = [storage.place(root, "ROOT").rstrip("/") for root in roots]
    twice = next((root for root in places if places.count(root) > 1), None)
    if twice is not None:
        raise ConfigError("ROOT", twice, "each run once", "its spectra would count twice")
    parts = [read_part(root, where) for root in places]
    by_instrument: dict[str, list[Part]] = {}
    for part in parts:
        by_instrument.setdefault(part.plan.config.instrument, []).append(part)
    samples = []
    for instrument, own in by_instrument.items():
        # A run without any is no mistake where another one has some: a condition may be about one survey's class.
        kept = [part for part in own if part.usable.any()]
        if not kept:
            raise _without_spectra(own[0], where)
        data = kept[0].data if len(kept) == 1 else Pooled([part.data for part in kept])
        samples.append(Sample(instrument, tuple(kept), data))
    return samples


def read_part(root: str, where: str | None = None) -> Part:
    """Open the spectra of one run, see `read_samples`; it may have no usable ones."""
    plan = read_plan(root)
    missing = len(plan.shards()) - len(ingest_ledger(root, plan).done())
    if missing:
        raise ConfigError("ROOT", root, "a run whose spectra are ingested", f"{missing} chunks are not: run ingest")
    rows = generations.rows_of(root, plan)
    url = spectra_url(root)
    quality = read_region(url, ["quality"], 0, plan.n_spectra)["quality"]
    usable = (quality & np.uint32(EXCLUDED_FROM_TRAINING)) == 0
    if where is not None:
        condition.names(where)
        usable &= condition.select(where, {str(name): rows[name].to_numpy() for name in rows.columns})
    ids = split_ids(rows, plan.survey.lookup.id_column)
    handle = open_handle(url)
    z = rows["z"].to_numpy(np.float32)
    block = max(plan.shard, LEAST_BLOCK // plan.shard * plan.shard)
    data = SpectrumDataset(handle.array("flux"), handle.array("ivar"), z, ids, usable, block=block)
    known = rows[[name for name in _DOMAIN if name in rows]]
    return Part(root, plan, known, usable, validation(ids), data)


def domain(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the domain that a checkpoint carries: classes, redshifts and S/N of the spectra that are trained on.

    z: lowest and highest. sn: of the catalogs' median S/N per pixel, the first percentile and the highest; None where a
    survey has none. classes: None where a survey has none.
    """
    parts = [part for sample in samples for part in sample.parts]
    learnt = [part.targets[part.usable & ~part.valid] for part in parts]
    z = np.concatenate([rows["z"].to_numpy(np.float64) for rows in learnt])
    if not len(z):  # all are kept for validation, which the trainer refuses
        z = np.concatenate([sample.z for sample in samples]).astype(np.float64)
    found: dict[str, Any] = {"classes": None, "z": [float(z.min()), float(z.max())], "sn": None}
    if all("class" in rows for rows in learnt):
        classes = {str(name).strip() for rows in learnt for name in rows["class"].unique()} - {""}
        found["classes"] = sorted(classes) or None
    if all("sn_median" in rows for rows in learnt):
        sn = np.concatenate([rows["sn_median"].to_numpy(np.float64) for rows in learnt])
        sn = sn[np.isfinite(sn)]
        found["sn"] = [float(np.percentile(sn, 1)), float(sn.max())] if len(sn) else None
    return found


def fingerprint(samples: Sequence[Sample], where: str | None) -> dict[str, Any]:
    """Return what a checkpoint says of its data: the runs, the condition, and a hash of both."""
    runs = [part.facts for sample in samples for part in sample.parts]
    facts = {"runs": runs, "where": where}
    return {**facts, "sha256": hashlib.sha256(storage.canonical_json(facts)).hexdigest()}


def wave_obs(sample: Sample) -> NDArray[np.float64]:
    """Return the observed wavelengths of a sample, shape (L,), Angstrom."""
    return np.asarray(get_instrument(sample.instrument).wave_obs.numpy(), np.float64)


def _without_spectra(part: Part, where: str | None) -> ConfigError:
    if where is None:
        remedy = "spender-pipeline status says what is wrong with its spectra"
        return ConfigError("ROOT", part.root, "a run with usable spectra", remedy)
    names = ", ".join((*part.plan.survey.coordinates, *part.plan.kept))
    return RefusedError("--where", f"no usable spectrum of {part.root} fulfils --where {where!r}", f"it has {names}")
