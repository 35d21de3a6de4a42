"""Pending chunks -> tasks -> outcomes: on Dask workers or in this process, retried, recorded, told as they come."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import xarray as xr
from distributed import Client, Future, KilledWorker, as_completed
from distributed.system import MEMORY_LIMIT

from pipeline import dataset, interrupt, runs, schema, stages, storage, targets, worker
from pipeline.config import ConfigError
from pipeline.ledger import Ledger
from pipeline.plan import RESERVED, Chunk, Plan, projected_memory, targets_sha256
from pipeline.quota import Quota, divide, turn
from pipeline.sources import SourceError
from pipeline.stages import Record

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Tries of a task whose fault may pass, most of all one of storage; sources retry single files by themselves."""

MEMORY_FRACTION = 0.8
"""Share of its limit that a worker may fill: Dask pauses it there (distributed.worker.memory.pause)."""

PROBES = 8
"""Targets whose files are looked for before an ingest starts."""

# Repeating these gives the same again: settings, mistakes in code, and what a source has retried already.
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
    chunk: Chunk

    def __str__(self) -> str:
        return " ".join(part for part in (self.stage, self.model, f"{self.chunk.index:06d}") if part)


@dataclass(frozen=True)
class Outcome:
    """How a task ended: with the summary of its chunk, or with the reason why not."""

    task: Task
    record: Record | None
    reason: str | None = None


@dataclass(frozen=True)
class Summary:
    """How a run ended. total: chunks of its stages; already: those done before; done: those done now."""

    total: int
    already: int
    done: int
    failed: tuple[Outcome, ...]
    seconds: float


class Progress(Protocol):
    """What a run tells while it goes on."""

    def start(self, total: int, already: int) -> None:
        """Announce the number of chunks, and of those that are done."""

    def advance(self, outcome: Outcome) -> None:
        """Tell of a task that has ended."""

    def close(self) -> None:
        """End the telling."""


@dataclass(frozen=True)
class _Job:
    """A run's pending tasks, those among them that have a marker all the same, and the ledgers that know of them."""

    root: str
    plan: Plan
    ledgers: dict[tuple[str, str | None], Ledger]
    tasks: list[Task]
    stale: list[Task]
    total: int

    def fingerprint(self, task: Task) -> str:
        return self.ledgers[task.stage, task.model].fingerprint


def run(
    root: str,
    plan: Plan,
    client: Client | None,
    stage_names: Sequence[str],
    models: Sequence[str],
    progress: Progress,
) -> Summary:
    """Do what is pending of some stages ("ingest", "encode") and models, chunk by chunk, whatever fails on the way.

    client: of the cluster that does the work; None does it here. Encoding a chunk follows its ingest. Stores that do
    not exist yet are made first. A chunk that fails is recorded in the ledger with its reason and the others go on;
    the summary names it. Raises ConfigError for what can be refused before any work: too little memory on a worker,
    a source without the targets' files, a store of another plan, nothing ingested.
    """
    start = time.monotonic()
    job = _pending(root, plan, stage_names, models)
    if job.tasks:
        storage.require_writable("ROOT", root)
        _check_targets(root, plan)
        check_memory(plan, client, job.tasks)
        _check_source(job)
        create_stores(root, plan, job.ledgers)
        _unmark_stale(job)
    earlier = {key: set(ledger.failures()) for key, ledger in job.ledgers.items()}
    done = 0
    failed: list[Outcome] = []
    progress.start(job.total, job.total - len(job.tasks))
    try:
        for outcome in _serial(job) if client is None else _distributed(job, client):
            key = (outcome.task.stage, outcome.task.model)
            if outcome.reason is not None:
                failed.append(outcome)
            else:
                done += 1
            _keep(job.ledgers[key], outcome, failed_before=outcome.task.chunk.index in earlier[key])
            progress.advance(outcome)
            interrupt.check()
    finally:
        progress.close()
    failed.sort(key=lambda outcome: str(outcome.task))
    return Summary(job.total, job.total - len(job.tasks), done, tuple(failed), time.monotonic() - start)


