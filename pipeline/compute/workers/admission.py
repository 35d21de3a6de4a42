"""Which workers may do what: each is looked at before it gets work, and does what its kind is there for.

There are two kinds of workers: those that offer the resource GPU encode, the others ingest. Where only one kind is
there, it does both. One that offers both CPU and GPU counts as either.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from distributed import Client, WorkerPlugin

from pipeline.compute.workers import gate
from pipeline.compute.workers.scheduler import Workers, events_of, give_to_workers, workers_of
from pipeline.errors import RefusedError
from pipeline.planning.memory import MEMORY_FRACTION, RESERVED
from pipeline.planning.stages import Kind
from pipeline.version import __version__

CPU, GPU = KINDS = ("CPU", "GPU")

ANSWER = 20.0
"""Seconds for the workers that are there to say whether they can do the run's work."""

# What must be the same as here, and up to which part of the version: Dask's processes of two versions may not
# understand each other; of the others a new minor version may bring other numbers, or files that the other cannot read.
_SAME = {"python": 2, "pipeline": 9, "dask": 9, "distributed": 9, "numpy": 2, "torch": 2, "zarr": 2}
_NEEDED = ("pipeline", "spender_core", "numpy", "torch", "zarr", "xarray", "pandas", "pyarrow", "astropy", "fsspec")


@dataclass(frozen=True)
class Roles:
    """Who does what. encode_on_gpu: only workers with a GPU encode. ingest_off_gpu: they do not ingest."""

    encode_on_gpu: bool = False
    ingest_off_gpu: bool = False

    @classmethod
    def of(cls, kinds: Collection[str], demanded: bool = False) -> Roles:
        """Return the roles in a cluster of these kinds of workers. demanded: a GPU is required to encode."""
        all_kinds = {*kinds, GPU} if demanded else set(kinds)
        return cls(encode_on_gpu=GPU in all_kinds, ingest_off_gpu={CPU, GPU} <= all_kinds)


@dataclass(frozen=True)
class Denied:
    """Why a worker gets no work. kind: "environment", "memory" or "gpu"."""

    worker: str
    host: str
    name: str
    kind: str
    problem: str

    def __str__(self) -> str:
        return f"the worker {self.name} on {self.host} ({self.worker}) {self.problem}"

    @property
    def remedy(self) -> str:
        """Say what to do."""
        if self.kind == "gpu":
            return "fix its image or driver; or set SPENDER_DEVICE=cpu there, to encode on the CPU"
        if self.kind == "memory":
            return "give workers more memory or fewer threads, or plan with a smaller --shard"
        return (
            "start workers in the environment of this command, or install the same versions there:"
            f" pip install spender-pipeline=={__version__} with the same constraints.txt"
        )


