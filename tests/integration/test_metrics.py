"""Prometheus's view of a real cluster: what /metrics of the workers and the scheduler say is what the ledger says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from distributed import Client
from prometheus_client.parser import text_string_to_metric_families

from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.errors import ExitStatus
from pipeline.monitor import run_log as journal
from pipeline.monitor.status import read_status
from pipeline.planning.plan import Plan
from pipeline.store import root as runs
from tests.running import break_file, make_root

PATIENCE = 60.0
ANYWHERE = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")


class Cluster(NamedTuple):
    scheduler: str
    logs: Path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start `dask scheduler` and two `dask worker`, as an operator would."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    commands = (
        ("scheduler", "--port", "0", "--scheduler-file", str(file), *ANYWHERE),
        *(("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", *ANYWHERE),) * 2,
    )
    environment = {**os.environ, "DASK_LOGGING__PIPELINE": "info", "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        for number, command in enumerate(commands):
            output = stack.enter_context(open(folder / f"{command[0]}-{number}.log", "w"))
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command], stdout=output, stderr=output, cwd=folder, env=environment
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            deadline = time.monotonic() + PATIENCE
            while not file.exists():
                assert process.poll() is None, "the scheduler ended"
                assert time.monotonic() < deadline
                time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=PATIENCE)
        yield Cluster(address, folder)


def endpoints(scheduler: str) -> tuple[str, list[str]]:
    """Give the /metrics of the scheduler and of the workers, by the ports that they announce."""
    with Client(scheduler, set_as_default=False) as client:
        info: dict[str, Any] = client.scheduler_info(n_workers=-1)
    ports = [worker["services"]["dashboard"] for worker in info["workers"].values()]
    urls = [f"http://127.0.0.1:{port}/metrics" for port in (info["services"]["dashboard"], *ports)]
    return urls[0], urls[1:]


def scrape(url: str) -> Counter[tuple[str, str, str]]:
    """Read our totals by (name, stage, model), phases added up."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert any(family.name.startswith("dask_") for family in families), "Dask's own are there, too"
    found: Counter[tuple[str, str, str]] = Counter()
    for sample in (sample for family in families for sample in family.samples):
        if sample.name.startswith("spender_") and sample.name.endswith("_total"):
            name = sample.name.removeprefix("spender_").removesuffix("_total")
            found[name, sample.labels["stage"], sample.labels["model"]] += sample.value  # type: ignore[assignment]
    return found


def test_the_endpoints_tell_what_the_ledger_tells(tmp_path: Path, mirror: Path, cluster: Cluster) -> None:
    root, plan = make_root(tmp_path, mirror, n=117, shard=16)
    assert cli.main(["run", root, "--scheduler", cluster.scheduler]) == 0
    at_scheduler, at_workers = endpoints(cluster.scheduler)
    whole = scrape(at_scheduler)
    parts = [scrape(url) for url in at_workers]
    together = sum(parts, Counter())
    for each in read_status(root, plan):
        expected = {"chunks": each.done, "spectra": each.spectra, "usable_spectra": each.usable}
        for name, value in expected.items():
            assert whole[f"scheduler_{name}", each.stage, each.model or ""] == value
            assert together[f"worker_{name}", each.stage, each.model or ""] == value
    assert all(part["worker_chunks", "ingest", ""] for part in parts), "both worked"
    (log,) = journal.read_logs(root)
    files = sum(file.stat().st_size for file in mirror.rglob("spec-*.fits"))
    for name, key, value in (
        ("fetched_bytes", "fetched", files),
        ("requests", "requests", 117),
        ("written_bytes", "written", 117 * (2 * plan.n_pixels + 2) * 4),
    ):
        assert sum(line[key] for line in log.done if line["stage"] == "ingest") == value
        assert whole[f"scheduler_{name}", "ingest", ""] == together[f"worker_{name}", "ingest", ""] == value
    seconds = sum(sum(line["seconds"].values()) for line in log.done if line["stage"] == "encode")
    assert whole["scheduler_phase_seconds", "encode", "random"] == pytest.approx(seconds)
    assert together["worker_phase_seconds", "encode", "random"] == pytest.approx(seconds)
    lines = [line for file in cluster.logs.glob("worker-*.log") for line in file.read_text().splitlines()]
    shown = [json.loads(line.split(" - INFO - ")[1]) for line in lines if "pipeline.compute.stages.record" in line]
    kept = [{key: value for key, value in line.items() if key not in ("event", "at")} for line in log.done]
    assert sorted(shown, key=str) == sorted(kept, key=str), "a worker's own log has the same lines"


def test_failures_are_counted(tmp_path: Path, mirror: Path, cluster: Cluster) -> None:
    source = tmp_path / "sas"
    root, plan = make_root(tmp_path, mirror, source=str(source), n=4)
    copy(root, plan, mirror, source)
    at_scheduler, at_workers = endpoints(cluster.scheduler)
    before = scrape(at_scheduler)
    assert cli.main(["run", root, "--scheduler", cluster.scheduler]) == ExitStatus.SOME_FAILED
    shown = scrape(at_scheduler)
    shown.subtract(before)
    assert shown["scheduler_failures", "ingest", ""] == 1
    assert shown["scheduler_failures", "encode", "random"] == 1
    assert shown["scheduler_chunks", "encode", "random"] == 1
    ours = sum(map(scrape, at_workers), Counter())
    assert ours["worker_failures", "ingest", ""] == ours["worker_failures", "encode", "random"] == 1
    (log,) = journal.read_logs(root)
    assert {(line["stage"], line["chunk"]) for line in log.failed} == {("ingest", 0), ("encode", 0)}


def copy(root: str, plan: Plan, mirror: Path, source: Path) -> None:
    """Copy the files of a run's targets; nobody can read the second one."""
    rows = targets.read_rows(runs.targets_url(root), 0, plan.n_spectra)
    for row in rows.to_dict("records"):
        name = f"spec-{row['plate']:04d}-{row['mjd']}-{row['fiberid']:04d}.fits"
        (file,) = mirror.rglob(name)
        place = source / file.relative_to(mirror)
        place.parent.mkdir(parents=True, exist_ok=True)
        if row["target"] == rows["target"].iloc[1]:
            break_file(place)
        else:
            place.write_bytes(file.read_bytes())
