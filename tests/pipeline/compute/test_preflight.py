from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from distributed import Client, Scheduler, SpecCluster, Worker

from pipeline.catalog import targets
from pipeline.compute import preflight
from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError
from pipeline.planning.memory import MEMORY_FRACTION, memory_at_once, memory_needed
from pipeline.planning.plan import Plan
from pipeline.planning.stages import Kind
from pipeline.store.root import ingest_ledger, targets_url
from pipeline.surveys.registry import get_survey

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeTargets

INGEST: set[Kind] = {("ingest", None)}
THREADS = 2
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def planned(tmp_path: Path, make_targets: MakeTargets) -> tuple[str, Plan]:
    """Plan ten spectra of a mirror that has no files yet, in chunks of two."""
    root = str(tmp_path / "run")
    config = SurveyConfig(source=str(tmp_path / "sas"), targets="t.parquet", shard=2, retries=0)
    (tmp_path / "sas").mkdir()
    frame = make_targets(10)
    targets.write_targets(frame, targets_url(root), row_group=2)
    return root, Plan.create(config, frame)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    """Start a scheduler and its workers in this process: one offers a GPU, one has no limit of its memory."""

    def worker(**options: object) -> dict[str, object]:
        common = {"host": "127.0.0.1", "nthreads": THREADS, "dashboard": False}
        return {"cls": Worker, "options": {**common, **options}}

    scheduler = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    workers = {0: worker(memory_limit="1 GiB", resources={"GPU": THREADS}), 1: worker(memory_limit=0)}
    with SpecCluster(scheduler={"cls": Scheduler, "options": scheduler}, workers=workers, silence_logs=False) as made:
        yield made


