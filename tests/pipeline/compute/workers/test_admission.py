"""Who is admitted to a run's work, and to which: real workers, of environments that lack something, in every order."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

import pipeline
from pipeline.cli import main as cli
from pipeline.compute import cluster, executor
from pipeline.compute.workers import admission as admitting
from pipeline.compute.workers import gate, watch
from pipeline.compute.workers.admission import Admission, Roles
from pipeline.compute.workers.scheduler import workers_of
from pipeline.errors import RefusedError
from tests import clusters, environments
from tests.running import Recorder, make_root

pytestmark = pytest.mark.slow

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Give the Dask of an environment that has Dask alone."""
    return environments.command(environments.make(tmp_path_factory.mktemp("bare") / "venv", ["distributed"]))


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOOK", 1.0)
    monkeypatch.setattr(watch, "LOOK", 1.0)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[clusters.Cluster]:
    """Run a scheduler without workers."""
    with clusters.start(tmp_path / "cluster", workers=0, SPENDER_DEVICE="cpu") as started:
        yield started


def places(shown: Recorder, running: clusters.Cluster, names: list[str]) -> set[tuple[str, str]]:
    """Say which workers did what: stages, and names of workers in the order of their start."""
    where = {
        pid.pid: name
        for name, nanny in zip(names, running.workers, strict=True)
        for pid in clusters.children(nanny.pid)
    }
    records = [(each.task.stage, each.record) for each in shown.outcomes]
    # the record of a chunk that was found done does not say by whom
    done = [(stage, record["worker"]) for stage, record in records if record and "worker" in record]
    return {(stage, where[int(worker.split(":")[-1])]) for stage, worker in done}


def start_run(root: str, address: str, shown: Recorder, **options: object) -> threading.Thread:
    """Run on a cluster in a thread; what it raises is raised by `finish`."""

    def work() -> None:
        try:
            pipeline.run(root, scheduler=address, progress=shown, **options)  # type: ignore[arg-type]
        except Exception as error:
            shown.said.append(f"raised: {error}")

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_until_said(shown: Recorder, text: str, seconds: float = 120) -> float:
    start = time.monotonic()
    while not any(text in each for each in shown.said):
        assert time.monotonic() - start < seconds, shown.said
        time.sleep(0.1)
    return time.monotonic() - start


# --- environments ---


def test_a_worker_without_the_package_ends_the_run_within_30_seconds(
    tmp_path: Path, mirror: Path, running: clusters.Cluster, bare: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = make_root(tmp_path, mirror)
    with Client(running.address, set_as_default=False) as client:
        running.add_worker()
        running.add_worker("--name", "bare", dask=bare)
        client.wait_for_workers(2, timeout=120)
    start = time.monotonic()
    assert cli.main(["run", root, "--scheduler", running.address]) == 1
    assert time.monotonic() - start < 30
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: the worker bare on {HOST} (tcp://127.0.0.1:")
    assert ") lacks pipeline, spender_core, numpy, torch, zarr, xarray, pandas, pyarrow, astropy (Python " in said
    assert said.endswith(f"pip install spender-pipeline=={pipeline.__version__} with the same constraints.txt")
    assert not (Path(root) / "spectra.zarr").exists()


def test_a_worker_of_another_environment_that_comes_later_gets_no_work(
    tmp_path: Path, mirror: Path, running: clusters.Cluster, bare: tuple[str, ...]
) -> None:
    root, _ = make_root(tmp_path, mirror, n=6, shard=1)
    shown = Recorder()
    thread = start_run(root, running.address, shown, wait=120)
    wait_until_said(shown, "waiting: the scheduler has no workers")
    running.add_worker("--nthreads", "1")  # both come while tasks wait for any worker
    running.add_worker("--name", "bare", dask=bare)
    thread.join(180)
    assert not any("raised" in each for each in shown.said), shown.said
    assert len(shown.outcomes) == 12
    assert all(each.reason is None for each in shown.outcomes)
    assert places(shown, running, ["good", "bare"]) == {("ingest", "good"), ("encode", "good")}
    assert running.workers[1].poll() is None, "it is left alone"


def test_a_run_ends_where_only_workers_of_another_environment_come(
    tmp_path: Path, mirror: Path, running: clusters.Cluster, bare: tuple[str, ...]
) -> None:
    root, _ = make_root(tmp_path, mirror)
    shown = Recorder()
    thread = start_run(root, running.address, shown, wait=600)
    wait_until_said(shown, "waiting: the scheduler has no workers")
    with Client(running.address, set_as_default=False) as client:
        running.add_worker("--name", "bare", dask=bare)
        client.wait_for_workers(1, timeout=120)
    assert wait_until_said(shown, f"raised: the worker bare on {HOST} ") < 30
    thread.join(60)


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        ({"zarr": "2.18.7"}, "has zarr 2.18.7 instead of "),
        ({"dask": "2024.1.0", "numpy": "1.26.4"}, "has dask 2024.1.0 instead of "),
    ],
    ids=["zarr", "dask and numpy"],
)
def test_a_worker_with_other_versions_is_named(
    tmp_path: Path, running: clusters.Cluster, versions: dict[str, str], problem: str
) -> None:
    roots = ["distributed", "spender-pipeline"]
    python = environments.make(tmp_path / "venv", roots, versions, ours=True)
    running.add_worker(dask=environments.command(python))
    with cluster.connect(scheduler=running.address) as client:
        assert client is not None
        client.wait_for_workers(1, timeout=120)
        with pytest.raises(RefusedError) as caught:
            Admission(client).open()
    assert problem in str(caught.value)
    assert all(f"{name} {version} instead of " in str(caught.value) for name, version in versions.items())


