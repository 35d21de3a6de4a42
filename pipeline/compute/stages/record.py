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
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.compute.stages import metrics
from pipeline.errors import ConfigError
from pipeline.planning.plan import Shard
from pipeline.spectra.quality import Quality
from pipeline.store.arrays import checksum, read_region, write_region
from pipeline.store.ledger import Ledger
from pipeline.version import __version__

logger = logging.getLogger(__name__)


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


def mark_shard(ledger: Ledger, url: str, shard: Shard, arrays: Mapping[str, NDArray[Any]], record: Record) -> None:
    """Mark a chunk. If another run has marked it meanwhile, make data and marker agree.

    Two runs of one ROOT on like machines write the same bytes. On unlike ones the last bits of numbers may differ,
    and what is there may be a mixture: then all of it is written again, marker included.
    """
    if ledger.mark(shard.index, record):
        return
    try:
        expected = ledger.read(shard.index)["checksums"]
        if checksum(read_region(url, arrays, shard.start, shard.stop)) == expected:
            return
    except (FileNotFoundError, ValueError, KeyError):
        pass  # removed or damaged since
    logger.warning("chunk %d was marked by another run with different data: rewriting it", shard.index)
    write_region(url, shard, arrays)
    ledger.replace(shard.index, record)


def packages(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of what makes the numbers in this process."""
    versions = {name: metadata.version(name) for name in names}
    own = {"spender-pipeline": __version__, "python": platform.python_version()}
    return {**versions, **own, "machine": platform.machine()}


def require_same(found: str, expected: str, what: str) -> None:
    """Refuse a plan that has changed since the run began. Raises ConfigError."""
    if found != expected:
        raise ConfigError(
            f"fingerprint of {what}",
            found[:12],
            f"{expected[:12]}, that of the run",
            "the plan was changed during this run: start the run again",
        )


def record_of(shard: Shard, arrays: Mapping[str, NDArray[Any]]) -> Record:
    """Build a chunk's marker: its rows, the spectra by quality bit, the checksums of what was written."""
    quality = arrays["quality"]
    counts = {bit.name: int(np.count_nonzero(quality & np.uint32(bit))) for bit in Quality}
    return {
        "start": shard.start,
        "stop": shard.stop,
        "spectra": len(shard),
        "good": int(np.count_nonzero(quality == 0)),
        "usable": int(np.count_nonzero((quality & np.uint32(Quality.UNUSABLE)) == 0)),
        "quality": {name: count for name, count in counts.items() if count},
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

    It holds the marker without checksums and versions, the bytes of the arrays written (before compression), what went
    to the source and came from it, and who did it, when, in how many seconds per part.
    """
    summary = {
        "stage": stage,
        "model": model,
        "chunk": shard.index,
        **{key: value for key, value in record.items() if not key.endswith("checksums") and key != "packages"},
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
