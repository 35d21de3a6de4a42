"""One task: one stage of one chunk, done where it runs, tried again where that may help, and never raising."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from pipeline.archive.quota import Quota, slot
from pipeline.archive.source import SourceError
from pipeline.compute.stages import density, encode, ingest, metrics
from pipeline.compute.stages.process import make_deterministic
from pipeline.compute.stages.record import Record, Superseded
from pipeline.errors import ConfigError, redacted
from pipeline.planning.partition import Shard
from pipeline.planning.stages import Kind, source_of
from pipeline.retry import retried
from pipeline.store.ledger import Ledger
from pipeline.store.root import read_plan

logger = logging.getLogger(__name__)

_NO_SPECTRA = "spectra are missing, since their ingest"

ATTEMPTS = 3
"""Tries of a task whose fault may pass, most of all one of storage; sources retry single files by themselves."""

# Retrying these gives the same error: wrong settings, bugs, and requests that a source has already retried.
_PERMANENT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    PermissionError,
    SourceError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Task:
    """One stage of one chunk; model is None for ingest."""

    stage: str
    model: str | None
    shard: Shard

    @property
    def kind(self) -> Kind:
        """What it does."""
        return self.stage, self.model

    @property
    def key(self) -> tuple[Kind, int]:
        """What it does, and of which chunk."""
        return self.kind, self.shard.index

    @property
    def source(self) -> tuple[Kind, int] | None:
        """The key of the task whose result it reads; None for ingest."""
        kind = source_of(self.kind)
        return None if kind is None else (kind, self.shard.index)

    def __str__(self) -> str:
        return " ".join(part for part in (self.stage, self.model, f"{self.shard.index:06d}") if part)


@dataclass(frozen=True)
class Outcome:
    """How a task ended: with the summary of its chunk, or with the reason why not."""

    task: Task
    record: Record | None
    reason: str | None = None


def attempt(root: str, fingerprint: str, task: Task, quota: Quota, upstream: Outcome | None = None) -> Outcome:
    """Do one task, where it runs; never raises for a fault, so that no traceback travels or fills a worker's log.

    Where the run has grown and the task's chunk with it, the chunk is done as it is now: what this task wrote may have
    taken the place of more rows. quota: what an ingest may ask of the source. upstream: the outcome of the task whose
    result this one reads.
    """
    if upstream is not None and upstream.reason is not None:
        metrics.fail(*task.kind)
        missing = "latents are missing, since their encoding" if task.stage == "density" else _NO_SPECTRA
        return Outcome(task, None, f"its {missing} failed: {upstream.reason}")
    make_deterministic()
    tried = 1

    def warn(error: Exception, number: int) -> None:
        nonlocal tried
        tried = number + 1
        logger.warning("%s: attempt %d failed: %s", task, number, reason_of(error, number))

    def do() -> Record:
        try:
            return _done_before(root, fingerprint, task) or _do(root, fingerprint, task, quota)
        except Superseded:
            logger.warning("%s: targets were added to the run: doing the chunk again with all its rows", task)
            return _do(root, fingerprint, replace(task, shard=read_plan(root).shards()[task.shard.index]), quota)

    try:
        record = retried(do, attempts=ATTEMPTS, may_pass=lambda error: not isinstance(error, _PERMANENT), failed=warn)
    except Exception as error:
        logger.debug("%s failed", task, exc_info=True)
        metrics.fail(*task.kind)
        return Outcome(task, None, reason_of(error, tried))
    return Outcome(task, record)


def _done_before(root: str, fingerprint: str, task: Task) -> Record | None:
    """Look for the marker: a scheduler repeats a finished task when the worker that held its summary is lost."""
    try:
        record = Ledger(root, task.stage, fingerprint, task.model).read(task.shard.index)
    except (FileNotFoundError, ValueError):
        return None
    return record if record.get("stop") == task.shard.stop else None


def _do(root: str, fingerprint: str, task: Task, quota: Quota) -> Record:
    if task.model is None:
        with slot(quota) as allowance:
            return ingest.ingest_shard(root, fingerprint, task.shard, allowance)
    if task.stage == "density":
        return density.density_shard(root, fingerprint, task.model, task.shard)
    return encode.encode_shard(root, fingerprint, task.model, task.shard)


def reason_of(error: BaseException, attempts: int = 1) -> str:
    """Say in one line why a task failed, for its record."""
    text = (str(error).strip() or "no message").splitlines()[0]
    name = "" if isinstance(error, (ConfigError, SourceError)) else f"{type(error).__name__}: "
    return redacted(f"{name}{text}") + (f" ({attempts} attempts)" if attempts > 1 else "")
