"""Runs on a real Dask cluster that talks in TLS only, set up by Dask's standard variables; and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import generate
from tests.dask_processes import process
from tests.running import markers, plan_by_command


@dataclass(frozen=True)
class Cluster:
    scheduler: str
    worker: str
    nanny: str
    variables: dict[str, str]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("tls")
    variables = generate(folder / "certificates")
    address = r"{}:\s+'?(tls://127\.0\.0\.1:\d+)"
    listening = ("--host", "127.0.0.1", "--protocol", "tls", "--no-dashboard")
    quiet = {"DASK_DISTRIBUTED__SCHEDULER__ACTIVE_MEMORY_MANAGER__START": "false"}
    with ExitStack() as stack:
        wanted = (address.format("Scheduler at"),)
        started = process(folder, wanted, "scheduler", "--port", "0", *listening, **variables, **quiet)
        (scheduler,) = stack.enter_context(started)
        wanted = (address.format("Start worker at"), address.format("Start Nanny at"))
        options = ("--nthreads", "1", "--memory-limit", "3 GB", "--local-directory", str(folder / "scratch"))
        started = process(folder, wanted, "worker", scheduler, *options, *listening, **variables)
        worker, nanny = stack.enter_context(started)
        yield Cluster(scheduler, worker, nanny, variables)


def ingest(root: Path, address: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "run", str(root), "--scheduler", address]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("tls-run") / "run"
    return folder, plan_by_command(folder, mirror, "--shard", "64")


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("no certificates", "DASK_DISTRIBUTED__COMM__TLS__CA_FILE"),
        ("certificates that are not there", "nowhere|No such file"),
        ("another authority", "certificate"),
        ("plain", "tls://"),
        ("worker", "a Worker answers there"),
        ("nanny", "a Nanny answers there"),
    ],
)
def test_who_does_not_belong_is_refused_in_one_line(
    tls: Cluster, root: tuple[Path, int], tmp_path: Path, change: str, shown: str
) -> None:
    addresses = {"plain": tls.scheduler.replace("tls:", "tcp:"), "worker": tls.worker, "nanny": tls.nanny}
    address = addresses.get(change, tls.scheduler)
    variables = {
        "no certificates": {},
        "certificates that are not there": {name: "/nowhere/x.pem" for name in tls.variables},
        "another authority": generate(tmp_path / "others"),
    }.get(change, tls.variables)
    done = ingest(root[0], address, **variables)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert f"--scheduler is '{address}'" in line
    assert re.search(shown, line)


def test_a_run_is_done_by_workers_that_talk_in_tls(tls: Cluster, root: tuple[Path, int]) -> None:
    folder, expected = root
    done = ingest(folder, tls.scheduler, **tls.variables)
    assert done.returncode == 0, done.stderr
    assert markers(folder) == expected
    status = [sys.executable, "-m", "pipeline", "status", str(folder), "--json"]
    shown = json.loads(subprocess.run(status, capture_output=True, text=True, check=True).stdout)
    assert all(stage["done"] == stage["chunks"] > 0 for stage in shown["stages"])
