"""Where tasks run: worker processes on this machine, a Dask scheduler by its address, or this very process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import dask.config
import torch
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.core import connect as open_comm
from distributed.security import Security
from distributed.system import MEMORY_LIMIT
from distributed.versions import VersionMismatchWarning

from pipeline.compute.job import Job
from pipeline.errors import ConfigError
from pipeline.planning.memory import MEMORY_FRACTION, memory_at_once, memory_needed
from pipeline.signals import held

CONNECT_TIMEOUT = 20.0
"""Seconds to wait for a scheduler to answer; one that is up does so in well under one."""

THREADS = 2
"""Tasks at once in a local worker process, memory permitting: while one computes, the next is read or the last written.
Computing itself is one at a time (`process.compute_lock`)."""

GPU_THREADS = 3
"""The same where this machine has a GPU, which waits for reading and writing (benchmarks/RESULTS.md, "Around the
model")."""

# Worker processes come up with one thread per operation: tasks run side by side, and sums do not depend on the machine.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

_SCHEDULER_OPTIONS = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}

_TLS_REMEDY = (
    "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ...__TLS__CLIENT__CERT and ...__TLS__CLIENT__KEY to the cluster's files"
)

_LOCAL_SETTINGS = {
    "distributed.worker.profile.enabled": False,
    # A replaced worker process may take longer than Dask's 15 s to come up on a busy machine: it is not lost.
    "distributed.deploy.lost-worker-timeout": "5 minutes",
    # An unresponsive worker is checked at this interval, and given up at the second check.
    "distributed.scheduler.worker-ttl": "2 minutes",
    # A task that has killed this many more workers is set aside, and retried alone when all others have ended.
    "distributed.scheduler.allowed-failures": 1,
    # Without any worker left, fail the chunks rather than wait for ever.
    "distributed.scheduler.no-workers-timeout": "2 minutes",
}

# Dask reports at these names what the executor handles and reports itself: restarts, lost connections.
_NOISY = ("distributed", "tornado", "asyncio", "bokeh")


class OwnCluster(SpecCluster):
    """The worker processes that a run starts on this machine, in this process's own environment."""


def is_own(client: Client) -> bool:
    """Say whether a client's workers are a run's own, on this machine."""
    return isinstance(client.cluster, OwnCluster)


def grows(client: Client) -> bool:
    """Say whether a cluster gets workers by itself: it is adaptive, or has asked a queue for workers that are to come.

    A cluster of which only the scheduler's address is known does not say so. A dask-gateway's is scaled by its server.
    """
    cluster = client.cluster
    if cluster is None or isinstance(cluster, OwnCluster):
        return False
    if type(cluster).__module__.partition(".")[0] == "dask_gateway" or getattr(cluster, "_adaptive", None) is not None:
        return True
    return bool(set(getattr(cluster, "plan", ())) - set(getattr(cluster, "observed", ())))


@contextmanager
def place_of_work(
    job: Job,
    *,
    client: Client | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    serial: bool = False,
    memory_limit: str | int | None = None,
    wait: float | None = None,
) -> Iterator[Client | None]:
    """Yield the client of the cluster that is to do a job, sized for it; None for work in this process.

    client: the caller's own, which stays open; others as in `connect`. Nothing is started where nothing is pending.
    """
    if client is not None:
        if (workers, scheduler, memory_limit, serial) != (None, None, None, False):
            raise ConfigError("client", client, "no workers=, scheduler=, memory_limit= or serial= with it")
        if not isinstance(client, Client):
            raise ConfigError("client", client, "a Dask client", "give an address as scheduler=ADDRESS")
        if client.asynchronous:
            raise ConfigError("client", client, "a client that is not asynchronous", "make one with Client(address)")
        yield client
        return
    _require_one_place(workers, scheduler, serial)
    needed = memory_needed(job.plan, job.kinds)
    serial = serial or not job.tasks
    with connect(
        workers=None if serial else workers,
        scheduler=None if serial else scheduler,
        serial=serial,
        memory_limit=memory_limit,
        memory_needed=int(needed / MEMORY_FRACTION),
        memory_to_overlap=int(memory_at_once(needed, _threads()) / MEMORY_FRACTION),
        wait=wait,
    ) as connected:
        yield connected


