"""A run as a discrete-event simulation: chunks, workers, an archive, a bucket, processors and GPUs.

A chunk is ingested, then encoded; each worker does so many tasks at once, those of the lowest chunks first, computes
one at a time, and reads or writes another meanwhile. Ingesting keeps so many requests in flight, and prepares files as
they come, one at a time in a process. What is not here: faults, and the time until the first worker is there.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

Events = Generator[simpy.Event, Any, None]
BATCH = 64  # spectra that are computed at once
SLICES = 4  # a window of requests is asked for in so many parts


@dataclass(frozen=True)
class Constants:
    """What a spectrum takes: seconds of one core, where nothing else is said; see `simulate.measured`.

    ingest: from its file in memory to the store. encode: from there to its encoding, written. around: the part of
    `encode` that a GPU leaves to the core. gpu: seconds of a GPU. task: seconds of a task, whatever its size. latency:
    of a request. spectrum, encoding: bytes in either store. crowded: how much longer encoding takes while all other
    cores encode too. beside: how much longer encoding takes while the same process prepares files, which keep its
    interpreter.
    """

    ingest: float
    encode: float
    around: float
    gpu: float
    task: float
    latency: float
    spectrum: float
    encoding: float
    crowded: float
    beside: float


@dataclass(frozen=True)
class Machine:
    """What a run has.

    cores: of the whole. workers: processes, and how many tasks each does at once. gpus: workers with a GPU, which
    encode and nothing else; without any, all workers do both. files: that the archive gives per second. slots: ingests
    that may fetch at once, each with so many requests in flight, and its part of the limit of requests per second.
    bytes: that the bucket takes and gives per second. lifetime: mean seconds until a worker is taken away; back:
    seconds until another is there.
    """

    cores: int
    workers: int
    threads: int = 2
    gpus: int = 0
    files: float = float("inf")
    limit: float = float("inf")
    slots: int = 4
    in_flight: int = 64
    bytes: float = float("inf")
    lifetime: float = float("inf")
    back: float = 120.0


class Line:
    """Something that serves one after the other, so much per second: an archive's files, a bucket's bytes."""

    def __init__(self, env: simpy.Environment, per_second: float) -> None:
        self._env, self._per_second, self._free = env, per_second, 0.0

    def take(self, amount: float) -> simpy.Event:
        """Return an event: when so much has been served."""
        self._free = max(self._env.now, self._free) + amount / self._per_second
        return self._env.timeout(self._free - self._env.now)


class Cores:
    """Cores shared by whoever computes: each has one, or an equal part of all where they are fewer."""

    def __init__(self, env: simpy.Environment, count: int) -> None:
        self._env, self._count = env, count
        self._passed, self._now = 0.0, 0.0  # seconds of work that each has got so far, and when that was
        self._ends: list[tuple[float, int, simpy.Event]] = []
        self._order, self._turn = itertools.count(), 0

    def work(self, seconds: float) -> simpy.Event:
        """Return an event: when so many seconds of one core have been got."""
        self._pass()
        done = self._env.event()
        heapq.heappush(self._ends, (self._passed + seconds, next(self._order), done))
        self._wake()
        return done

    def withdraw(self, work: simpy.Event) -> None:
        """Give up some work: whoever had asked for it is gone."""
        self._pass()
        self._ends = [each for each in self._ends if each[2] is not work]
        heapq.heapify(self._ends)
        self._wake()

    def _speed(self) -> float:
        return min(1.0, self._count / len(self._ends))

    def _pass(self) -> None:
        if self._ends:
            self._passed += (self._env.now - self._now) * self._speed()
        self._now = self._env.now

    def _wake(self) -> None:
        self._turn += 1
        if self._ends:
            self._env.process(self._end((self._ends[0][0] - self._passed) / self._speed(), self._turn))

    def _end(self, wait: float, turn: int) -> Events:
        yield self._env.timeout(max(0.0, wait))
        if turn != self._turn:
            return
        self._pass()
        while self._ends and self._ends[0][0] <= self._passed + 1e-9:
            heapq.heappop(self._ends)[2].succeed()
        self._wake()


@dataclass
class Worker:
    """A process: its compute lock, its interpreter, which prepares files one by one, and whether a GPU computes."""

    lock: simpy.Resource
    interpreter: simpy.Resource
    has_gpu: bool


class Run:
    """A run of so many spectra in chunks on a machine."""

    def __init__(self, machine: Machine, constants: Constants, spectra: int, chunk: int) -> None:
        self.machine, self.constants = machine, constants
        self.env = simpy.Environment()
        self.archive, self.bucket = Line(self.env, machine.files), Line(self.env, machine.bytes)
        self.slots = simpy.Resource(self.env, machine.slots)
        self.cores = Cores(self.env, machine.cores)
        self.sizes = [min(chunk, spectra - start) for start in range(0, spectra, chunk)]
        self.left = len(self.sizes)
        self.ended = self.env.event()
        self.busy = 0.0  # seconds of GPUs
        self.encoding = 0  # how many workers encode by themselves
        # One queue of all tasks, and those with a GPU see encodings alone.
        self.tasks = simpy.FilterStore(self.env)
        for index in range(len(self.sizes)):
            self.tasks.put((index, "ingest"))

    def seconds(self, seed: int = 0) -> float:
        """Return how long it takes. seed: of when workers are taken away."""
        chance = random.Random(seed)
        for number in range(self.machine.workers + self.machine.gpus):
            has_gpu = number >= self.machine.workers
            self.env.process(self._lives(has_gpu, chance))
        self.env.run(self.ended)
        return float(self.env.now)

    def _lives(self, has_gpu: bool, chance: random.Random) -> Events:
        """Let a worker do tasks until it is taken away, and put another in its place."""
        while True:
            worker = Worker(simpy.Resource(self.env), simpy.Resource(self.env), has_gpu)
            threads = [self.env.process(self._works(worker)) for _ in range(self.machine.threads)]
            if self.machine.lifetime == float("inf"):
                return
            yield self.env.timeout(chance.expovariate(1 / self.machine.lifetime))
            for thread in threads:
                thread.interrupt()
            yield self.env.timeout(self.machine.back)

    def _computes(self, seconds: float) -> Events:
        work = self.cores.work(seconds)
        try:
            yield work
        except simpy.Interrupt:
            self.cores.withdraw(work)
            raise

    def _wanted(self, worker: Worker) -> list[str]:
        if not self.machine.gpus:
            return ["encode", "ingest"]
        return ["encode"] if worker.has_gpu else ["ingest"]

    def _works(self, worker: Worker) -> Events:
        """Do one task after the other; what is not done when the worker is taken away is another's."""
        wanted = self._wanted(worker)
        while True:
            asked = self._next(wanted)
            task = None
            try:
                task = yield asked
                yield from self._does(task, worker)
            except simpy.Interrupt:
                if task is None and not asked.triggered:
                    asked.cancel()
                else:
                    self.tasks.put(asked.value)
                return

    def _next(self, wanted: list[str]) -> simpy.resources.store.FilterStoreGet:
        """Ask for the task of the lowest chunk; an encoding of it is there only when its ingest is done."""
        self.tasks.items.sort()
        return self.tasks.get(lambda task: task[1] in wanted)

    def _does(self, task: tuple[int, str], worker: Worker) -> Events:
        index, stage = task
        yield from self._computes(self.constants.task)
        if stage == "ingest":
            yield from self._ingests(self.sizes[index], worker)
            yield self.tasks.put((index, "encode"))
            return
        yield from self._encodes(self.sizes[index], worker)
        self.left -= 1
        if not self.left:
            self.ended.succeed()

    def _ingests(self, n: int, worker: Worker) -> Events:
        """Fetch with so many requests in flight, prepare what has come, and write all."""
        with self.slots.request() as slot:
            yield slot
            size = max(1, self.machine.in_flight // SLICES)
            window, came = simpy.Resource(self.env, SLICES), simpy.Store(self.env)
            slices = [min(size, n - start) for start in range(0, n, size)]
            own = Line(self.env, self.machine.limit / self.machine.slots)
            asks = self.env.process(self._asks(slices, own, window, came))
            try:
                for _ in slices:
                    files, place = yield came.get()
                    with worker.interpreter.request() as mine:
                        yield mine
                        yield from self._computes(files * self.constants.ingest)
                    window.release(place)
            finally:
                if asks.is_alive:
                    asks.interrupt()
        yield self.bucket.take(n * self.constants.spectrum)

    def _asks(self, slices: list[int], own: Line, window: simpy.Resource, came: simpy.Store) -> Events:
        try:
            for files in slices:
                place = window.request()
                yield place
                yield own.take(files)
                yield self.archive.take(files)
                self.env.process(self._comes(files, place, came))
        except simpy.Interrupt:
            return

    def _comes(self, files: int, place: simpy.Event, came: simpy.Store) -> Events:
        yield self.env.timeout(self.constants.latency)
        yield came.put((files, place))

    def _encodes(self, n: int, worker: Worker) -> Events:
        """Read; compute, when no other task of the worker does; write."""
        per = self.constants
        yield self.bucket.take(n * per.spectrum)
        if worker.has_gpu:
            yield from self._computes(n * per.around / 2)
        with worker.lock.request() as mine:
            yield mine
            if worker.has_gpu:
                self.busy += n * per.gpu
                yield self.env.timeout(n * per.gpu)
            else:
                yield from self._encodes_itself(n, worker)
        if worker.has_gpu:
            yield from self._computes(n * per.around / 2)
        yield self.bucket.take(n * per.encoding)

    def _encodes_itself(self, n: int, worker: Worker) -> Events:
        self.encoding += 1
        try:
            for start in range(0, n, BATCH):
                seconds = min(BATCH, n - start) * self.constants.encode
                yield from self._computes(seconds * self._crowd())
                if worker.interpreter.count:  # it waits for that, while the core is free
                    yield self.env.timeout((self.constants.beside - 1) * seconds)
        finally:
            self.encoding -= 1

    def _crowd(self) -> float:
        """Return how much longer encoding takes with as many others as there are now."""
        others = self.machine.cores - 1
        return 1 + (self.constants.crowded - 1) * min(self.encoding - 1, others) / max(others, 1)