def _keep(ledger: Ledger, outcome: Outcome, failed_before: bool) -> None:
    """Keep the record of a failure, or remove that of an earlier one; a chunk's marker is its task's own work."""
    try:
        if outcome.reason is not None:
            ledger.fail(outcome.task.chunk.index, {"reason": outcome.reason})
        elif failed_before:
            ledger.clear_failure(outcome.task.chunk.index)
    except OSError as error:
        # The summary tells of the failure in any case, and the other chunks may still be done.
        logger.warning("%s: its record could not be kept: %s", outcome.task, _reason(error))


def _pending(root: str, plan: Plan, stage_names: Sequence[str], models: Sequence[str]) -> _Job:
    """List the tasks that have no marker, a chunk's ingest before its encodings."""
    ledgers: dict[tuple[str, str | None], Ledger] = {}
    if "ingest" in stage_names:
        ledgers["ingest", None] = runs.ingest_ledger(root, plan)
    if "encode" in stage_names:
        ledgers |= {("encode", model): runs.encode_ledger(root, plan, model) for model in models}
    marked = {key: ledger.done() for key, ledger in ledgers.items()}
    # Spectra that are ingested anew are encoded anew: the two stores never tell of different data.
    done = {key: indices & marked.get(("ingest", None), indices) for key, indices in marked.items()}
    chunks = plan.chunks()
    pending = [Task(*key, chunk) for chunk in chunks for key in ledgers if chunk.index not in done[key]]
    if "encode" in stage_names and "ingest" not in stage_names and pending:
        if not runs.ingest_ledger(root, plan).done():
            raise ConfigError("encode", root, "a ROOT whose spectra are ingested", "run ingest first")
    stale = [task for task in pending if task.chunk.index in marked[task.stage, task.model]]
    return _Job(root, plan, ledgers, pending, stale, len(chunks) * len(ledgers))


def pending_kinds(
    root: str, plan: Plan, stage_names: Sequence[str], models: Sequence[str]
) -> set[tuple[str, str | None]]:
    """Tell what kinds of tasks, as (stage, model), a run would have to do; empty when all is done."""
    return {(task.stage, task.model) for task in _pending(root, plan, stage_names, models).tasks}


def check_memory(plan: Plan, client: Client | None, tasks: Iterable[Task]) -> None:
    """Refuse a run whose tasks do not fit into the memory of the workers that are there. Raises ConfigError."""
    needed = memory_needed(plan, {(task.stage, task.model) for task in tasks})
    if client is None:
        _require_memory("this machine's memory", MEMORY_LIMIT, needed)
        return
    for address, info in client.scheduler_info(n_workers=-1)["workers"].items():
        if info["memory_limit"]:
            at_once = memory_at_once(needed, info["nthreads"])
            _require_memory(f"memory limit of worker {address}", info["memory_limit"], at_once)


def memory_needed(plan: Plan, kinds: Iterable[tuple[str, str | None]]) -> int:
    """Give the projected peak of the largest task among (stage, model) pairs, in bytes; 0 when there are none."""
    projections = (projected_memory(plan, stage, plan.model(model) if model else None) for stage, model in kinds)
    return max(projections, default=0)


def memory_at_once(needed: int, threads: int) -> int:
    """Give the projected peak of a process that does so many tasks of a projected peak at once, in bytes."""
    return RESERVED + threads * (needed - RESERVED) if needed else 0


def _require_memory(key: str, limit: int, needed: int) -> None:
    if needed > limit * MEMORY_FRACTION:
        raise ConfigError(
            key,
            f"{limit / 2**20:.0f} MiB",
            f"at least {needed / MEMORY_FRACTION / 2**20:.0f} MiB for this plan's chunks",
            "give workers more memory, or take fewer of them (--workers), or plan with a smaller --shard",
        )


