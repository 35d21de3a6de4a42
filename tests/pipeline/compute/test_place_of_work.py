"""Where a job is done (`cluster.place_of_work`), and how a cluster is sized for it. No worker process is started."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from distributed import Client

from pipeline.compute import cluster
from pipeline.compute.job import Job
from pipeline.compute.stages.tasks import Task
from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError
from pipeline.planning.memory import MEMORY_FRACTION, memory_at_once, memory_needed
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Generation, Plan
from pipeline.planning.stages import Kind

KINDS: tuple[Kind, ...] = (("ingest", None), ("encode", "toy"))


def job_of(kinds: tuple[Kind, ...] = KINDS) -> Job:
    """Give a job of two chunks with pending tasks of these kinds."""
    config = SurveyConfig(source="https://data.sdss.org/sas/dr17", targets="targets.parquet", shard=4, chunk=2)
    model = ModelConfig(name="toy", checkpoint="toy.pt", sha256="ab" * 32, n_latent=3, n_rest=50)
    plan = Plan(config=config, generations=(Generation(8, "cd" * 32),), shard=4, chunk=2).with_model(model)
    tasks = [Task(*kind, shard) for shard in plan.shards() for kind in kinds]
    return Job("memory://nowhere", plan, {}, tasks, frozenset(), [], [], 2)


NOTHING = job_of(())


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Give what would have been started: workers, threads of each, bytes of each."""
    clusters: list[tuple[int, int, int]] = []

    @contextmanager
    def note(workers: int, threads: int, memory_limit: int) -> Iterator[None]:
        clusters.append((workers, threads, memory_limit))
        yield None

    monkeypatch.setattr(cluster, "_local", note)
    return clusters


def bytes_for(job: Job, at_once: int) -> int:
    needed = memory_needed(job.plan, job.kinds)
    return int((memory_at_once(needed, at_once) if at_once > 1 else needed) / MEMORY_FRACTION)


def test_a_client_of_ones_own_is_used_and_stays_open(threads: Client) -> None:
    for job in (job_of(), NOTHING):
        with cluster.place_of_work(job, client=threads) as here:
            assert here is threads
    assert threads.submit(sum, (1, 2)).result() == 3


@pytest.mark.parametrize(
    "beside",
    [{"workers": 2}, {"scheduler": "tcp://127.0.0.1:9"}, {"serial": True}, {"memory_limit": "4 GB"}],
    ids=lambda beside: next(iter(beside)),
)
def test_a_client_with_another_place_beside_it_is_refused(threads: Client, beside: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught, cluster.place_of_work(job_of(), client=threads, **beside):  # type: ignore[arg-type]
        pytest.fail("work began")
    assert (caught.value.key, caught.value.value) == ("client", threads)
    assert caught.value.expected == "no workers=, scheduler=, memory_limit= or serial= with it"


def test_an_asynchronous_client_is_refused(threads: Client) -> None:
    assert threads.scheduler is not None
    address = threads.scheduler.address

    async def refused() -> ConfigError:
        async with Client(address, asynchronous=True, set_as_default=False) as client:
            with pytest.raises(ConfigError) as caught, cluster.place_of_work(job_of(), client=client):
                pytest.fail("work began")
        return caught.value

    error = asyncio.run(refused())
    assert error.key == "client"
    assert error.expected == "a client that is not asynchronous"
    assert error.remedy == "make one with Client(address)"


def test_serial_work_is_done_in_this_process(started: list[tuple[int, int, int]]) -> None:
    with cluster.place_of_work(job_of(), serial=True) as here:
        assert here is None
    assert started == []


@pytest.mark.parametrize("asked", [{}, {"workers": 4}, {"scheduler": "tcp://127.0.0.1:9"}], ids=str)
def test_where_nothing_is_pending_nothing_is_started(
    started: list[tuple[int, int, int]], asked: dict[str, object]
) -> None:
    with cluster.place_of_work(NOTHING, **asked) as here:  # type: ignore[arg-type]
        assert here is None
    assert started == []


def test_two_places_are_refused(started: list[tuple[int, int, int]]) -> None:
    both = cluster.place_of_work(job_of(), workers=2, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match="at most one"), both:
        pytest.fail("work began")
    assert started == []


def test_so_many_workers_are_started_as_asked_for(started: list[tuple[int, int, int]]) -> None:
    with cluster.place_of_work(job_of(), workers=3, memory_limit="5 GB"):
        assert started == [(3, cluster.THREADS, 5 * 10**9)]


@pytest.mark.parametrize("kinds", [KINDS[:1], KINDS[1:], KINDS], ids=["ingest", "encode", "both"])
def test_by_default_there_are_as_many_workers_as_fit_into_memory(
    kinds: tuple[Kind, ...], started: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(kinds)
    monkeypatch.setattr(cluster, "CPU_COUNT", 8)
    monkeypatch.setattr(cluster, "MEMORY_LIMIT", 3 * bytes_for(job, 1) + 1)
    with cluster.place_of_work(job):
        ((workers, threads, limit),) = started
    assert (workers, threads) == (3, 1)
    assert limit >= bytes_for(job, 1)


def test_there_are_never_more_workers_than_cores(
    started: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CPU_COUNT", 2)
    monkeypatch.setattr(cluster, "MEMORY_LIMIT", 100 * bytes_for(job_of(), 1))
    with cluster.place_of_work(job_of()):
        assert started[0][0] == 2


def test_a_worker_has_two_threads_only_where_two_tasks_fit_into_its_memory(
    started: list[tuple[int, int, int]],
) -> None:
    enough = bytes_for(job_of(), cluster.THREADS)
    for limit in (enough, enough - 1):
        with cluster.place_of_work(job_of(), workers=1, memory_limit=limit):
            pass
    assert [threads for _, threads, _ in started] == [cluster.THREADS, 1]


def test_a_worker_with_a_gpu_has_three(started: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: True)
    enough = bytes_for(job_of(), cluster.GPU_THREADS)
    for limit in (enough, enough - 1):
        with cluster.place_of_work(job_of(), workers=1, memory_limit=limit):
            pass
    assert [threads for _, threads, _ in started] == [3, 1]


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"workers": 0}, "--workers"), ({"memory_limit": "plenty"}, "--memory-limit")],
    ids=str,
)
def test_sizes_that_make_no_cluster_are_refused(
    started: list[tuple[int, int, int]], settings: dict[str, object], key: str
) -> None:
    with pytest.raises(ConfigError) as caught, cluster.place_of_work(job_of(), **settings):  # type: ignore[arg-type]
        pytest.fail("work began")
    assert caught.value.key == key
    assert started == []
