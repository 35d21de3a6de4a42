from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import Client, Future, Worker, WorkerPlugin
from distributed.comm.core import CommClosedError

from pipeline import storage
from pipeline.archive.quota import divide
from pipeline.archive.source import Allowance
from pipeline.catalog import targets
from pipeline.compute import cluster, executor, job
from pipeline.compute.executor import Summary
from pipeline.compute.stages import ingest as stage
from pipeline.compute.stages.record import Record
from pipeline.compute.stages.tasks import Outcome, Task, attempt
from pipeline.errors import ConfigError
from pipeline.planning import memory
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan
from pipeline.spectra.quality import Quality
from pipeline.store import arrays as dataset
from pipeline.store import root as runs
from pipeline.store import stores
from pipeline.surveys.sdss.survey import SDSS
from tests import clusters
from tests.running import Recorder, break_file, make_root

pytestmark = pytest.mark.slow

BOTH = ("ingest", "encode")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster.connect(workers=2) as connected:
        assert connected is not None
        yield connected


def run(
    root: str,
    plan: Plan,
    client: Client | None = None,
    stage_names: Sequence[str] = BOTH,
    shown: Recorder | None = None,
) -> Summary:
    models = [model.name for model in plan.models]
    return executor.run(job.pending(root, plan, stage_names, models), client, shown or Recorder())


def break_row(root: str, source: Path, row: int) -> Path:
    """Make a target's file unreadable: a fault that is not the spectrum's."""
    rows = targets.read_rows(runs.targets_url(root), row, row + 1)
    path = source / SDSS.paths("spec-lite", rows["target"])[0]
    break_file(path)
    return path