def _check_source(job: _Job) -> None:
    """Refuse a source that has none of the first files looked for, so that a mistyped URL makes no empty survey."""
    pending = [task.chunk for task in job.tasks if task.model is None]
    if not pending:
        return
    if job.plan.config.cache is not None:
        storage.require_writable("cache", job.plan.config.cache)
    url = runs.targets_url(job.root)
    step = -(-len(pending) // PROBES)
    # Also rows of chunks that are done: the pending ones alone may all lack their files, and rightly so.
    done = _rows_with_files(job)[:PROBES]
    rows = [chunk.start for chunk in pending[::step]] + done
    probes = pd.concat([targets.read_rows(url, row, row + 1) for row in rows])
    archive = stages.archive_of(job.plan)
    archive.source.require_some(archive.paths(probes))


def _rows_with_files(job: _Job) -> list[int]:
    """First rows of the ingested chunks that found all their files, a few of them."""
    ledger = job.ledgers["ingest", None]
    records = [ledger.read(index) for index in sorted(ledger.done())[: 4 * PROBES]]
    return [record["start"] for record in records if not record["quality"].get("NO_FILE")]


def _check_targets(root: str, plan: Plan) -> None:
    """Refuse a targets table that is not the planned one: rows would carry the names of others."""
    url = runs.targets_url(root)
    try:
        found = targets_sha256(targets.read_rows(url, 0, plan.n_spectra))
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError("targets.parquet", url, "the table that was planned", f"restore it ({error})") from error
    if found != plan.targets_sha256:
        remedy = "restore the file, or plan again in another ROOT"
        raise ConfigError("targets.parquet", f"{url} ({found[:12]}...)", f"{plan.targets_sha256[:12]}...", remedy)


def _unmark_stale(job: _Job) -> None:
    """Remove the markers of encodings that are to be done again, since their spectra are."""
    for task in job.stale:
        job.ledgers[task.stage, task.model].unmark(task.chunk.index)


def create_stores(root: str, plan: Plan, kinds: Iterable[tuple[str, str | None]]) -> None:
    """Make the empty stores of (stage, model) pairs that are not there yet, before any task could write to them.

    Raises ConfigError for a store of another plan, and for one that its ledger contradicts.
    """
    for _, model_name in kinds:
        if model_name is None:
            url, ledger = dataset.spectra_url(root), runs.ingest_ledger(root, plan)
        else:
            url, ledger = dataset.encodings_url(root, model_name), runs.encode_ledger(root, plan, model_name)
        if _store_stands(url, ledger):
            continue
        logger.info("creating %s", url)
        ledger.mark_store({"checksums": dataset.create(url, *_template(root, plan, model_name))})


def _template(root: str, plan: Plan, model_name: str | None) -> tuple[xr.Dataset, schema.Encoding]:
    wavelength = worker.grid(plan.config.instrument).wavelength
    rows = targets.read_rows(runs.targets_url(root), 0, plan.n_spectra)
    if model_name is None:
        return schema.spectra_template(plan, rows, wavelength)
    config = plan.model(model_name)
    wave_rest = worker.inspect(config.checkpoint, plan.config.instrument, config.sha256).wave_rest
    return schema.encodings_template(plan, config, rows, wave_rest, wavelength)


def _store_stands(url: str, ledger: Ledger) -> bool:
    """Tell whether a stage's store is complete; refuse one that markers and data disagree about."""
    remedy = f"to make it anew, remove {url} and {ledger.folder}"
    try:
        fingerprint = dataset.open_dataset(url).attrs.get("fingerprint")
    except (FileNotFoundError, NotADirectoryError):
        fingerprint = None
    except (ValueError, KeyError):
        fingerprint = None if not ledger.store_created() else "unreadable"
    if ledger.store_created():
        if fingerprint != ledger.fingerprint:
            raise ConfigError("ROOT", url, "the store that its ledger tells of", remedy)
        return True
    if ledger.done():
        raise ConfigError("ROOT", ledger.folder, "a ledger with its store.json", remedy)
    if fingerprint not in (None, ledger.fingerprint):
        raise ConfigError("ROOT", url, "no store of another plan", f"choose another ROOT, or remove {url}")
    return False


def attempt(root: str, fingerprint: str, task: Task, quota: Quota, upstream: Outcome | None = None) -> Outcome:
    """Do one task, where it runs; never raises for a fault, so that no traceback travels or fills a worker's log.

    quota: what an ingest may ask of the source. upstream: the outcome of the ingest that an encoding waits for.
    """
    if upstream is not None and upstream.reason is not None:
        return Outcome(task, None, f"its spectra are missing, since their ingest failed: {upstream.reason}")
    worker.prepare()
    for number in range(1, ATTEMPTS + 1):
        try:
            return Outcome(task, _done_before(root, fingerprint, task) or _do(root, fingerprint, task, quota))
        except Exception as error:
            if number == ATTEMPTS or isinstance(error, _PERMANENT):
                logger.debug("%s failed", task, exc_info=True)
                return Outcome(task, None, _reason(error, number))
            logger.warning("%s: attempt %d failed: %s", task, number, _reason(error, number))
            time.sleep(2.0 ** (number - 1))
    raise AssertionError("unreachable: the last attempt returns")


def _done_before(root: str, fingerprint: str, task: Task) -> Record | None:
    """Look for the marker: a scheduler repeats a finished task when the worker that held its summary is lost."""
    try:
        return Ledger(root, task.stage, fingerprint, task.model).read(task.chunk.index)
    except (FileNotFoundError, ValueError):
        return None


def _do(root: str, fingerprint: str, task: Task, quota: Quota) -> Record:
    if task.model is None:
        with turn(quota) as share:
            return stages.ingest_chunk(root, fingerprint, task.chunk, share)
    return stages.encode_chunk(root, fingerprint, task.model, task.chunk)


def _reason(error: BaseException, attempts: int = 1) -> str:
    text = (str(error) or "no message").strip().splitlines()[0]
    name = "" if isinstance(error, (ConfigError, SourceError)) else f"{type(error).__name__}: "
    return f"{name}{text}" + (f" ({attempts} attempts)" if attempts > 1 else "")


def _serial(job: _Job) -> Iterator[Outcome]:
    """Do the tasks one after the other in this process."""
    ingested: dict[int, Outcome] = {}
    quota = divide(job.plan.config)
    with worker.prepared():
        for task in job.tasks:
            upstream = ingested.get(task.chunk.index) if task.model else None
            outcome = attempt(job.root, job.fingerprint(task), task, quota, upstream)
            if task.model is None:
                ingested[task.chunk.index] = outcome
            yield outcome


def _distributed(job: _Job, client: Client) -> Iterator[Outcome]:
    """Do the tasks on a cluster; a task whose worker dies is given to another by the scheduler."""
    futures = _submit(job, client)
    for future in as_completed(futures, loop=client.loop):  # type: ignore[no-untyped-call]
        task = futures[future]
        try:
            outcome = future.result()
            # Workers log where they run; here the client tells the same to who watches it.
            logger.info("%s: %s", task, outcome.record or outcome.reason)
            yield outcome
        except KilledWorker:
            reason = "worker processes died while they ran it, again and again: out of memory?"
            yield Outcome(task, None, reason)
        except Exception as error:  # whatever the scheduler says about the task, the others go on
            yield Outcome(task, None, _reason(error))


def _submit(job: _Job, client: Client) -> dict[Future[Outcome], Task]:
    workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    threads = sum(info["nthreads"] for info in workers.values())
    quota = divide(job.plan.config, at_once=max(1, min(threads, len(job.tasks))))
    has_gpu = any("GPU" in info.get("resources", {}) for info in workers.values())
    futures: dict[Future[Outcome], Task] = {}
    ingests: dict[int, Future[Outcome]] = {}
    for task in job.tasks:
        fingerprint = job.fingerprint(task)
        upstream = ingests.get(task.chunk.index) if task.model else None
        future = client.submit(
            attempt,
            job.root,
            fingerprint,
            task,
            quota,
            upstream,
            # A tuple: Dask takes tasks of one prefix for a group, and feeds large groups to workers bit by bit.
            key=(f"{task.stage}-{task.model or 'spectra'}-{fingerprint[:8]}-{job.root}", task.chunk.index),
            resources={"GPU": 1} if task.model and has_gpu else None,
            # Chunk by chunk: results of early chunks are complete while later ones have not begun.
            priority=-task.chunk.index,
        )
        futures[future] = task
        if task.model is None:
            ingests[task.chunk.index] = future
    return futures
