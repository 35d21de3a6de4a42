"""How far a run is, read from its ledger alone: chunks, spectra by quality bit, rate and time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.planning.plan import Plan
from pipeline.planning.redshift import WARNINGS
from pipeline.spectra.quality import Quality
from pipeline.store.clients import ClientRecord
from pipeline.store.ledger import Ledger
from pipeline.store.root import ledgers

RECENT = 600.0
"""Seconds of the past that the rate is taken from."""

SKEW = 60.0
"""Seconds by which a store's clock may be ahead of ours. Markers from further ahead tell nothing about the rate:
to a clock that is behind, a run that has stopped seems to go on, and one marker of a wrong clock makes an hour of a
minute."""

LEAST_SPAN = 1.0
"""Seconds that a rate is taken over, at least: of two markers written at once, it would be anything."""

GOING = 120.0
"""A run counts as going if its newest marker is younger than this many seconds, or thrice the usual time per chunk."""


@dataclass(frozen=True)
class StageStatus:
    """How far one stage is; model is None for ingest.

    failed: reason by chunk, of chunks that are still to be done. spectra, good, usable: counts in the chunks done; good
    has no quality bit at all. quality: spectra by bit; warnings: by bit of z_fit_warning, where redshifts are found.
    rate: spectra per second, and eta: seconds left, None unless the stage is going on. unusable: bits that mean "no
    latents" in this run.
    """

    stage: str
    model: str | None
    chunks: int
    done: int
    pending: int
    failed: dict[int, str]
    spectra: int
    good: int
    usable: int
    quality: dict[str, int]
    rate: float | None
    eta: float | None
    unusable: Quality = Quality.UNUSABLE
    warnings: dict[str, int] = field(default_factory=dict)

    @property
    def outside(self) -> str | None:
        """Say how many spectra are not like those that the model was trained on; None where all are, or none is known.

        After the plan, which judges by the catalog, only what is encoded says so: redshifts may have been found since.
        """
        count = self.quality.get(str(Quality.OUT_OF_DOMAIN.name), 0)
        if not count:
            return None
        return (
            f"{count} of {self.spectra} spectra lie outside of what {self.model} was trained on:"
            " they have the bit OUT_OF_DOMAIN, and Run.good leaves them out"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the status as JSON-ready values."""
        values = asdict(self)
        del values["unusable"]
        values["failed"] = {str(index): reason for index, reason in self.failed.items()}
        return values


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    root: where it is; spectra: their number; stages: ingest, then the encodings of each model; clients: those that work
    on it.
    """

    root: str
    spectra: int
    stages: tuple[StageStatus, ...]
    clients: tuple[ClientRecord, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every chunk of every stage is done."""
        return all(stage.done == stage.chunks for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return the status as JSON-ready values."""
        return {
            "root": self.root,
            "spectra": self.spectra,
            "stages": [stage.to_dict() for stage in self.stages],
            "clients": [asdict(client) for client in self.clients],
        }


def read_status(root: str, plan: Plan, now: float | None = None) -> list[StageStatus]:
    """Read how far every stage of a plan is; now: seconds since the epoch, default the present."""
    now = time.time() if now is None else now
    return [_read_stage(plan, ledger, now) for ledger in ledgers(root, plan)]


def _read_stage(plan: Plan, ledger: Ledger, now: float) -> StageStatus:
    written = ledger.written()
    by_index = ledger.records(written)
    done, records = set(by_index), by_index.values()
    quality: Counter[str] = Counter()
    warnings: Counter[str] = Counter()
    for record in records:
        quality.update(record["quality"])
        warnings.update(record.get("redshift_warnings", {}))
    spectra = sum(record["spectra"] for record in records)
    rate = _rate(written, {index: int(record["spectra"]) for index, record in by_index.items()}, now)
    chunks = len(plan.shards())
    running = rate is not None and len(done) < chunks
    failures = ledger.failures()
    return StageStatus(
        stage=ledger.stage,
        model=ledger.model,
        chunks=chunks,
        done=len(done),
        pending=chunks - len(done),
        failed={index: str(record["reason"]) for index, record in failures.items() if index not in done},
        spectra=spectra,
        good=sum(record["good"] for record in records),
        usable=sum(record["usable"] for record in records),
        quality={bit.name: quality[bit.name] for bit in Quality if bit.name and quality[bit.name]},
        rate=rate if running else None,
        eta=(plan.n_spectra - spectra) / rate if running and rate else None,
        unusable=plan.unusable,
        warnings={name: warnings[name] for name, _ in WARNINGS.values() if warnings[name]},
    )


def _rate(written: Mapping[int, float | None], spectra: dict[int, int], now: float) -> float | None:
    """Spectra per second over the recent markers, by the times their files were written; None if nothing is going."""
    times = sorted((moment, index) for index, moment in written.items() if moment is not None)
    recent = [(moment, index) for moment, index in times if -SKEW <= now - moment <= RECENT]
    if len(recent) < 2:
        return None
    span = recent[-1][0] - recent[0][0]
    usual = span / (len(recent) - 1)
    if span < LEAST_SPAN or now - recent[-1][0] > max(GOING, 3 * usual):
        return None
    # The first marker only starts the clock.
    return sum(spectra[index] for _, index in recent[1:]) / span
