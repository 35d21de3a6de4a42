"""What one task does with one chunk: read, compute, write, mark. Arrays never leave the task."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any

from numpy.typing import NDArray

from pipeline.compute.stages import metrics
from pipeline.errors import ConfigError
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan
from pipeline.spectra.quality import counts
from pipeline.store.arrays import AlignmentError, checksum, read_region, write_region
from pipeline.store.ledger import Ledger
from pipeline.store.root import read_plan
from pipeline.version import __version__

logger = logging.getLogger(__name__)


_MARKERS_ALONE = ("checksums", "spectra_checksums", "packages", "targets_sha256", "reasons")

Record = dict[str, Any]
"""A chunk's marker or summary: JSON-ready."""


class Timings:
    """When a task began, and the seconds that it spent on each of its parts: for the log, never for a marker."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time that the context takes to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Superseded(RuntimeError):  # noqa: N818 - a state of the run, not a fault of the program
    """The run has grown since the task began, and the chunk has more rows now: the task's own are too few."""


def write_shard(
    root: str,
    plan: Plan,
    ledger: Ledger,
    url: str,
    shard: Shard,
    arrays: Mapping[str, NDArray[Any]],
    record: Record,
    clock: Timings,
) -> None:
    """Write a chunk's arrays and mark it, unless the run has grown meanwhile and the chunk with it.

    Only the last chunk of a generation can grow. Where it did so between the first look and the last, the arrays
    written may have taken the place of those of all its rows: it is unmarked, for whoever looks next. Raises
    Superseded.
    """
    can_grow = len(shard) < plan.shard

    def grown() -> bool:
        return can_grow and read_plan(root).shards()[shard.index] != shard

    if grown():
        raise Superseded(f"chunk {shard.index} has more rows since targets were added")
    try:
        with clock.phase("write"):
            write_region(url, shard, arrays)
        if not grown():
            with clock.phase("mark"):
                rewritten = mark_shard(ledger, url, shard, arrays, record)
            if not (rewritten and grown()):
                return
    except AlignmentError as error:  # the arrays have more rows already: nothing was written
        if not grown():
            raise
        raise Superseded(f"chunk {shard.index} has more rows since targets were added") from error
    ledger.unmark(shard.index)
    raise Superseded(f"chunk {shard.index} got more rows while it was written")


def mark_shard(ledger: Ledger, url: str, shard: Shard, arrays: Mapping[str, NDArray[Any]], record: Record) -> bool:
    """Mark a chunk. If another run has marked it meanwhile, make data and marker agree; return whether that took data.

    Two runs of one ROOT on like machines write the same bytes. On unlike ones the last bits of numbers may differ,
    and what is there may be a mixture: then all of it is written again, marker included. Raises Superseded where the
    chunk was marked with more rows.
    """
    if ledger.mark(shard.index, record):
        return False
    try:
        found = ledger.read(shard.index)
        if found.get("stop", shard.stop) > shard.stop:
            raise Superseded(f"chunk {shard.index} was done with more rows meanwhile")
        if found.get("stop", shard.stop) < shard.stop:  # of an earlier generation
            ledger.replace(shard.index, record)
            return False
        if checksum(read_region(url, arrays, shard.start, shard.stop)) == found["checksums"]:
            return False
    except (FileNotFoundError, ValueError, KeyError):
        pass  # removed or damaged since
    logger.warning("chunk %d was marked by another run with different data: rewriting it", shard.index)
    write_region(url, shard, arrays)
    ledger.replace(shard.index, record)
    return True


def packages(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of what makes the numbers in this process."""
    versions = {name: _version(name) for name in names}
    own = {"spender-pipeline": __version__, "python": platform.python_version()}
    return {**versions, **own, "machine": platform.machine()}


_version = cache(metadata.version)  # reads and parses a file, which would be done for every chunk


def require_same(found: str, expected: str, what: str) -> None:
    """Refuse a plan that has changed since the run began. Raises ConfigError."""
    if found != expected:
        raise ConfigError(
            f"fingerprint of {what}",
            found[:12],
            f"{expected[:12]}, that of the run",
            "the plan was changed during this run: start the run again",
        )


def record_of(shard: Shard, targets: str, arrays: Mapping[str, NDArray[Any]]) -> Record:
    """Build a chunk's marker: its rows, the spectra by quality bit, the checksums of what was written.

    targets: hash of the rows of the targets that the chunk was made of.
    """
    return {
        "start": shard.start,
        "stop": shard.stop,
        "targets_sha256": targets,
        **counts(arrays["quality"]),
        "checksums": checksum(arrays),
    }


def finish(
    stage: str,
    model: str | None,
    shard: Shard,
    record: Record,
    arrays: Mapping[str, NDArray[Any]],
    clock: Timings,
    traffic: Mapping[str, int] | None = None,
) -> Record:
    """Build a chunk's summary, log it as one line of JSON, count it, return it.

    It holds the marker's counts, without checksums, versions and reasons, the bytes of the arrays written (before
    compression), what went to the source and came from it, and who did it, when, in how many seconds per part.
    """
    summary = {
        "stage": stage,
        "model": model,
        "chunk": shard.index,
        **{key: value for key, value in record.items() if key not in _MARKERS_ALONE},
        "written": sum(values.nbytes for values in arrays.values()),
        **(traffic or {}),
        "worker": f"{platform.node()}:{os.getpid()}",
        "started": clock.started.isoformat(timespec="milliseconds"),
        "seconds": {name: round(value, 3) for name, value in clock.seconds.items()},
    }
    logger.info("%s", json.dumps(summary))
    try:
        metrics.count(stage, model, summary)
    except Exception:  # of whatever kind: the chunk is done, counted or not
        logger.warning("chunk %d is done, but the counters could not be updated", shard.index, exc_info=True)
    return summary