@contextmanager
def connect(
    workers: int | None = None,
    scheduler: str | None = None,
    serial: bool = False,
    memory_limit: str | int | None = None,
    memory_needed: int = 0,
    memory_to_overlap: int = 0,
    wait: float | None = None,
) -> Iterator[Client | None]:
    """Yield a client of a local cluster or of a scheduler that is running elsewhere, or None for in-process work.

    workers: processes on this machine; default as many as cores and `memory_needed` (bytes per process) allow. Each has
    one thread, or THREADS (GPU_THREADS with a GPU) where its memory is at least `memory_to_overlap`. memory_limit:
    bytes per local worker, or text such as "4 GB"; default an equal share of the machine's memory. scheduler: address
    such as tcp://host:8786; it is used as it is and left running. wait: seconds for it to answer; default
    CONNECT_TIMEOUT. Raises ConfigError for settings that contradict each other, and for a scheduler that does not
    answer.
    """
    _require_one_place(workers, scheduler, serial)
    if serial:
        yield None
    elif scheduler is not None:
        with _quiet(), _remote(scheduler, wait) as client:
            yield client
    else:
        count = _worker_count(workers, memory_needed)
        limit = _memory_limit(memory_limit, count)
        threads = _threads() if limit >= memory_to_overlap else 1
        with _quiet(), _local(count, threads, limit) as client:
            yield client


def _threads() -> int:
    return GPU_THREADS if torch.cuda.is_available() else THREADS


def _require_one_place(workers: int | None, scheduler: str | None, serial: bool) -> None:
    if sum((workers is not None, scheduler is not None, serial)) > 1:
        raise ConfigError(
            "the place to run",
            "given more than once",
            "at most one of --workers, --scheduler and --serial",
        )


def _worker_count(workers: int | None, memory_needed: int) -> int:
    if workers is None:
        fitting = MEMORY_LIMIT // memory_needed if memory_needed else CPU_COUNT
        return max(1, min(CPU_COUNT, fitting))
    if workers < 1:
        raise ConfigError("--workers", workers, "at least 1", "--serial runs without worker processes")
    return workers


