"""The work of one call on a run: who else is at it, what is pending, where it is done, and the end of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from distributed import Client

from pipeline.compute import access, executor, job, preflight
from pipeline.compute.cluster import grows, place_of_work
from pipeline.compute.executor import Progress, Summary
from pipeline.errors import ChunksFailed, Unfinished
from pipeline.planning.plan import Plan
from pipeline.spectra.quality import Quality
from pipeline.store.clients import CHUNKS, STORES, Presence, wait_for_planners, working
from pipeline.store.finalize import finalize
from pipeline.store.root import read_plan
from pipeline.store.verify import recheck_grown


@dataclass(frozen=True)
class Place:
    """Where work is done: the arguments of `pipeline.run` that say so."""

    client: Client | None = None
    scheduler: str | None = None
    workers: int | None = None
    serial: bool = False
    memory_limit: str | int | None = None
    wait: float | None = None
    gpu: bool = False
    kinds: Sequence[str] | None = None


@dataclass(frozen=True)
class Work:
    """What is to be done.

    command: for others to see. stages, models: of which chunks are done. chunks: the only ones to look at; None: all.
    retry: bits of spectra whose chunks are done again. per_second: requests to the source, instead of the plan's rate.
    accept_missing: go on where most spectra have no file.
    """

    root: str
    command: str
    stages: Sequence[str]
    models: Sequence[str]
    chunks: frozenset[int] | None
    retry: Quality
    per_second: float | None = None
    accept_missing: bool = False


def do(
    work: Work,
    place: Place,
    progress: Callable[[Client | None], Progress],
    say: Callable[[str], None],
    *,
    closes: bool,
    single_client: bool = False,
) -> Summary:
    """Do what is pending, and then close the stores, if all of the run was asked for (closes).

    progress: makes a progress report for the client that does the work. say: shows a message while the run waits.
    single_client: as in `working`. Raises ConfigError, ConnectionError as `executor.run`, ChunksFailed when chunks
    failed after all others were done, Unfinished when targets were added meanwhile.
    """
    with working(work.root, work.command, single_client=single_client, say=say) as presence:
        made = read_plan(work.root)
        if work.per_second is not None:
            made = replace(made, config=replace(made.config, max_requests_per_second=work.per_second))
        summary = _do_pending(work, made, place, progress, say, presence)
        if recheck_grown(work.root, made):  # a task of an earlier generation has spoiled a chunk
            summary = _do_pending(replace(work, retry=Quality.GOOD), made, place, progress, say, presence)
        if summary.failed:
            raise ChunksFailed({str(each.task): each.reason or "" for each in summary.failed}, summary.total)
        presence.show(STORES)
        wait_for_planners(work.root, presence, say)
        _require_same_targets(work, made, say)
        if closes and set(work.models) == {model.name for model in made.models}:
            finalize(work.root, made)
    return summary


def _do_pending(
    work: Work,
    made: Plan,
    place: Place,
    progress: Callable[[Client | None], Progress],
    say: Callable[[str], None],
    presence: Presence,
) -> Summary:
    retry = work.retry | access.to_retry(work.root, made) if "ingest" in work.stages else work.retry
    pending = job.pending(work.root, made, work.stages, work.models, work.chunks, retry)
    began = time.monotonic()
    if place.wait is not None and pending.tasks and not place.serial:
        say(f"waiting up to {place.wait:.0f} s for the cluster")
    with place_of_work(
        pending,
        client=place.client,
        workers=place.workers,
        scheduler=place.scheduler,
        serial=place.serial,
        memory_limit=place.memory_limit,
        wait=place.wait,
    ) as here:
        in_all = place.wait or (None if here is not None and grows(here) else preflight.PATIENCE)
        left = None if in_all is None else max(0.0, in_all - (time.monotonic() - began))
        prepared = partial(presence.show, CHUNKS)
        return executor.run(
            pending,
            here,
            progress(here),
            gpu=place.gpu,
            kinds=place.kinds,
            wait=left,
            prepared=prepared,
            accept_missing=work.accept_missing,
        )


def _require_same_targets(work: Work, made: Plan, say: Callable[[str], None]) -> None:
    """Look whether targets were added meanwhile. Raises Unfinished: their chunks are not done."""
    now = read_plan(work.root)
    if now.generations == made.generations:
        return
    say("targets were added to the run meanwhile: start the same command again to do them")
    missing: dict[str, list[int]] = {}
    for task in job.pending(work.root, now, work.stages, work.models).tasks:
        missing.setdefault(f"encode {task.model}" if task.model else "ingest", []).append(task.shard.index)
    raise Unfinished(missing)
