from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from distributed import Client, Worker

from pipeline.compute import cluster
from pipeline.compute.workers import scheduler
from pipeline.compute.workers.admission import Admission
from tests import clusters

pytestmark = pytest.mark.slow


def test_what_is_asked_of_a_stopped_scheduler_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "ANSWER", 1.0)
    with clusters.start(tmp_path, workers=1) as running, Client(running.address, set_as_default=False) as client:
        client.wait_for_workers(1)
        (address,) = scheduler.workers_of(client)
        os.kill(running.scheduler.pid, signal.SIGSTOP)
        try:
            for ask in (
                lambda: scheduler.workers_of(client),
                lambda: scheduler.on_scheduler(client, time.time),
            ):
                with pytest.raises(TimeoutError, match=r"Dask scheduler tcp://.* not answered for 1 s"):
                    ask()
            assert scheduler.on_workers(client, time.time, [address], limit=1.0) == {}
        finally:
            os.kill(running.scheduler.pid, signal.SIGCONT)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python 3.12 does not have this fault")
def test_no_worker_profiles_itself_also_none_that_comes_later(tmp_path: Path) -> None:
    with clusters.start(tmp_path, workers=1, DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED="true") as running:
        with cluster.connect(scheduler=running.address) as client:
            assert client is not None
            assert client.run(_profiles) == dict.fromkeys(scheduler.workers_of(client), True)
            Admission(client).open()
            Admission(client).open()
            running.add_worker()
            client.wait_for_workers(2)
            assert client.run(_profiles) == dict.fromkeys(scheduler.workers_of(client), False)


def _profiles(dask_worker: Worker) -> bool:
    return "profile" in dask_worker.periodic_callbacks
