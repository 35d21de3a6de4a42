from __future__ import annotations

import http.server
import logging
import os
import socketserver
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import dask
import pytest
import torch
from distributed import Client, Scheduler, SpecCluster, Worker
from distributed.deploy.spec import ProcessInterface
from distributed.security import Security

from pipeline.compute import cluster
from pipeline.errors import ConfigError
from tests import clusters

pytestmark = pytest.mark.slow


def describe() -> dict[str, object]:
    """Tell about the process that runs this."""
    return {
        "pid": os.getpid(),
        "openmp": os.environ.get("OMP_NUM_THREADS"),
        "mkl": os.environ.get("MKL_NUM_THREADS"),
        "threads": torch.get_num_threads(),
    }


def test_serial_work_has_no_client() -> None:
    with cluster.connect(serial=True) as client:
        assert client is None


def test_local_workers_compute_in_one_thread_whatever_the_caller_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with cluster.connect(workers=2, memory_limit="1 GB") as client:
        assert client is not None
        shown = list(client.run(describe).values())
        workers = client.scheduler_info()["workers"].values()
        assert len({about["pid"] for about in shown} | {os.getpid()}) == 3
        assert all((about["openmp"], about["mkl"], about["threads"]) == ("1", "1", 1) for about in shown)
        assert all((info["nthreads"], info["memory_limit"]) == (cluster.THREADS, 10**9) for info in workers)
        assert all(info["host"] == "127.0.0.1" for info in workers)
        addresses = {client.scheduler_info()["address"], *client.scheduler_info()["workers"]}
        assert len(addresses) == 3
        for address in addresses:
            assert address.startswith("tls://127.0.0.1:")
            for stranger in (address, address.replace("tls://", "tcp://")):
                with pytest.raises(ConfigError, match="--scheduler"), cluster.connect(scheduler=stranger):
                    pass
        assert client.submit(sum, (1, 2)).result() == 3, "and strangers do it no harm"
    assert os.environ["OMP_NUM_THREADS"] == "4"
    assert logging.getLogger("distributed").level != logging.CRITICAL


def test_what_workers_put_aside_is_for_nobody_else_to_read_or_replace(tmp_path: Path) -> None:
    parent = tmp_path / "scratch"
    with dask.config.set({"temporary-directory": str(parent)}):  # noqa: SIM117
        with cluster.connect(workers=1, memory_limit="1 GB") as client:
            assert client is not None
            (folder,) = parent.iterdir()
            assert folder.stat().st_mode & 0o777 == 0o700
            used = client.run(lambda dask_worker: dask_worker.local_directory)
            assert all(Path(each).is_relative_to(folder) for each in used.values())
    assert list(parent.iterdir()) == []


def test_a_scheduler_that_does_not_answer_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.CONNECT_TIMEOUT <= 30
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 1.0)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"--scheduler is 'tcp://127.0.0.1:9'.*no Dask scheduler answered"):  # noqa: SIM117
        with cluster.connect(scheduler="tcp://127.0.0.1:9"):
            pass
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://", "tcp://host:notaport", "ucx://127.0.0.1:9", "gopher://127.0.0.1:9"]
)
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match="--scheduler"), cluster.connect(scheduler=address):
        pass


def test_dask_is_quiet_while_it_works_for_us_and_as_before_afterwards() -> None:
    client = logging.getLogger("distributed.client")
    before = client.level
    with cluster._quiet():
        assert not client.isEnabledFor(logging.ERROR)
    assert client.level == before


def test_a_server_that_is_no_scheduler_is_refused_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 2.0)
    with socketserver.TCPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.server_address[1]}"
        start = time.monotonic()
        with pytest.raises(ConfigError, match="no Dask scheduler answered"), cluster.connect(scheduler=address):
            pass
        assert time.monotonic() - start < 30
        server.shutdown()


def test_a_cluster_that_is_still_starting_is_waited_for_as_long_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 0.5)
    port = clusters.free_port()

    def start_later(stack: ExitStack) -> None:
        time.sleep(2)
        started = stack.enter_context(clusters.start(tmp_path, workers=0, port=port))
        time.sleep(2)
        started.add_worker()

    with ExitStack() as stack:
        thread = Thread(target=start_later, args=(stack,))
        thread.start()
        try:
            with cluster.connect(scheduler=f"tcp://127.0.0.1:{port}", wait=60) as client:
                assert client is not None
                client.wait_for_workers(1, timeout=60)
        finally:
            thread.join()


def test_only_a_cluster_that_may_get_workers_by_itself_grows() -> None:
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    worker = {"cls": Worker, "options": {"host": "127.0.0.1", "dashboard": False}}
    with SpecCluster(scheduler=scheduler, workers={}, worker=worker) as made:
        with Client(made, set_as_default=False) as client, cluster.connect(scheduler=made.scheduler_address) as other:
            assert not cluster.grows(client)
            made.adapt(minimum=0, maximum=1)
            assert cluster.grows(client)
            assert other is not None
            assert not cluster.grows(other), "its address does not say so"
    with cluster.connect(workers=1, memory_limit="1 GB") as own:
        assert own is not None
        assert not cluster.grows(own)
        assert cluster.is_own(own)


def test_a_cluster_grows_while_jobs_wait_in_a_queue() -> None:
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    queue = {"first": {"cls": Queued, "options": {}}}
    with SpecCluster(scheduler=scheduler, workers=queue) as made, Client(made, set_as_default=False) as client:
        assert cluster.grows(client)


class Queued(ProcessInterface):
    """A job that a queue has taken and not yet started, as a batch system's clusters have them."""


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 2, "serial": True},
        {"workers": 2, "scheduler": "tcp://127.0.0.1:9"},
        {"workers": 0},
        {"workers": 1, "memory_limit": "plenty"},
        {"workers": 1, "memory_limit": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError), cluster.connect(**settings):  # type: ignore[arg-type]
        pass


def test_memory_bounds_the_default_number_of_workers() -> None:
    assert cluster._worker_count(None, 0) == cluster.CPU_COUNT
    assert cluster._worker_count(None, cluster.MEMORY_LIMIT) == 1
    assert cluster._worker_count(None, 10 * cluster.MEMORY_LIMIT) == 1
    assert cluster._worker_count(7, cluster.MEMORY_LIMIT) == 7


def test_each_gpu_belongs_to_one_worker_and_is_offered_as_a_resource() -> None:
    specs = cluster._worker_specs(3, 2, 1, gpus=2, security=Security())
    options = [specs[i]["options"] for i in range(3)]
    assert [each["env"]["CUDA_VISIBLE_DEVICES"] for each in options] == ["0", "1", ""]
    assert [each["resources"] for each in options] == [{"GPU": 2}, {"GPU": 2}, {}]
    assert len(cluster._worker_specs(1, 2, 1, gpus=2, security=Security())) == 2
    assert "resources" not in cluster._worker_specs(1, 2, 1, gpus=0, security=Security())[0]["options"]
