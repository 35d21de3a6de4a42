from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

import pipeline
from pipeline import retry
from pipeline.archive import attempts as sources
from pipeline.archive.quota import Quota
from pipeline.archive.source import Allowance, SourceError
from pipeline.compute.stages import tasks
from pipeline.compute.stages.record import Record
from pipeline.compute.stages.tasks import Outcome, Task, attempt, reason_of
from pipeline.errors import ConfigError
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan
from pipeline.store.root import encode_ledger, ingest_ledger
from tests.running import break_file, create_stores, make_root

QUOTA = Quota(1, Allowance(4))
CHUNK = Shard(1, 2, 4)
INGEST, ENCODE = Task("ingest", None, CHUNK), Task("encode", "random", CHUNK)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the seconds of every pause between two attempts; nobody waits for them."""
    seconds: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", seconds.append)
    return seconds


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> tuple[str, Plan]:
    """Plan a run of two chunks, with empty stores."""
    root, plan = make_root(tmp_path_factory.mktemp("tasks"), mirror, n=4)
    create_stores(root, plan)
    return root, plan


@pytest.fixture
def run(tmp_path: Path, planned: tuple[str, Plan]) -> tuple[str, Plan]:
    """Give a copy of the planned run."""
    root, plan = planned
    return str(shutil.copytree(root, tmp_path / "run")), plan


def do(run: tuple[str, Plan], task: Task, upstream: Outcome | None = None) -> Outcome:
    root, plan = run
    fingerprint = plan.ingest_fingerprint if task.model is None else plan.encode_fingerprint(task.model)
    return attempt(root, fingerprint, task, QUOTA, upstream)


def failures(task: Task) -> float:
    """Read how many chunks this process has counted as failed."""
    labels = {"stage": task.stage, "model": task.model or ""}
    return REGISTRY.get_sample_value("spender_worker_failures_total", labels) or 0.0


def fail_with(monkeypatch: pytest.MonkeyPatch, *faults: BaseException) -> list[Shard]:
    """Have ingests fail with these faults, one each, and succeed afterwards; gives the calls."""
    calls: list[Shard] = []

    def ingest_shard(root: str, fingerprint: str, shard: Shard, allowance: Allowance | None = None) -> Record:
        calls.append(shard)
        if len(calls) <= len(faults):
            raise faults[len(calls) - 1]
        return {"spectra": len(shard)}

    monkeypatch.setattr(tasks.ingest, "ingest_shard", ingest_shard)
    return calls


def test_a_task_is_named_by_its_stage_model_and_chunk() -> None:
    assert (str(INGEST), INGEST.kind) == ("ingest 000001", ("ingest", None))
    assert (str(ENCODE), ENCODE.kind) == ("encode random 000001", ("encode", "random"))


def test_an_ingest_and_its_encoding_end_with_the_summaries_of_their_chunk(run: tuple[str, Plan]) -> None:
    root, plan = run
    ingested = do(run, INGEST)
    encoded = do(run, ENCODE, ingested)
    for outcome, task in ((ingested, INGEST), (encoded, ENCODE)):
        assert (outcome.task, outcome.reason) == (task, None)
        assert outcome.record is not None
        assert outcome.record["spectra"] == 2
    assert ingest_ledger(root, plan).done() == encode_ledger(root, plan, "random").done() == {1}


def test_an_encoding_whose_ingest_failed_says_so_and_does_nothing(tmp_path: Path, pauses: list[float]) -> None:
    before = failures(ENCODE)
    upstream = Outcome(INGEST, None, "no answer (3 attempts)")
    outcome = attempt(str(tmp_path / "nothing"), "0" * 64, ENCODE, QUOTA, upstream)
    assert outcome == Outcome(
        ENCODE, None, "its spectra are missing, since their ingest failed: no answer (3 attempts)"
    )
    assert failures(ENCODE) == before + 1
    assert pauses == []


def test_a_task_with_a_marker_is_not_done_again(run: tuple[str, Plan]) -> None:
    root, plan = run
    assert do(run, INGEST).record is not None
    shutil.rmtree(Path(root) / "spectra.zarr")
    again = do(run, INGEST)
    assert again.record == ingest_ledger(root, plan).read(1)


@pytest.mark.parametrize("content", ["{", "[]", '{"fingerprint": "of another plan"}'])
def test_a_damaged_marker_does_not_count_as_done(run: tuple[str, Plan], content: str) -> None:
    root, plan = run
    marker = Path(ingest_ledger(root, plan).folder) / "000001.json"
    marker.write_text(content)
    outcome = do(run, INGEST)
    assert outcome.reason is None
    assert ingest_ledger(root, plan).read(1)["spectra"] == 2


def test_a_chunk_that_is_not_ingested_is_not_encoded_however_often(run: tuple[str, Plan], pauses: list[float]) -> None:
    outcome = do(run, ENCODE)
    assert outcome.record is None
    assert outcome.reason == "chunk 1 is not ingested; run ingest first"
    assert pauses == []


def test_a_task_of_another_plan_is_refused(run: tuple[str, Plan], pauses: list[float]) -> None:
    outcome = attempt(run[0], "0" * 64, INGEST, QUOTA)
    assert outcome.record is None
    assert "0" * 8 in str(outcome.reason)
    assert pauses == []
    assert ingest_ledger(*run).done() == set()


def test_a_file_that_cannot_be_read_fails_its_chunk_without_further_attempts(
    run: tuple[str, Plan], tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BACKOFF", 0.001)
    plan = pipeline.plan(run[0], source=tmp_path / "sas")
    assert plan.config.retries == 1
    path = "sdss/spectro/redux/26/spectra/lite/0266/spec-0266-51602-0166.fits"  # of row 2
    break_file(tmp_path / "sas" / path)
    before = failures(INGEST)
    outcome = do(run, INGEST)
    assert outcome.record is None
    assert str(outcome.reason).startswith(f"{path}: OSError: ")
    assert str(outcome.reason).endswith("(attempt 2)"), "the source itself has tried once more, as planned"
    assert pauses == []
    assert failures(INGEST) == before + 1


@pytest.fixture
def obstacle(run: tuple[str, Plan]) -> Path:
    """Put a folder where an object of the chunk would be: nobody can write there."""
    folder = Path(run[0]) / "spectra.zarr" / "norm" / "c" / "1"
    folder.mkdir(parents=True)
    return folder


def test_a_fault_of_the_store_is_tried_again_until_it_has_passed(
    run: tuple[str, Plan], obstacle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            obstacle.rmdir()

    monkeypatch.setattr(retry.time, "sleep", pause)
    outcome = do(run, INGEST)
    assert (outcome.reason, pauses) == (None, [1.0, 2.0])
    assert ingest_ledger(*run).done() == {1}


def test_a_fault_of_the_store_that_does_not_pass_fails_the_chunk_with_the_number_of_attempts(
    run: tuple[str, Plan], obstacle: Path, pauses: list[float]
) -> None:
    before = failures(INGEST)
    outcome = do(run, INGEST)
    assert outcome.record is None
    assert str(outcome.reason).startswith("IsADirectoryError: ")
    assert str(outcome.reason).endswith("(3 attempts)")
    assert pauses == [1.0, 2.0]
    assert failures(INGEST) == before + 1
    assert ingest_ledger(*run).done() == set()


@pytest.mark.parametrize(
    "error",
    [
        ArithmeticError("x"),
        AssertionError("x"),
        AttributeError("x"),
        ConfigError("key", 1, "2"),
        KeyError("x"),
        MemoryError("x"),
        NotImplementedError("x"),
        PermissionError("x"),
        SourceError("x"),
        TypeError("x"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
        ValueError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_permanent_faults_are_not_repeated(
    error: Exception, tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fail_with(monkeypatch, error)
    outcome = attempt(str(tmp_path), "0" * 64, INGEST, QUOTA)
    assert outcome == Outcome(INGEST, None, reason_of(error))
    assert (calls, pauses) == ([CHUNK], [])


@pytest.mark.parametrize(
    "error",
    [ConnectionError("x"), EOFError("x"), FileNotFoundError("x"), OSError("x"), RuntimeError("x"), TimeoutError("x")],
    ids=lambda error: type(error).__name__,
)
def test_faults_that_may_pass_are_repeated(
    error: Exception, tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fail_with(monkeypatch, error)
    assert attempt(str(tmp_path), "0" * 64, INGEST, QUOTA) == Outcome(INGEST, {"spectra": 2})
    assert (calls, pauses) == ([CHUNK, CHUNK], [1.0])


def test_the_number_of_attempts_counts_those_before_a_permanent_fault(
    tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, OSError("no answer"), ValueError("wrong answer"))
    outcome = attempt(str(tmp_path), "0" * 64, INGEST, QUOTA)
    assert outcome.reason == "ValueError: wrong answer (2 attempts)"


def test_every_failed_attempt_is_logged(
    tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pipeline")  # the command, run by other tests, raises it
    fail_with(monkeypatch, OSError("no answer"), OSError("again"))
    attempt(str(tmp_path), "0" * 64, INGEST, QUOTA)
    assert caplog.messages == [
        "ingest 000001: attempt 1 failed: OSError: no answer",
        "ingest 000001: attempt 2 failed: OSError: again (2 attempts)",
    ]


def test_an_interruption_is_not_taken_for_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        attempt(str(tmp_path), "0" * 64, INGEST, QUOTA)


@pytest.mark.parametrize(
    ("error", "attempts", "text"),
    [
        (OSError("no answer"), 1, "OSError: no answer"),
        (OSError("no answer"), 3, "OSError: no answer (3 attempts)"),
        (OSError(), 1, "OSError: no message"),
        (RuntimeError("\n  first line\nsecond line\n"), 1, "RuntimeError: first line"),
        (SourceError("spec.fits: no answer"), 1, "spec.fits: no answer"),
        (ConfigError("shard", 3, "4", "plan again"), 1, "shard is 3, expected 4; plan again"),
    ],
)
def test_a_reason_is_one_line_that_says_what_kind_of_fault_it_was(error: Exception, attempts: int, text: str) -> None:
    assert reason_of(error, attempts) == text


def test_a_reason_holds_no_secrets() -> None:
    error = OSError("https://jane:secret@host/x.fits?X-Amz-Signature=abc is not there")
    assert reason_of(error) == "OSError: https://***@host/x.fits?*** is not there"


@given(st.text())
def test_a_reason_is_never_empty_and_never_more_than_one_line(text: str) -> None:
    reason = reason_of(SourceError(text))
    assert reason
    assert len(reason.splitlines()) == 1
