"""Pending chunks -> tasks -> outcomes: on Dask workers or in this process, recorded and reported as they come."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from distributed import Client, Future, KilledWorker
from distributed.comm.core import CommClosedError

from pipeline.archive.quota import Quota, divide
from pipeline.compute import preflight
from pipeline.compute.access import Access
from pipeline.compute.cluster import is_own
from pipeline.compute.job import Job
from pipeline.compute.stages.process import deterministic
from pipeline.compute.stages.tasks import Outcome, Task, attempt, reason_of
from pipeline.compute.workers.admission import Admission
from pipeline.compute.workers.scheduler import workers_of
from pipeline.compute.workers.watch import LOOK, Watch, lost
from pipeline.planning.memory import memory_needed
from pipeline.planning.stages import Kind
from pipeline.signals import check
from pipeline.store import clients, stores
from pipeline.store.ledger import Ledger

logger = logging.getLogger(__name__)

UNKNOWN = 8
"""Tasks that a cluster is taken to do at once, for sharing a rate of requests, as long as it has no workers."""


@dataclass(frozen=True)
class Summary:
    """How a run ended. total: chunks of its stages; done_before: those that earlier runs did; done: those done now."""

    total: int
    done_before: int
    done: int
    failed: tuple[Outcome, ...]
    seconds: float


class Progress(Protocol):
    """What a run reports while it goes on."""

    def start(self, total: int, done_before: int) -> None:
        """Announce the number of chunks, and of those that are done."""

    def advance(self, outcome: Outcome) -> None:
        """Tell of a task that has ended."""

    def say(self, text: str) -> None:
        """Tell of the run as a whole, such as that it waits for workers."""

    def close(self) -> None:
        """End the progress report."""


def run(
    job: Job,
    client: Client | None,
    progress: Progress,
    *,
    gpu: bool = False,
    kinds: Collection[str] | None = None,
    wait: float | None = preflight.PATIENCE,
    prepared: Callable[[], None] = lambda: None,
    accept_missing: bool = False,
) -> Summary:
    """Do a job, chunk by chunk, whatever fails on the way.

    client: of the cluster that does the work; None does it here. gpu: encode on workers that offer a GPU, or not at
    all. kinds: of workers that there will be, "CPU" and "GPU"; None: those that come decide (`Admission`). wait:
    seconds to wait for the first worker; None: no limit. prepared: is called when the stores stand; those that do not
    exist yet are made first. accept_missing: go on where most spectra have no file (`Access`). Encoding a chunk follows
    its ingest. A chunk that fails is recorded in the ledger with its reason and the others go on; the summary names it.
    Raises ConfigError for what can be refused before any work (see `preflight`), for workers that cannot do it, for a
    store of another plan and for an archive that has too little, ConnectionError when the cluster's scheduler is lost.
    """
    start = time.monotonic()
    access = Access(job, accept_missing)
    access.judge()
    witnesses: tuple[str, ...] = ()
    admission: Admission | None = None
    if job.tasks:
        if client is not None:
            needed = memory_needed(job.plan, job.kinds)
            admission = Admission(client, kinds, demanded=gpu, needed=needed, trusted=is_own(client))
            admission.open()
        witnesses = _prepare(job, client, gpu, wait)
        access.reopen()
        prepared()
    earlier = {kind: _earlier_failures(job, kind) for kind in job.ledgers}
    done = 0
    failed: list[Outcome] = []
    progress.start(job.total, job.done_before)
    try:
        if client is None or admission is None:
            outcomes = _serial(job, witnesses)
        else:
            at_once = sum(info["nthreads"] for info in workers_of(client).values()) or UNKNOWN
            quota = divide(job.plan.config, at_once=min(at_once, len(job.tasks)), witnesses=witnesses)
            outcomes = _distributed(_Cluster(job, client, quota, admission), progress, wait)
        for outcome in outcomes:
            if outcome.reason is not None:
                failed.append(outcome)
            else:
                done += 1
            kind = outcome.task.kind
            _keep(job.ledgers[kind], outcome, failed_before=outcome.task.shard.index in earlier[kind])
            progress.advance(outcome)
            access.add(outcome)
            check()
    finally:
        progress.close()
    failed.sort(key=lambda outcome: str(outcome.task))
    return Summary(job.total, job.done_before, done, tuple(failed), time.monotonic() - start)


def _prepare(job: Job, client: Client | None, gpu: bool, wait: float | None) -> tuple[str, ...]:
    """Refuse what can be refused now, and make the stores; return files that the source gave."""
    clients.require_writable(job.root)
    preflight.check_targets(job.root, job.plan)
    preflight.check_memory(job.plan, client, job.kinds)
    if any(model for _, model in job.kinds):
        preflight.check_devices(client, gpu, wait)
    shards = [task.shard for task in job.tasks if task.model is None]
    witnesses = preflight.check_source(job.root, job.plan, shards, job.ingested)
    stores.create(job.root, job.plan, job.ledgers)
    for ledger, index in job.again:
        ledger.unmark(index)
    for ledger, source, index in job.stale:
        if not source.marked(index):  # another run may have done both meanwhile
            ledger.unmark(index)
    return witnesses


def _earlier_failures(job: Job, kind: Kind) -> set[int]:
    """List the pending chunks that have failed before. Records of chunks that were done after all are removed.

    Such are left when a run ends between the failure of a chunk and the work of another run, or of a worker.
    """
    ledger = job.ledgers[kind]
    failures = ledger.failed()
    pending = {task.shard.index for task in job.tasks if task.kind == kind}
    for index in sorted(failures - pending):
        try:
            ledger.clear_failure(index)
        except OSError as error:
            logger.warning("%s: the record of a failure could not be removed: %s", kind, reason_of(error))
    return failures & pending


def _keep(ledger: Ledger, outcome: Outcome, failed_before: bool) -> None:
    """Keep the record of a failure, or remove that of an earlier one; a chunk's marker is its task's own work."""
    try:
        if outcome.reason is not None:
            ledger.fail(outcome.task.shard.index, {"reason": outcome.reason})
        elif failed_before:
            ledger.clear_failure(outcome.task.shard.index)
    except OSError as error:
        # The summary has the failure in any case, and the other chunks may still be done.
        logger.warning("%s: the record of its failure could not be written: %s", outcome.task, reason_of(error))


def _serial(job: Job, witnesses: tuple[str, ...]) -> Iterator[Outcome]:
    """Do the tasks one after the other in this process."""
    ended: dict[tuple[Kind, int] | None, Outcome] = {}
    quota = divide(job.plan.config, witnesses=witnesses)
    with deterministic():
        for task in job.tasks:
            ended[task.key] = attempt(job.root, job.fingerprint(task), task, quota, ended.get(task.source))
            yield ended[task.key]


@dataclass(frozen=True)
class _Cluster:
    """A job on a cluster: how its tasks are submitted."""

    job: Job
    client: Client
    quota: Quota
    admission: Admission

    def submit(self, task: Task, upstream: Future[Outcome] | Outcome | None, label: str = "") -> Future[Outcome]:
        fingerprint = self.job.fingerprint(task)
        place = self.admission.place(task.kind)
        name = "-".join(part for part in (place or task.stage, task.model or "spectra", fingerprint[:8], label) if part)
        return self.client.submit(
            attempt,
            self.job.root,
            fingerprint,
            task,
            self.quota,
            upstream,
            # A tuple: Dask takes tasks of one prefix for a group, and feeds large groups to workers bit by bit.
            key=(f"{name}-{self.job.root}", task.shard.index, task.shard.stop),
            resources={place: 1} if place else None,
            # Chunk by chunk: results of early chunks are complete while later ones have not begun.
            priority=-task.shard.index,
        )

    def submit_all(
        self, tasks: Iterable[Task], ended: Mapping[tuple[Kind, int] | None, Future[Outcome] | Outcome]
    ) -> dict[Future[Outcome], Task]:
        """Submit tasks. ended: outcomes of earlier ones, by their keys."""
        futures: dict[Future[Outcome], Task] = {}
        sources = dict(ended)
        for task in tasks:
            future = self.submit(task, sources.get(task.source))
            futures[future] = task
            sources[task.key] = future
        return futures


def _distributed(cluster: _Cluster, progress: Progress, wait: float | None) -> Iterator[Outcome]:
    """Do the tasks on a cluster; a task whose worker dies is given to another by the scheduler.

    After some such deaths the scheduler gives a task up. It may only have shared its worker with the one that kills
    workers: when all others have ended, those given up are tried once more, one at a time, to find out which.
    """
    job = cluster.job
    watch = Watch(cluster.client, cluster.admission, progress.say, wait)
    ended: dict[tuple[Kind, int] | None, Outcome] = {}
    given_up: list[Task] = []
    futures = cluster.submit_all(job.tasks, ended)
    for task, _, outcome in _as_completed(cluster, futures, watch, ended):
        if outcome is None:
            given_up.append(task)
            continue
        ended[task.key] = outcome
        yield outcome
    for task in sorted(given_up, key=job.tasks.index):
        upstream = ended.get(task.source)
        for _, future, found in _as_completed(cluster, {cluster.submit(task, upstream, "alone"): task}, watch, {}):
            ended[task.key] = found or Outcome(task, None, _killed_reason(future))
            yield ended[task.key]


def _outcome(task: Task, future: Future[Outcome]) -> Outcome | None:
    """Take a task's outcome from its future; None when workers died, or connections closed, while they did it.

    Raises TimeoutError when the worker that held the outcome is gone and the task has not been rerun yet.
    """
    try:
        outcome = future.result(timeout=LOOK)
    except KilledWorker:
        return None
    except CommClosedError as error:  # of the cluster's connections; tasks never raise one
        if future.status == "error":
            return None
        time.sleep(1.0)
        raise TimeoutError("a connection closed while the outcome came") from error
    except Exception as error:  # whatever the scheduler says about the task, the others go on
        if isinstance(error, TimeoutError) and future.status != "error":
            raise
        return Outcome(task, None, reason_of(error))
    # Workers log where they run; here the client shows the same to the user.
    logger.info("%s: %s", task, outcome.record or outcome.reason)
    return outcome


def _killed_reason(future: Future[Outcome]) -> str:
    """Say that a task killed its workers, or lost its connection, even when it was alone on them."""
    error = future.exception()  # type: ignore[no-untyped-call]
    if not isinstance(error, KilledWorker):
        return reason_of(error)
    deaths = 2 * (error.allowed_failures + 1)
    return (
        f"quarantined: {deaths} worker processes died while processing it, in the end without any other task"
        " beside it: probably it needs more memory than a worker has, or crashes in compiled code"
    )


def _as_completed(
    cluster: _Cluster,
    futures: dict[Future[Outcome], Task],
    watch: Watch,
    ended: Mapping[tuple[Kind, int] | None, Outcome],
) -> Iterator[tuple[Task, Future[Outcome], Outcome | None]]:
    """Yield tasks as they end, with their outcomes. ended: outcomes of those that have ended, by their keys.

    Raises ConnectionError when the scheduler is lost, and ConfigError when no worker comes (`Watch.look`).
    """
    news: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()

    def follow(submitted: Iterable[Future[Outcome]]) -> None:
        for future in submitted:
            future.add_done_callback(news.put)  # type: ignore[no-untyped-call]

    def look() -> None:
        check()
        if watch.look({task.kind for task in futures.values()}):
            # Workers of another kind have come. What runs goes on, and where it ends first, is found done.
            over = {future for future in futures if future.done()}  # type: ignore[no-untyped-call]
            known = dict(ended) | {futures[each].key: each for each in over}
            placed = {future: task for future, task in futures.items() if future not in over}
            for future in placed:
                future.release()  # type: ignore[no-untyped-call] # the scheduler forgets what nobody holds
                del futures[future]
            submitted = cluster.submit_all(placed.values(), known)
            futures.update(submitted)
            follow(submitted)

    follow(futures)
    if not workers_of(cluster.client):
        look()  # say at once that workers are waited for
    while futures:
        try:
            future = news.get(timeout=LOOK)
        except queue.Empty:
            look()
            continue
        if future not in futures:
            continue
        if future.status == "cancelled":
            raise lost(cluster.client)
        watch.note_end()
        if watch.due:  # also while tasks end: ingests may go on while no worker can encode
            look()
        while future in futures:
            try:
                outcome = _outcome(futures[future], future)
            except TimeoutError:
                look()
                continue
            yield futures.pop(future), future, outcome
