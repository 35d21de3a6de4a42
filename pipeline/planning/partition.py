"""Which rows belong to which task: integer arithmetic on the number of spectra.

A task owns whole shards, so no two tasks ever write one object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError, RefusedError

MAX_SHARD = 4096
MIN_SHARDS = 16
# Spectra per inner chunk: small enough that one spectrum is read in less time than a request to an object store takes,
# large enough to read whole shards fast (benchmarks/RESULTS.md, "Chunks and compression").
CHUNK = 32
# Spectra per forward pass. More are no faster on a CPU, where the encoder works through 32 at a time.
MICRO_BATCH = 64
# Files that several chunks need are read by each: so many more reads than files a small run accepts for its chunks.
READ_AGAIN = 0.15


@dataclass(frozen=True)
class Shard:
    """The rows [start, stop) that one task owns; `index` counts them. On disk and in messages it is a chunk."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def partition(n_spectra: int, shard: int) -> list[Shard]:
    """Cut n_spectra rows into chunks of `shard` rows, the last one shorter."""
    return [
        Shard(index, start, min(start + shard, n_spectra)) for index, start in enumerate(range(0, n_spectra, shard))
    ]


def choose_shard(n_spectra: int, shard: int | None = None, chunk: int | None = None) -> tuple[int, int]:
    """Return (shard, chunk): spectra per task and per inner chunk, the first a multiple of the second.

    Without a wish: at most MAX_SHARD spectra, fewer in a small run so that there are at least MIN_SHARDS
    chunks (one spectrum each below that many). Raises ConfigError for wishes that cannot be met.
    """
    if n_spectra < 1:
        raise RefusedError("targets", "the table of targets has no rows", "loosen the condition of --where")
    if shard is None:
        inner = chunk or CHUNK
        # The largest shard that still gives MIN_SHARDS of them: ceil(n / shard) >= MIN_SHARDS.
        widest = min(MAX_SHARD, max(1, math.ceil(n_spectra / (MIN_SHARDS - 1)) - 1))
        shard = widest // inner * inner or (inner if chunk else widest)
    if not 1 <= shard <= MAX_SHARD:
        raise ConfigError("shard", shard, f"1 to {MAX_SHARD} spectra", "it bounds the memory of a task")
    if chunk is None:
        divisors = (size for size in range(1, shard + 1) if shard % size == 0)
        chunk = min(divisors, key=lambda size: abs(math.log(size / CHUNK)))
    if chunk < 1 or shard % chunk:
        raise ConfigError("chunk", chunk, f"a divisor of the shard, {shard}", "set --shard to a multiple of it")
    return shard, chunk


def widened(shard: int, starts: Sequence[int], n_spectra: int) -> int:
    """Return the smallest number of spectra per task, from a chosen one on, for which few files are read twice.

    starts: rows with which a file begins that the spectra of the next rows share, up to the next of them. Larger chunks
    cut fewer files; where all files have as many spectra, some cut none. Those of one chunk if no smaller one will do,
    or MAX_SHARD.
    """
    is_start = np.zeros(n_spectra + 1, np.bool_)
    is_start[list(starts)] = True
    allowed = READ_AGAIN * len(starts)
    for size in range(shard, min(MAX_SHARD, n_spectra)):
        cut = np.arange(size, n_spectra, size)
        if np.count_nonzero(~is_start[cut]) <= allowed and _has_usual_chunk(size):
            return size
    return min(MAX_SHARD, n_spectra if n_spectra < CHUNK else math.ceil(n_spectra / CHUNK) * CHUNK)


def _has_usual_chunk(shard: int) -> bool:
    """Whether a number of spectra per task can be divided into chunks of about the usual size."""
    return any(shard % size == 0 for size in range(CHUNK // 2, 2 * CHUNK + 1))


def choose_micro_batch(shard: int) -> int:
    """Return the spectra per forward pass by default: MICRO_BATCH, fewer when a task holds fewer."""
    return min(MICRO_BATCH, shard)