@pytest.fixture(scope="module")
def workers(cluster: SpecCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def limit_for(needed: int) -> int:
    """Give the smallest limit that holds so many bytes."""
    limit = int(needed / MEMORY_FRACTION)
    return limit + (limit * MEMORY_FRACTION < needed)


def test_a_machine_with_just_enough_memory_is_taken_and_one_with_less_refused(
    planned: tuple[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan = planned
    enough = limit_for(memory_needed(plan, INGEST))
    monkeypatch.setattr(preflight, "MEMORY_LIMIT", enough)
    preflight.check_memory(plan, None, INGEST)
    monkeypatch.setattr(preflight, "MEMORY_LIMIT", enough - 2)
    with pytest.raises(ConfigError) as caught:
        preflight.check_memory(plan, None, INGEST)
    error = caught.value
    assert (error.key, error.value) == ("this machine's memory", f"{enough / 2**20:.0f} MiB")
    assert error.expected == f"at least {math.ceil(enough / 2**20)} MiB for this plan's chunks"
    for option in ("--workers", "--shard"):
        assert option in error.remedy


def test_where_nothing_is_to_be_done_no_memory_is_needed(
    planned: tuple[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "MEMORY_LIMIT", 0)
    preflight.check_memory(planned[1], None, ())


def test_a_worker_needs_memory_for_all_that_it_does_at_once(
    planned: tuple[str, Plan], workers: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan = planned
    needed = memory_needed(plan, INGEST)
    limits = {"memory_limit": limit_for(memory_at_once(needed, THREADS)), "nthreads": THREADS}
    monkeypatch.setattr(preflight, "workers_of", lambda client: {"tcp://a:1": limits})
    preflight.check_memory(plan, workers, INGEST)
    limits["nthreads"] += 1
    with pytest.raises(ConfigError) as caught:
        preflight.check_memory(plan, workers, INGEST)
    assert caught.value.key == "memory limit of worker tcp://a:1"
    at_least = memory_at_once(needed, THREADS + 1) / MEMORY_FRACTION / 2**20
    assert caught.value.expected == f"at least {at_least:.0f} MiB for this plan's chunks"


def test_workers_of_a_cluster_are_asked_and_one_without_a_limit_is_taken(
    planned: tuple[str, Plan], workers: Client
) -> None:
    _, plan = planned
    preflight.check_memory(plan, workers, INGEST)
    with pytest.raises(ConfigError, match=r"memory limit of worker .* is '1024 MiB', expected at least \d+ MiB"):
        preflight.check_memory(replace(plan, shard=4096, chunk=32), workers, INGEST)


def test_here_a_gpu_is_only_asked_for_where_it_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_DEVICE", "cpu")
    preflight.check_devices(None, demanded=False)
    with pytest.raises(ConfigError) as caught:
        preflight.check_devices(None, demanded=True)
    error = caught.value
    assert (error.key, error.value, error.expected) == ("--gpu", True, "a CUDA device in this machine")
    assert error.remedy == "run without --gpu to encode on the CPU"


@without_gpu
def test_a_worker_that_offers_a_gpu_and_has_none_is_refused_demanded_or_not(
    workers: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPENDER_DEVICE", raising=False)
    for demanded in (False, True):
        with pytest.raises(ConfigError) as caught:
            preflight.check_devices(workers, demanded)
        assert str(caught.value).startswith("the worker tcp://127.0.0.1:")
        assert "offers a GPU, but cannot compute on one: no CUDA device; " in str(caught.value)
        assert "SPENDER_DEVICE=cpu" in caught.value.remedy


@without_gpu
def test_a_worker_whose_own_setting_cannot_be_met_says_why(workers: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_DEVICE", "cuda")
    with pytest.raises(ConfigError, match="SPENDER_DEVICE is 'cuda', expected a CUDA device"):
        preflight.check_devices(workers, demanded=False)


def test_a_worker_that_is_to_encode_on_its_cpu_may_offer_a_gpu(
    workers: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPENDER_DEVICE", "cpu")
    for demanded in (False, True):
        preflight.check_devices(workers, demanded)


def test_workers_with_a_gpu_that_do_not_answer_are_refused(workers: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "on_workers", lambda client, function, addresses, limit: {})
    with pytest.raises(ConfigError) as caught:
        preflight.check_devices(workers, demanded=False)
    assert str(caught.value) == "no worker with a GPU has answered for 60 s; read the workers' logs"


@without_gpu
def test_a_cluster_of_this_machine_that_has_no_gpu_is_refused_without_a_wait(
    workers: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "offering", lambda workers, resource: [])
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        preflight.check_devices(workers, demanded=True, wait=60.0)
    assert time.monotonic() - start < 5
    assert (caught.value.key, caught.value.expected) == ("--gpu", "a worker that offers the resource GPU")
    assert 'dask worker ADDRESS --resources "GPU=1"' in caught.value.remedy


def test_a_gpu_worker_that_comes_late_is_waited_for(cluster: SpecCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_DEVICE", "cpu")
    look, looks = preflight.offering, []

    def late(workers: dict[str, object], resource: str) -> list[str]:
        looks.append(resource)
        return look(workers, resource) if len(looks) > 1 else []

    monkeypatch.setattr(preflight, "offering", late)
    monkeypatch.setattr(preflight, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        with pytest.raises(ConfigError, match="a worker that offers the resource GPU"):
            preflight.check_devices(client, demanded=True, wait=-1.0)
        looks.clear()
        preflight.check_devices(client, demanded=True, wait=30.0)
    assert looks == ["GPU"] * 3


def test_the_planned_targets_are_taken(planned: tuple[str, Plan]) -> None:
    preflight.check_targets(*planned)


def test_the_same_targets_written_otherwise_are_taken(planned: tuple[str, Plan]) -> None:
    root, plan = planned
    frame = targets.read_rows(targets_url(root), 0, 10)
    targets.write_targets(frame, targets_url(root), row_group=7)
    preflight.check_targets(root, plan)


def test_a_changed_targets_table_is_refused(planned: tuple[str, Plan]) -> None:
    root, plan = planned
    frame = targets.read_rows(targets_url(root), 0, 10)
    targets.write_targets(frame.assign(z=frame["z"] + np.float32(0.1)), targets_url(root))
    with pytest.raises(ConfigError) as caught:
        preflight.check_targets(root, plan)
    error = caught.value
    assert error.key == "targets.parquet"
    assert str(error).startswith(f"{targets_url(root)} is not the table that the plan was made with; ")
    assert f"plan {root} --targets ORIGINAL" in error.remedy


def test_rows_in_another_order_are_refused(planned: tuple[str, Plan]) -> None:
    root, plan = planned
    targets.write_targets(targets.read_rows(targets_url(root), 0, 10).iloc[::-1], targets_url(root))
    with pytest.raises(ConfigError, match="--targets ORIGINAL"):
        preflight.check_targets(root, plan)


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "fewer rows"])
def test_a_targets_table_that_cannot_be_read_is_refused(planned: tuple[str, Plan], damage: str) -> None:
    root, plan = planned
    file = Path(targets_url(root))
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "fewer rows":
        targets.write_targets(targets.read_rows(str(file), 0, 9), str(file))
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(ConfigError) as caught:
        preflight.check_targets(root, plan)
    assert caught.value.key == "targets.parquet"
    assert str(caught.value).startswith(f"{file} cannot be read (")
    assert "--targets ORIGINAL" in caught.value.remedy


def add_file(run: tuple[str, Plan], row: int) -> None:
    """Put a target's file into the source."""
    root, plan = run
    keys = targets.read_rows(targets_url(root), row, row + 1)["target"].tolist()
    file = Path(plan.config.source) / get_survey("sdss").paths(plan.config.layout, keys)[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"SIMPLE  =                    T".ljust(2880))


def check_source(run: tuple[str, Plan], pending: slice = slice(None), ingested: tuple[int, ...] = ()) -> None:
    root, plan = run
    preflight.check_source(root, plan, plan.shards()[pending], ingested)


def test_a_source_that_has_none_of_the_files_is_refused(planned: tuple[str, Plan]) -> None:
    _, plan = planned
    with pytest.raises(ConfigError) as caught:
        check_source(planned)
    error = caught.value
    assert (error.key, error.value) == ("source", plan.config.source)
    assert error.expected == "a release root, the folder that holds sdss/ and eboss/ (SDSS-V: spectro/)"
    first = "sdss/spectro/redux/26/spectra/lite/0300/spec-0300-51600-0001.fits"
    assert error.remedy == f"it has none of the 10 files tried, such as {first}"


@pytest.mark.parametrize("row", [0, 4, 8])
def test_one_file_of_those_tried_is_enough(planned: tuple[str, Plan], row: int) -> None:
    add_file(planned, row)
    check_source(planned)


def test_the_files_that_came_are_given_as_witnesses(planned: tuple[str, Plan]) -> None:
    for row in (1, 6):
        add_file(planned, row)
    root, plan = planned
    keys = [targets.read_rows(targets_url(root), row, row + 1)["target"].iloc[0] for row in (1, 6)]
    found = preflight.check_source(root, plan, plan.shards(), ())
    assert list(found) == get_survey("sdss").paths(plan.config.layout, keys)


def test_pending_chunks_that_rightly_lack_files_are_not_taken_for_a_wrong_source(planned: tuple[str, Plan]) -> None:
    root, plan = planned
    counts = {"spectra": 2, "good": 2, "usable": 2, "quality": {}, "checksums": {}}
    ingest_ledger(root, plan).mark(0, {"start": 0, "stop": 2, **counts})
    add_file(planned, 0)
    check_source(planned, slice(1, None), ingested=(0,))
    with pytest.raises(ConfigError, match="none of the 8 files"):
        check_source(planned, slice(1, None))


def test_done_chunks_that_lacked_files_say_nothing_of_the_source(planned: tuple[str, Plan]) -> None:
    root, plan = planned
    counts = {"spectra": 2, "good": 0, "usable": 0, "quality": {"NO_FILE": 2}, "checksums": {}}
    ingest_ledger(root, plan).mark(0, {"start": 0, "stop": 2, **counts})
    with pytest.raises(ConfigError, match="none of the 8 files"):
        check_source(planned, slice(1, None), ingested=(0,))


def test_of_many_targets_some_are_tried_that_are_spread_over_the_run(tmp_path: Path, make_targets: MakeTargets) -> None:
    root, frame = str(tmp_path / "run"), make_targets(100)
    targets.write_targets(frame, targets_url(root), row_group=2)
    plan = Plan.create(SurveyConfig(source=str(tmp_path), targets="t", shard=2, retries=0), frame)
    with pytest.raises(ConfigError, match=rf"none of the {preflight.PROBES} files"):
        check_source((root, plan))
    rows = preflight._spread(plan.shards(), preflight.PROBES)
    assert rows == [[row] for row in range(0, 100, 2)]
    assert preflight._spread(plan.shards()[:3], 4) == [[0, 1], [3], [4]]
    assert preflight._spread(plan.shards()[40:42], 50) == [[80, 81], [82, 83]]


def test_a_source_is_not_asked_where_nothing_is_to_be_ingested(planned: tuple[str, Plan]) -> None:
    check_source(planned, slice(0, 0), ingested=(0,))


def test_a_cache_that_cannot_be_written_is_refused(planned: tuple[str, Plan], tmp_path: Path) -> None:
    root, plan = planned
    add_file(planned, 0)
    (tmp_path / "cache").write_text("a file in the place of the folder")
    cached = replace(plan, config=replace(plan.config, cache=str(tmp_path / "cache")))
    with pytest.raises(ConfigError) as caught:
        check_source((root, cached))
    assert (caught.value.key, caught.value.value) == ("cache", str(tmp_path / "cache"))
    assert caught.value.expected == "a place that can be written"
