"""What can be refused before any work: too little memory, no GPU, a wrong source, targets that are not the plan's."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from distributed import Client
from distributed.system import MEMORY_LIMIT

from pipeline import storage
from pipeline.catalog import targets
from pipeline.compute.stages import process
from pipeline.compute.stages.ingest import archive_of
from pipeline.compute.stages.process import wanted_device
from pipeline.compute.workers.scheduler import offering, on_workers, workers_of
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning.memory import MEMORY_FRACTION, memory_at_once, memory_needed
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan
from pipeline.planning.stages import Kind
from pipeline.store import generations
from pipeline.store.root import ingest_ledger, targets_url

PROBES, KNOWN_PROBES = 50, 8
"""Targets, spread over the run, whose files are looked for before an ingest starts; and those among the ones before."""

PATIENCE = 50.0
"""Seconds to wait for a cluster that is said to be there: its scheduler, its first worker and, where one is demanded,
its first GPU, all together."""


DEVICE_ANSWER = 60.0
"""Seconds for workers to tell of their GPU: a fresh one imports torch and wakes the device for it."""


def check_memory(plan: Plan, client: Client | None, kinds: Iterable[Kind]) -> None:
    """Refuse a run whose tasks do not fit into the memory of the workers that are there. Raises ConfigError."""
    needed = memory_needed(plan, kinds)
    if client is None:
        _require_memory("this machine's memory", MEMORY_LIMIT, needed)
        return
    for address, info in workers_of(client).items():
        if info["memory_limit"]:
            at_once = memory_at_once(needed, info["nthreads"])
            _require_memory(f"memory limit of worker {address}", info["memory_limit"], at_once)


def _require_memory(key: str, limit: int, needed: int) -> None:
    if needed > limit * MEMORY_FRACTION:
        raise ConfigError(
            key,
            f"{limit / 2**20:.0f} MiB",
            f"at least {math.ceil(needed / MEMORY_FRACTION / 2**20)} MiB for this plan's chunks",
            "give workers more memory, or take fewer of them (--workers), or plan with a smaller --shard",
        )


def check_devices(client: Client | None, demanded: bool, wait: float | None = PATIENCE) -> None:
    """Refuse workers that offer a GPU and have none that works, and a run that demands one where there is none.

    demanded: whether encoding anywhere else is out of the question; a cluster's GPU workers are then waited for, for
    so many seconds; None: those that come later are looked at when they come (`workers.gate`). client: None for work in
    this process. Raises ConfigError.
    """
    if client is None:
        if demanded and process.device().type != "cuda":
            raise ConfigError("--gpu", True, "a CUDA device in this machine", "run without --gpu to encode on the CPU")
        return
    deadline = time.monotonic() + (wait or 0.0)
    while demanded and wait is not None and not offering(workers_of(client), "GPU"):
        if time.monotonic() > deadline or (client.cluster is not None and not torch.cuda.is_available()):
            remedy = 'start some with: dask worker ADDRESS --resources "GPU=1", or run without --gpu'
            raise ConfigError("--gpu", True, "a worker that offers the resource GPU", remedy)
        time.sleep(1.0)
    with_gpu = offering(workers_of(client), "GPU")
    if with_gpu:
        answers = on_workers(client, device_problem, with_gpu, DEVICE_ANSWER)
        if not answers:
            problem = f"no worker with a GPU has answered for {DEVICE_ANSWER:.0f} s"
            raise RefusedError("--gpu", problem, "read the workers' logs")
        for address, problem in answers.items():
            if problem:
                remedy = "fix its image or driver; or set SPENDER_DEVICE=cpu there, to encode on the CPU"
                raise RefusedError(
                    "--gpu", f"the worker {address} offers a GPU, but cannot compute on one: {problem}", remedy
                )


def device_problem() -> str:
    """Return why a worker that offers a GPU would not compute on it; nothing if it would, or is set not to."""
    try:
        device = process.device()
    except ConfigError as error:
        return str(error)
    return "" if device.type == "cuda" or wanted_device() == "cpu" else "no CUDA device"


def check_targets(root: str, plan: Plan) -> None:
    """Refuse a targets table that is not the planned one: rows would carry the names of others."""
    rows, problem = generations.read(root, plan)
    if rows is None:
        raise RefusedError("targets.parquet", problem, generations.remedy(root, plan))


def check_source(root: str, plan: Plan, pending: Sequence[Shard], ingested: Iterable[int]) -> tuple[str, ...]:
    """Refuse a source that has none of the files looked for, so that a mistyped URL makes no empty survey.

    pending, ingested: the chunks that are to be ingested, and those that are. Returns files that the source gave.
    """
    if not pending:
        return ()
    if plan.config.cache is not None:
        storage.require_writable("cache", plan.config.cache)
    # Include rows of chunks that are done: all of the pending targets may legitimately lack their files.
    records = ingest_ledger(root, plan).records(sorted(ingested)[: 4 * KNOWN_PROBES]).values()
    found = [record["start"] for record in records if not record["quality"].get("NO_FILE")][:KNOWN_PROBES]
    archive = archive_of(plan)
    keys = [key for rows in [*_spread(pending, PROBES), *([row] for row in found)] for key in _keys(root, plan, rows)]
    return archive.source.require_some(list(dict.fromkeys(archive.paths(keys))), plan.survey.root)


def _spread(pending: Sequence[Shard], count: int) -> list[list[int]]:
    """Return so many rows of the pending chunks, evenly spread, chunk by chunk; all where there are fewer."""
    total = sum(len(shard) for shard in pending)
    wished = np.arange(total) if total <= count else np.arange(count) * total // count
    starts = np.cumsum([0, *(len(shard) for shard in pending)])
    within = np.searchsorted(starts, wished, side="right") - 1
    rows = [(shard.start + wished[within == i] - starts[i]).tolist() for i, shard in enumerate(pending)]
    return [each for each in rows if each]


def _keys(root: str, plan: Plan, rows: Sequence[int]) -> list[str]:
    """Return the keys of some targets of a chunk."""
    frame = targets.read_rows(targets_url(root), rows[0], rows[-1] + 1, plan.survey)
    return [frame["target"].iloc[row - rows[0]] for row in rows]