def test_all_pending_chunks_are_done_an_ingest_before_its_encoding(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    shown = Recorder()
    summary = run(root, plan, shown=shown)
    assert (summary.total, summary.done_before, summary.done, summary.failed) == (6, 0, 6, ())
    assert (shown.total, shown.done_before, shown.closed) == (6, 0, True)
    assert [str(outcome.task) for outcome in shown.outcomes] == [
        f"{stage} {index:06d}" for index in range(3) for stage in ("ingest", "encode random")
    ]


def test_nothing_pending_does_nothing(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    run(root, plan)
    shown = Recorder()
    summary = run(root, plan, shown=shown)
    assert (summary.total, summary.done_before, summary.done) == (6, 6, 0)
    assert shown.outcomes == []
    assert job.pending(root, plan, BOTH, ["random"]).kinds == set()


def test_outcomes_are_small_and_hold_no_arrays(tmp_path: Path, mirror: Path, client: Client) -> None:
    root, plan = make_root(tmp_path, mirror)
    shown = Recorder()
    run(root, plan, client, shown=shown)
    assert len(shown.outcomes) == 6
    for outcome in shown.outcomes:
        assert len(json.dumps(outcome.record)) < 2000


def test_a_second_model_uses_the_spectra_that_are_there(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, models=("first", "second"))
    assert executor.run(job.pending(root, plan, BOTH, ["first"]), None, Recorder()).done == 6
    shown = Recorder()
    assert executor.run(job.pending(root, plan, BOTH, ["first", "second"]), None, shown).done == 3
    assert {outcome.task.model for outcome in shown.outcomes} == {"second"}
    latents = [
        dataset.read_region(dataset.encodings_url(root, name), ["latents"], 0, 6)["latents"]
        for name in ("first", "second")
    ]
    assert not np.allclose(*latents, equal_nan=True)


@pytest.mark.parametrize("where", ["serial", "workers"])
def test_a_failed_chunk_is_recorded_and_the_others_go_on(
    tmp_path: Path, mirror: Path, client: Client, where: str
) -> None:
    source = tmp_path / "sas"
    root, plan = make_root(tmp_path, mirror, source=str(source))
    shutil.copytree(mirror, source, ignore=shutil.ignore_patterns("eboss", "*dr17.fits"))
    broken = break_row(root, source, 2)
    on = client if where == "workers" else None
    summary = run(root, plan, on)
    assert summary.done == 4
    assert [str(outcome.task) for outcome in summary.failed] == ["encode random 000001", "ingest 000001"]
    reasons = [outcome.reason or "" for outcome in summary.failed]
    assert "spectra are missing, since their ingest failed" in reasons[0]
    assert broken.name in reasons[1]
    assert set(runs.ingest_ledger(root, plan).failures()) == {1}
    assert set(runs.encode_ledger(root, plan, "random").failures()) == {1}
    quality = dataset.read_region(dataset.encodings_url(root, "random"), ["quality"], 0, 6)["quality"]
    assert (quality[2:4] == Quality.NOT_PROCESSED).all()

    broken.unlink()
    again = run(root, plan, on)
    assert (again.done, again.failed) == (2, ())
    assert runs.ingest_ledger(root, plan).failures() == {}
    assert runs.encode_ledger(root, plan, "random").failures() == {}


def test_a_fault_of_the_store_is_tried_again(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.time, "sleep", lambda seconds: obstacle.rmdir() if obstacle.exists() else None)
    root, plan = make_root(tmp_path, mirror)
    stores.create(root, plan, [("ingest", None)])
    obstacle = Path(root) / "spectra.zarr" / "norm" / "c" / "1"  # a folder where the chunk's object should be
    obstacle.mkdir(parents=True)
    assert run(root, plan, stage_names=("ingest",)).failed == ()


def test_a_task_that_is_done_already_is_not_done_again(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    run(root, plan, stage_names=("ingest",))
    shutil.rmtree(Path(root) / "spectra.zarr")
    task = Task("ingest", None, plan.shards()[0])
    outcome = attempt(root, plan.ingest_fingerprint, task, divide(plan.config, at_once=1))
    assert outcome.record is not None
    assert outcome.record["spectra"] == 2


def test_encoding_before_any_ingest_is_refused(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    with pytest.raises(ConfigError, match="run ingest first"):
        run(root, plan, stage_names=("encode",))


def test_a_source_without_the_targets_files_is_refused_before_any_work(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, source=str(tmp_path / "mistyped"))
    with pytest.raises(ConfigError, match="none of the 6 files"):
        run(root, plan)
    assert not (Path(root) / "spectra.zarr").exists()


def test_a_worker_with_too_little_memory_is_refused_before_any_work(
    tmp_path: Path, mirror: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, plan = make_root(tmp_path, mirror)
    monkeypatch.setattr(memory, "projected_memory", lambda plan, stage, model=None: 10**12)
    for on in (None, client):
        with pytest.raises(ConfigError, match=r"memory.*MiB.*--shard"):
            run(root, plan, on)
    assert not (Path(root) / "spectra.zarr").exists()


def test_a_store_of_another_plan_is_refused_and_left_alone(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    run(root, plan)
    other, other_plan = make_root(tmp_path, mirror, name="other", n=4)
    shutil.copytree(Path(root) / "spectra.zarr", Path(other) / "spectra.zarr")
    before = (Path(other) / "spectra.zarr" / "zarr.json").read_bytes()
    with pytest.raises(ConfigError, match="another plan"):
        run(other, other_plan)
    assert (Path(other) / "spectra.zarr" / "zarr.json").read_bytes() == before


def test_a_store_that_was_left_half_made_is_made_anew(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    half = Path(root) / "spectra.zarr"
    half.mkdir(parents=True)
    (half / "zarr.json").write_text("{")
    assert run(root, plan).failed == ()


def test_a_ledger_whose_store_is_gone_is_refused_with_the_remedy(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    run(root, plan, stage_names=("ingest",))
    shutil.rmtree(Path(root) / "spectra.zarr")
    storage.remove(storage.join(runs.ingest_ledger(root, plan).folder, "000001.json"))
    with pytest.raises(ConfigError, match="verify .* --repair"):
        run(root, plan)


def test_the_record_of_a_failure_goes_when_another_has_done_the_chunk(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    assert run(root, plan).failed == ()
    ledger = runs.ingest_ledger(root, plan)
    ledger.fail(1, {"reason": "its worker died"})
    assert run(root, plan).done == 0
    assert ledger.failures() == {}


def test_where_workers_offer_a_gpu_only_they_encode(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, plan = make_root(tmp_path, mirror)
    monkeypatch.setattr(cluster.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("SPENDER_DEVICE", "cpu")
    with cluster.connect(workers=2) as offering:
        assert offering is not None
        assert run(root, plan, offering).failed == ()
        loaded = offering.run(_count_models)
        info = offering.scheduler_info()["workers"]
    with_gpu = [address for address, about in info.items() if about["resources"].get("GPU")]
    assert len(with_gpu) == 1
    assert {address: count for address, count in loaded.items() if count} == {with_gpu[0]: 1}


def test_where_workers_offer_a_cpu_only_they_ingest(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    shown = Recorder()
    with clusters.start(tmp_path / "cluster", workers=0, SPENDER_DEVICE="cpu") as running:
        nannies = {"CPU": running.add_worker("--resources", "CPU=4"), "GPU": running.add_worker("--resources", "GPU=1")}
        with cluster.connect(scheduler=running.address) as both:
            assert both is not None
            both.wait_for_workers(2)
            assert run(root, plan, both, shown=shown).failed == ()
        where = {pid.pid: place for place, nanny in nannies.items() for pid in clusters.children(nanny.pid)}
    places = {
        (each.task.stage, where[int(each.record["worker"].split(":")[-1])]) for each in shown.outcomes if each.record
    }
    assert places == {("ingest", "CPU"), ("encode", "GPU")}


def _count_models() -> int:
    from pipeline.compute.stages import process as worker

    return len(worker._models)


def test_a_gpu_that_does_not_work_is_refused_rather_than_replaced_by_the_cpu(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, plan = make_root(tmp_path, mirror)
    monkeypatch.setattr(cluster.torch.cuda, "device_count", lambda: 1)
    with cluster.connect(workers=1) as offering:
        with pytest.raises(ConfigError, match="SPENDER_DEVICE=cpu"):
            run(root, plan, offering)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("where", ["serial", "workers"])
def test_a_gpu_that_is_demanded_and_not_there_is_refused(
    tmp_path: Path, mirror: Path, client: Client, where: str
) -> None:
    root, plan = make_root(tmp_path, mirror)
    on = client if where == "workers" else None
    with pytest.raises(ConfigError, match="--gpu"):
        executor.run(job.pending(root, plan, BOTH, ["random"]), on, Recorder(), gpu=True)
    assert executor.run(job.pending(root, plan, ("ingest",), []), on, Recorder(), gpu=True).done == 3


class Poison(WorkerPlugin):
    """Kills the worker process that ingests one of the chunks, every time, in whatever process that is."""

    def __init__(self, index: int) -> None:
        self.index = index

    def setup(self, worker: Worker) -> None:
        ingest = stage.ingest_shard

        def poisoned(root: str, fingerprint: str, shard: Shard, allowance: Allowance | None = None) -> Record:
            if shard.index == self.index:
                os.kill(os.getpid(), signal.SIGKILL)
            return ingest(root, fingerprint, shard, allowance)

        stage.ingest_shard = poisoned


def test_a_chunk_that_kills_its_workers_is_quarantined_and_all_others_are_done(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=12)
    with cluster.connect(workers=2) as poisoned:
        assert poisoned is not None
        poisoned.register_plugin(Poison(2))
        summary = run(root, plan, poisoned)
    assert [str(outcome.task) for outcome in summary.failed] == ["encode random 000002", "ingest 000002"]
    assert summary.done == 10
    reasons = {outcome.task.stage: outcome.reason for outcome in summary.failed}
    assert str(reasons["ingest"]).startswith("quarantined: 4 worker processes died")
    assert "ingest failed: quarantined" in str(reasons["encode"])
    record = runs.ingest_ledger(root, plan).failures()[2]
    assert record["reason"] == reasons["ingest"]
    assert run(root, plan).failed == ()


class Closing:
    """Do tasks, but for some tries of chunk 1: these end as when the scheduler loses a connection."""

    def __init__(self, folder: Path, tries: int) -> None:
        self.folder, self.tries = folder, tries

    def __call__(self, root: str, fingerprint: str, task: Task, *more: Any) -> Outcome:  # noqa: ANN401
        tried = len(list(self.folder.glob("try-*")))
        if task.shard.index == 1 and task.model is None and tried < self.tries:
            (self.folder / f"try-{tried}").touch()
            raise CommClosedError("in <TCP (closed) Scheduler local=tcp://10.0.0.1:8786>: Stream is closed")
        return attempt(root, fingerprint, task, *more)


def test_a_connection_that_closes_once_fails_no_chunk(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, threads: Client
) -> None:
    root, plan = make_root(tmp_path, mirror)
    monkeypatch.setattr(executor, "attempt", Closing(tmp_path, 1))
    summary = run(root, plan, threads)
    assert (summary.failed, summary.done) == ((), 6)
    assert (tmp_path / "try-0").exists()
    assert all(not ledger.failures() for ledger in runs.ledgers(root, plan))


def test_a_connection_that_closes_every_time_is_the_reason(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, threads: Client
) -> None:
    root, plan = make_root(tmp_path, mirror)
    monkeypatch.setattr(executor, "attempt", Closing(tmp_path, 9))
    summary = run(root, plan, threads)
    assert [str(outcome.task) for outcome in summary.failed] == ["encode random 000001", "ingest 000001"]
    assert all("CommClosedError: in <TCP (closed)" in str(outcome.reason) for outcome in summary.failed)
    assert summary.done == 4


def test_an_outcome_whose_connection_closes_on_its_way_is_asked_for_again(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, threads: Client
) -> None:
    root, plan = make_root(tmp_path, mirror)
    result, closed = Future.result, list[str]()

    def once_closed(future: Future[Any], timeout: float | None = None) -> object:
        if not closed:
            closed.append(future.status)
            raise CommClosedError("in <TCP (closed) Client->Scheduler>: Stream is closed")
        return result(future, timeout)

    monkeypatch.setattr(Future, "result", once_closed)
    summary = run(root, plan, threads)
    assert closed == ["finished"]
    assert (summary.failed, summary.done) == ((), 6)