class Admission:
    """Sees to it that every worker of a cluster, there or to come, is looked at, and offers what it may do.

    kinds: of workers that there will be, "CPU" and "GPU"; None: those that have come, and those that come later change
    who does what. demanded: a GPU is required to encode. needed: memory of a task, in bytes; 0 for none. trusted: the
    workers are this process's own: they need no look, and take any task where none of them has a GPU.
    """

    def __init__(
        self,
        client: Client,
        kinds: Collection[str] | None = None,
        *,
        demanded: bool = False,
        needed: int = 0,
        trusted: bool = False,
    ) -> None:
        self._client = client
        self._said = None if kinds is None else frozenset(kinds)
        self._seen: set[str] = set()
        self._demanded = demanded
        self._needed = needed
        self._trusted = trusted
        self._topic = ""
        self.roles = Roles()
        self.denied: dict[str, Denied] = {}

    def open(self) -> None:
        """Look at the workers that are there, and have those to come looked at.

        Raises RefusedError for one whose environment is another, and names it.
        """
        workers = workers_of(self._client)
        self._seen |= kinds_of(workers)
        self.roles = Roles.of(self._kinds, self._demanded)
        self._put_up()
        if not self._gated:
            return
        deadline = time.monotonic() + ANSWER
        while time.monotonic() < deadline:
            answered = self._answers()
            for denied in self.denied.values():
                if denied.kind == "environment":
                    raise RefusedError("workers", str(denied), denied.remedy)
            if set(workers) & set(workers_of(self._client)) <= answered:
                return
            time.sleep(0.1)

    def look(self, workers: Workers) -> list[Denied]:
        """Return the workers that have come and get no work, each once."""
        if not self._gated:
            return []
        before = set(self.denied)
        if any(self._is_closed(info) for info in workers.values()):
            self._answers()
        self.denied = {address: denied for address, denied in self.denied.items() if address in workers}
        return [denied for address, denied in self.denied.items() if address not in before]

    def has_changed(self, workers: Workers) -> bool:
        """Say whether workers of another kind have come, so that tasks are to be placed again.

        What roles workers have, stays as it is where the kinds were said.
        """
        self._seen |= kinds_of(workers)
        roles = Roles.of(self._kinds, self._demanded)
        if self._said is not None or roles == self.roles:
            return False
        self.roles = roles
        self._put_up()
        return True

    def place(self, kind: Kind) -> str | None:
        """Return the resource that tasks of a kind ask for; None where any worker may do them."""
        stage = "ingest" if kind[0] == "ingest" else "encode"  # who may encode may also take densities
        return f"spender-{stage}-{self._topic[-8:]}" if self._gated else None

    def missing(self, kind: Kind, workers: Workers) -> str:
        """Say why none of these workers can do tasks of a kind."""
        for denied in self.denied.values():
            return f"no worker can {kind[0]}: {denied}; {denied.remedy}"
        there = kinds_of(workers)
        if kind[0] != "ingest" and self.roles.encode_on_gpu and GPU not in there:
            return f"none of the workers offers the resource {GPU}, needed to {kind[0]}"
        if kind[0] == "ingest" and self.roles.ingest_off_gpu and CPU not in there:
            return f"all workers offer the resource {GPU}, and those do not ingest here"
        return f"no worker has said yet whether it can {kind[0]}"

    @property
    def _kinds(self) -> frozenset[str]:
        return frozenset(self._seen) if self._said is None else self._said

    @property
    def _gated(self) -> bool:
        return not self._trusted or GPU in self._seen

    def _is_closed(self, info: dict[str, Any]) -> bool:
        offered = info.get("resources", {})
        return not any(self.place((stage, None)) in offered for stage in ("ingest", "encode"))

    def _put_up(self) -> None:
        """Have the scheduler give the gate to all workers; see `gate`."""
        settings: dict[str, Any] = {
            "versions": _versions(),
            "modules": list(_NEEDED),
            "spared": self.roles.ingest_off_gpu,
            "demanded": self.roles.encode_on_gpu,
            "reserved": RESERVED,
            "each": max(0, self._needed - RESERVED),
            "filled": MEMORY_FRACTION,
        }
        # Two runs of the same settings share their gate; others do not touch it.
        self._topic = f"spender-pipeline-gate-{hashlib.sha256(repr(settings).encode()).hexdigest()[:8]}"
        settings |= {stage: self.place((stage, None)) for stage in ("ingest", "encode")}
        give_to_workers(self._client, _Sent(self._topic, settings), self._topic)

    def _answers(self) -> set[str]:
        """Take what the workers have reported, and return the addresses of those that have."""
        answered = set()
        for report in events_of(self._client, self._topic):
            answered.add(report["worker"])
            self.denied.pop(report["worker"], None)
            if report["problem"]:
                self.denied[report["worker"]] = Denied(**report)
        return answered


class _Sent(WorkerPlugin):
    """The gate on its way to a worker: text, which any Python reads, and which needs nothing of this package."""

    idempotent = False

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self._settings = settings

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        space = {"__name__": "spender_pipeline_gate"}
        made = f"space['Gate']({self.name!r}, **{self._settings!r})"
        return eval, (f"(lambda space: exec({inspect.getsource(gate)!r}, space) or {made})({space!r})",)


def kinds_of(workers: Workers) -> set[str]:
    """Return the kinds of some workers."""
    found = set()
    for info in workers.values():
        offered = info.get("resources", {})
        found |= {kind for kind in KINDS if offered.get(kind)} or {CPU}
    return found


def _versions() -> dict[str, str]:
    """Return the versions of this process, as far as workers must have them, too."""
    found = {"python": sys.version.split()[0], "pipeline": __version__}
    for name in _SAME:
        if name not in found:
            found[name] = importlib.metadata.version(name).split("+")[0]
    return {name: ".".join(found[name].split(".")[:parts]) for name, parts in _SAME.items()}