def test_what_goes_to_workers_needs_nothing_of_this_package() -> None:
    at_once = {line for line in Path(gate.__file__).read_text().splitlines() if line.startswith(("import", "from"))}
    assert not any("pipeline" in line or "spender" in line for line in at_once)


def test_a_worker_whose_memory_is_too_small_gets_no_work(running: clusters.Cluster) -> None:
    running.add_worker("--memory-limit", "700MiB", "--name", "small")
    with cluster.connect(scheduler=running.address) as client:
        assert client is not None
        client.wait_for_workers(1, timeout=120)
        opened = Admission(client, needed=600 * 2**20)
        opened.open()
        (denied,) = _looked(client, opened)
    assert "has a memory limit of 700 MiB; this plan's chunks need at least 1312 MiB with its 4 threads" in str(denied)


def _looked(client: Client, opened: Admission) -> list[admitting.Denied]:
    deadline = time.monotonic() + 30
    while True:
        opened.look(workers_of(client))
        if opened.denied or time.monotonic() > deadline:
            return list(opened.denied.values())
        time.sleep(0.1)


# --- who does what ---


def test_roles_follow_from_the_kinds_of_workers() -> None:
    assert Roles.of([]) == Roles.of(["CPU"]) == Roles(encode_on_gpu=False, ingest_off_gpu=False)
    assert Roles.of(["GPU"]) == Roles(encode_on_gpu=True, ingest_off_gpu=False)
    assert Roles.of(["GPU", "CPU"]) == Roles.of(["CPU"], demanded=True) == Roles(True, True)


OFFERS = {"CPU": ("--resources", "CPU=2"), "plain": (), "GPU": ("--resources", "GPU=1")}


def test_a_worker_that_is_still_looked_at_is_not_said_to_be_of_another_kind() -> None:
    admission = Admission(None, {"CPU", "GPU"})  # type: ignore[arg-type]
    admission.roles = Roles(encode_on_gpu=True, ingest_off_gpu=True)
    cpu, gpu = ({kind: {"resources": {kind: 1.0}}} for kind in ("CPU", "GPU"))
    encode = ("encode", "m")
    assert admission.missing(encode, cpu) == "none of the workers offers the resource GPU, needed to encode"
    assert admission.missing(encode, cpu | gpu) == "no worker has said yet whether it can encode"
    assert admission.missing(("ingest", None), cpu) == "no worker has said yet whether it can ingest"
    assert admission.missing(("ingest", None), gpu).startswith("all workers offer the resource GPU")


@pytest.mark.parametrize(
    "order",
    [*itertools.permutations(("CPU", "plain", "GPU"))],
    ids=" ".join,
)
def test_neither_kind_does_the_others_work_whoever_comes_first(
    tmp_path: Path, mirror: Path, running: clusters.Cluster, order: tuple[str, ...]
) -> None:
    root, _ = make_root(tmp_path, mirror, n=6, shard=1)
    shown = Recorder()
    first, *others = order
    running.add_worker(*OFFERS[first])
    with Client(running.address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=120)
    thread = start_run(root, running.address, shown, kinds=["CPU", "GPU"], wait=120)
    for kind in others:
        running.add_worker(*OFFERS[kind])
    thread.join(240)
    assert not any("raised" in each for each in shown.said), shown.said
    did = places(shown, running, list(order))
    assert len(shown.outcomes) == 12
    assert {name for stage, name in did if stage == "encode"} == {"GPU"}
    assert {name for stage, name in did if stage == "ingest"} <= {"CPU", "plain"}


def test_where_kinds_are_not_said_the_decision_follows_the_workers(
    tmp_path: Path, mirror: Path, running: clusters.Cluster
) -> None:
    """A GPU worker, alone at first, ingests; when others come, what it has not begun goes to them."""
    root, _ = make_root(tmp_path, mirror, n=24, shard=1)
    running.add_worker("--resources", "GPU=1", "--nthreads", "1")
    with Client(running.address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=120)
    shown = Recorder()
    thread = start_run(root, running.address, shown, max_requests_per_second=2)
    deadline = time.monotonic() + 120
    while not shown.outcomes:
        assert time.monotonic() < deadline, shown.said
        time.sleep(0.1)
    running.add_worker("--resources", "CPU=2")
    thread.join(180)
    assert not any("raised" in each for each in shown.said), shown.said
    assert len(shown.outcomes) == 48
    assert all(each.reason is None for each in shown.outcomes)
    did = places(shown, running, ["GPU", "CPU"])
    assert did == {("ingest", "GPU"), ("ingest", "CPU"), ("encode", "GPU")}
    ingests = [each.record for each in shown.outcomes if each.task.stage == "ingest" and each.record]
    # One is under way when the others come, and some may begin until it hears that they are no longer its own.
    assert len([record for record in ingests if "worker" not in record]) <= 5, "it ended only what it had begun"