def _memory_limit(memory_limit: str | int | None, workers: int) -> int:
    if memory_limit is None:
        return int(MEMORY_LIMIT // workers)
    try:
        limit = int(parse_bytes(memory_limit))
    except ValueError as error:
        raise ConfigError("--memory-limit", memory_limit, "a size such as '4 GB'") from error
    if limit < 1:
        raise ConfigError("--memory-limit", memory_limit, "a size above zero")
    return limit


@contextmanager
def _local(workers: int, threads: int, memory_limit: int) -> Iterator[Client]:
    cluster = None
    with _scratch() as scratch, dask.config.set({**_LOCAL_SETTINGS, "temporary-directory": scratch}):
        try:
            # Whoever else is on this machine reaches the loopback too, and a scheduler runs what it is sent: a key
            # that this process alone holds, and hands to its workers, keeps them out. It costs a tenth of a second.
            security = Security.temporary()  # type: ignore[no-untyped-call]
            # If interrupted half-way, a cluster would only close at interpreter exit, with a lot of log output.
            with held(), _inherited_by_workers():
                specs = _worker_specs(workers, threads, memory_limit, torch.cuda.device_count(), security)
                cluster = OwnCluster(  # type: ignore[no-untyped-call]
                    scheduler={"cls": Scheduler, "options": {**_SCHEDULER_OPTIONS, **_encrypted(security)}},
                    workers=specs,
                    security=security,
                    silence_logs=logging.CRITICAL,
                )
            with Client(cluster, timeout=CONNECT_TIMEOUT, set_as_default=False) as client:  # type: ignore[no-untyped-call]
                yield client
        finally:
            if cluster is not None:
                with held():
                    cluster.close()


@contextmanager
def _scratch() -> Iterator[str]:
    """Yield a folder that belongs to this user alone: workers unpickle the files they spill there.

    Dask's own, /tmp/dask-scratch-space, belongs to whoever was first to make it.
    """
    parent = dask.config.get("temporary-directory") or tempfile.gettempdir()
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spender-pipeline-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield folder


def _encrypted(security: Security) -> dict[str, Any]:
    return {"protocol": "tls://", "security": security}


def _worker_specs(
    workers: int, threads: int, memory_limit: int, gpus: int, security: Security
) -> dict[int, dict[str, Any]]:
    """Describe each worker process: with GPUs, there is one worker per GPU, which offers it as the resource "GPU".

    It offers one unit per concurrent task, and each task asks for one unit: tasks take turns to compute.
    """
    specs: dict[int, dict[str, Any]] = {}
    for number in range(max(workers, gpus)):
        options: dict[str, Any] = {
            "host": "127.0.0.1",
            "nthreads": threads,
            "memory_limit": memory_limit,
            "dashboard": False,
            "silence_logs": logging.CRITICAL,
            **_encrypted(security),
        }
        if gpus:
            options["env"] = {"CUDA_VISIBLE_DEVICES": str(number) if number < gpus else ""}
            options["resources"] = {"GPU": threads} if number < gpus else {}
        specs[number] = {"cls": Nanny, "options": options}
    return specs


@contextmanager
def _inherited_by_workers() -> Iterator[None]:
    """Set what worker processes, and those that replace them, inherit from the thread that starts them.

    The environment: Dask lets the caller's OMP_NUM_THREADS win over its own setting, so it is set here. SIGINT is
    blocked: Ctrl-C at a terminal reaches every process of the group, but only the client is to answer it.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    # Started now: when it starts later, in the thread that starts workers, it unblocks SIGINT there.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _remote(address: str, wait: float | None) -> Iterator[Client]:
    expected = "the address of a running Dask scheduler, such as tcp://host:8786"
    try:
        # Looked at first: a client that never got an address waits 40 s when it is thrown away, and one that talks to
        # something else than a scheduler may wait for ever.
        parse_host_port(parse_address(address)[1])
        with ThreadPoolExecutor(1) as pool:  # a caller in a notebook has its own running loop
            found = pool.submit(asyncio.run, _ask_what_it_is(address, wait or CONNECT_TIMEOUT)).result()
        if found != "Scheduler":
            raise ConfigError(
                "--scheduler", address, expected, f"a {found} answers there: give its scheduler's address"
            )
        with warnings.catch_warnings():
            # A table of what differs; what matters of it is said of each worker (`workers.admission`).
            warnings.simplefilter("ignore", VersionMismatchWarning)
            client = Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)  # type: ignore[no-untyped-call]
    except ConfigError:
        raise
    except (OSError, ValueError, ImportError, TypeError, MemoryError) as error:  # TypeError: ucx:// without its library
        reason = (
            str(error) if isinstance(error, ValueError) else f"no Dask scheduler answered: {_first_line(error, wait)}"
        )
        if isinstance(_root(error), ssl.SSLError):
            remedy = f"its TLS certificate and ours do not match; {_TLS_REMEDY}"
        else:
            remedy = "start one with: dask scheduler; with TLS certificates its address begins with tls://"
        raise ConfigError("--scheduler", address, expected, f"{reason}; {remedy}") from error
    with client:
        yield client


async def _ask_what_it_is(address: str, timeout: float) -> str:
    """Ask what listens at an address for its kind: "Scheduler", "Worker" or "Nanny".

    Fails with ConfigError where certificates are missing, with OSError, ValueError, ImportError or MemoryError.
    """
    arguments = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    if parse_address(address)[0] == "tls" and arguments["ssl_context"] is None:
        expected = "TLS certificates for a scheduler that uses TLS"
        raise ConfigError("--scheduler", address, expected, f"{_TLS_REMEDY}")

    async def ask() -> str:
        comm = await open_comm(address, timeout=timeout, **arguments)  # type: ignore[no-untyped-call]
        try:
            await comm.write({"op": "identity", "reply": True})
            return str((await comm.read())["type"])
        finally:
            comm.abort()

    return await asyncio.wait_for(ask(), timeout)


def _root(error: BaseException) -> BaseException:
    """Return the root cause of a fault."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


def _first_line(error: BaseException, wait: float | None) -> str:
    return (str(error) or f"nothing within {wait or CONNECT_TIMEOUT:.0f} s").splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log lines off a user's terminal."""
    # Dask's configuration gives some children, such as distributed.client, their own level.
    names = {name for name in logging.root.manager.loggerDict if name.split(".")[0] in _NOISY} | set(_NOISY)
    loggers = [logging.getLogger(name) for name in sorted(names)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
