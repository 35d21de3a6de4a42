"""What a worker does before it gets work of a run: it looks whether it can do it, and offers what it will take.

This file is sent to workers as text (`admission`), for a worker that lacks this package, or runs under another Python,
is to say so: nothing here is imported from the package before it is known to be there.

A worker is given a task only where it offers the task's resource, and it offers that only after it has found its
environment right. So a worker that joins late, or comes back, never gets work that would kill it.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import logging
import socket
import sys

from distributed import Worker, WorkerPlugin

logger = logging.getLogger("pipeline.compute.workers.gate")


class Gate(WorkerPlugin):
    """Looks at a worker when it joins, reports what it found, and opens it for the tasks of a run.

    name: also the topic of its reports. versions: of packages, as far as they must agree, "" for any; of "python" and
    "pipeline", too. modules: that must be there. ingest, encode: the resources to offer, None to offer none. spared:
    whether workers with a GPU do not ingest; demanded: whether others do not encode. reserved, each: bytes of memory
    that a process needs, and that each task adds. filled: share of its limit that a worker may fill.
    """

    idempotent = False

    def __init__(
        self,
        name: str,
        *,
        versions: dict[str, str],
        modules: list[str],
        ingest: str | None,
        encode: str | None,
        spared: bool,
        demanded: bool,
        reserved: int,
        each: int,
        filled: float,
    ) -> None:
        self.name = name
        self.versions = versions
        self.modules = modules
        self.ingest = ingest
        self.encode = encode
        self.spared = spared
        self.demanded = demanded
        self.reserved = reserved
        self.each = each
        self.filled = filled
        self._opening: asyncio.Task[None] | None = None

    def setup(self, worker: Worker) -> None:
        """Look at the worker, on its event loop."""
        _stop_profiling(worker)
        if self.ingest is None and self.encode is None:
            return
        problem = self._problem()
        if problem:
            self._report(worker, "environment", problem)
            return
        self._report(worker, "", "")
        self._opening = asyncio.get_running_loop().create_task(self._open(worker))

    def teardown(self, worker: Worker) -> None:
        """Leave what is offered: other clients may count on it."""
        if self._opening is not None:
            self._opening.cancel()

    def _problem(self) -> str:
        """Say what is missing, or has another version; nothing where all is right."""
        missing = [name for name in self.modules if not _is_there(name)]
        if missing:
            return f"lacks {', '.join(missing)} (Python {sys.version.split()[0]} at {sys.executable})"
        others = []
        for name, wanted in self.versions.items():
            found = _version(name)
            if not f"{found}.".startswith(f"{wanted}."):
                others.append(f"{name} {found} instead of {wanted}")
        return f"has {', '.join(others)} (at {sys.executable})" if others else ""

    def _too_small(self, worker: Worker) -> str:
        limit = worker.memory_manager.memory_limit
        needed = self.reserved + worker.state.nthreads * self.each
        if not limit or not self.each or needed <= limit * self.filled:
            return ""
        return (
            f"has a memory limit of {limit / 2**20:.0f} MiB; this plan's chunks need at least"
            f" {needed / self.filled / 2**20:.0f} MiB with its {worker.state.nthreads} threads"
        )

    async def _open(self, worker: Worker) -> None:
        """Offer what the worker will take."""
        declared = worker.state.total_resources
        has_gpu = declared.get("GPU", 0) > 0
        try:
            small = self._too_small(worker)
            if small:
                self._report(worker, "memory", small)
                return
            if has_gpu and self.encode is not None:
                broken = await asyncio.to_thread(_device_problem)
                if broken:
                    self._report(worker, "gpu", f"offers a GPU, but cannot compute on one: {broken}")
                    return
            at_once = declared.get("CPU") or worker.state.nthreads
            offers: dict[str, float] = {}
            if self.ingest is not None and not (self.spared and has_gpu and not declared.get("CPU")):
                offers[self.ingest] = at_once
            if self.encode is not None and (has_gpu or not self.demanded):
                offers[self.encode] = declared["GPU"] if has_gpu else at_once
            await _offer(worker, offers)
        except Exception as error:
            logger.warning("the worker could not be opened for a run", exc_info=True)
            self._report(worker, "environment", f"cannot run this package: {type(error).__name__}: {error}")

    def _report(self, worker: Worker, kind: str, problem: str) -> None:
        found = {"worker": worker.contact_address or worker.address, "host": socket.gethostname()}
        worker.log_event(self.name, {**found, "name": str(worker.name), "kind": kind, "problem": problem})


async def _offer(worker: Worker, offers: dict[str, float]) -> None:
    """Have a worker offer resources, and the scheduler give it the tasks that wait for them."""
    new = {name: count for name, count in offers.items() if worker.state.total_resources.get(name) != count}
    if not new:
        return
    await worker.set_resources(**new)
    # The scheduler looks for work that a worker may do when the worker says that it runs.
    running = worker.status
    if running.name == "running":
        worker.status = type(running).paused
        worker.status = running


def _stop_profiling(worker: Worker) -> None:
    """Stop a worker from profiling its threads.

    Under Python 3.11 a thread that ends during profiling may stop the whole process (dask/distributed issue 8616). The
    shorter the threads' turns with the interpreter (`process.TURN`), the more likely that is.
    """
    if sys.version_info >= (3, 12):
        return
    callback = worker.periodic_callbacks.pop("profile", None)
    if callback is not None:
        callback.stop()


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(name: str) -> str:
    """Return a version, without what comes after "+", which names a build such as that for a GPU."""
    if name == "python":
        return sys.version.split()[0]
    if name == "pipeline":
        from pipeline.version import __version__

        return __version__
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "of no known version"


def _device_problem() -> str:
    from pipeline.compute.preflight import device_problem

    return device_problem()
