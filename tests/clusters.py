"""A Dask cluster of real processes on loopback, for tests that kill them: by their pids, never by name."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from distributed import Client, Scheduler, SpecCluster, Worker

START = 60.0  # seconds
_DASK = (sys.executable, "-m", "dask")


@dataclass
class Cluster:
    """A scheduler and worker processes, each with a nanny. folder: for their scratch files and output."""

    folder: Path
    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)

    def add_worker(self, *options: str, dask: tuple[str, ...] = _DASK) -> subprocess.Popen[bytes]:
        """Start one more worker with its nanny; gives the nanny's process. dask: the command, of any environment."""
        name = f"worker-{len(self.workers)}"
        arguments = ["worker", self.address, "--name", name, "--host", "127.0.0.1", "--nthreads", "4", "--no-dashboard"]
        arguments += ["--local-directory", str(self.folder / "scratch"), *options]
        self.workers.append(_start(self.folder / f"{name}.txt", arguments, self.environment, dask))
        return self.workers[-1]

    def output(self) -> str:
        """What all of its processes have printed."""
        return "\n".join(file.read_text(errors="replace") for file in sorted(self.folder.glob("*.txt")))


def children(pid: int) -> list[psutil.Process]:
    """Find the processes that do a nanny's or a client's work."""
    try:
        found = psutil.Process(pid).children(recursive=True)
        return [child for child in found if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def free_port() -> int:
    """Find a port of the loopback that nobody uses, and that nobody who takes any port is given."""
    while True:
        port = random.randrange(10000, 32768)
        with socket.socket() as free:
            if free.connect_ex(("127.0.0.1", port)) != 0:
                return port


@contextmanager
def start(folder: Path, workers: int = 2, port: int = 0, **environment: str) -> Iterator[Cluster]:
    """Run a scheduler and workers; port: default any; environment: further variables for all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "scheduler.json"
    known.unlink(missing_ok=True)  # that of a scheduler that was killed
    arguments = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--scheduler-file", str(known)]
    arguments += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    scheduler = _start(folder / "scheduler.txt", arguments, environment)
    cluster = Cluster(folder, "", scheduler, environment=environment)
    try:
        cluster.address = _await(known, scheduler, folder / "scheduler.txt")
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
    finally:
        for process in (*cluster.workers, scheduler):
            _stop(process)


def _start(
    output: Path, arguments: list[str], environment: Mapping[str, str], dask: tuple[str, ...] = _DASK
) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [*dask, *arguments], stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
        )


def _await(known: Path, process: subprocess.Popen[bytes], output: Path) -> str:
    """Wait until a scheduler says where it listens: what answers at a port may be somebody else."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return str(json.loads(known.read_text())["address"])
        except (OSError, ValueError):  # not there, or not written to its end
            time.sleep(0.1)
    raise RuntimeError(f"the scheduler does not answer: {output.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all its children: a nanny that is killed leaves its worker behind."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    process.wait()
    for child in family:
        if child.is_running():
            child.kill()


@contextmanager
def in_process(threads: int = 4) -> Iterator[Client]:
    """Run a scheduler and one worker in threads of this process, without a port that others know; give a client."""
    scheduler = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    worker = {"host": "127.0.0.1", "nthreads": threads, "dashboard": False}
    with (
        SpecCluster(  # type: ignore[no-untyped-call]
            scheduler={"cls": Scheduler, "options": scheduler},
            workers={0: {"cls": Worker, "options": worker}},
            silence_logs=False,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        yield client
