from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.compute import job
from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Generation, Plan
from pipeline.store.ledger import Ledger
from pipeline.store.root import density_ledger, encode_ledger, ingest_ledger

BOTH = ("ingest", "encode")
MODELS = ("first", "second")
CONFIG = SurveyConfig(source="https://data.sdss.org/sas/dr17", targets="targets.parquet", shard=4, chunk=2)


def planned() -> Plan:
    """Plan three chunks and two models; no targets table is needed to list what is pending."""
    plan = Plan(config=CONFIG, generations=(Generation(10, "cd" * 32),), shard=4, chunk=2)
    for name in MODELS:
        model = ModelConfig(name=name, checkpoint=f"{name}.pt", sha256="ab" * 32, n_latent=3, n_rest=50)
        plan = plan.with_model(model)
    return plan


@contextmanager
def new_root() -> Iterator[str]:
    root = f"memory://{uuid.uuid4().hex}"
    yield root
    if storage.exists(root):
        storage.remove(root, recursive=True)


@pytest.fixture
def root() -> Iterator[str]:
    with new_root() as place:
        yield place


@pytest.fixture
def plan() -> Plan:
    return planned()


def mark(ledger: Ledger, *indices: int) -> None:
    for index in indices:
        ledger.mark(index, {})


def names(found: job.Job) -> list[str]:
    return [str(task) for task in found.tasks]


def stale(found: job.Job) -> set[tuple[str | None, int]]:
    return {(ledger.model, index) for ledger, _, index in found.stale}


def test_in_a_new_root_everything_is_pending_a_chunks_ingest_before_its_encodings(root: str, plan: Plan) -> None:
    found = job.pending(root, plan, BOTH, MODELS)
    assert names(found) == [
        f"{stage} {index:06d}" for index in range(3) for stage in ("ingest", "encode first", "encode second")
    ]
    assert (found.total, found.done_before, found.ingested, found.stale) == (9, 0, frozenset(), [])


def test_to_look_writes_nothing(root: str, plan: Plan) -> None:
    job.pending(root, plan, BOTH, MODELS)
    assert not storage.exists(root)


def test_what_has_a_marker_is_not_pending(root: str, plan: Plan) -> None:
    mark(ingest_ledger(root, plan), 0, 1)
    mark(encode_ledger(root, plan, "first"), 1)
    found = job.pending(root, plan, BOTH, ("first",))
    assert names(found) == ["encode first 000000", "ingest 000002", "encode first 000002"]
    assert (found.total, found.done_before, found.ingested) == (6, 3, {0, 1})
    assert found.stale == []


def test_a_job_without_tasks_has_no_kinds(root: str, plan: Plan) -> None:
    mark(ingest_ledger(root, plan), 0, 1, 2)
    assert job.pending(root, plan, ("ingest",), ()).kinds == set()
    assert job.pending(root, plan, BOTH, MODELS).kinds == {("encode", "first"), ("encode", "second")}


def test_only_the_stages_and_models_asked_for_are_listed(root: str, plan: Plan) -> None:
    assert job.pending(root, plan, ("ingest",), MODELS).kinds == {("ingest", None)}
    mark(ingest_ledger(root, plan), 0, 1, 2)
    found = job.pending(root, plan, ("encode",), ("second",))
    assert found.kinds == {("encode", "second")}
    assert list(found.ledgers) == [("encode", "second")]
    assert found.total == 3


def test_spectra_that_are_ingested_again_are_encoded_again(root: str, plan: Plan) -> None:
    mark(ingest_ledger(root, plan), 0, 2)
    mark(encode_ledger(root, plan, "first"), 0, 1, 2)
    found = job.pending(root, plan, BOTH, ("first",))
    assert names(found) == ["ingest 000001", "encode first 000001"]
    assert stale(found) == {("first", 1)}


@pytest.mark.parametrize("models", [(), ("first",)], ids=str)
def test_encodings_whose_spectra_are_gone_are_stale_whatever_was_asked_for(
    root: str, plan: Plan, models: tuple[str, ...]
) -> None:
    mark(ingest_ledger(root, plan), 0)
    for name in MODELS:
        mark(encode_ledger(root, plan, name), 0, 2)
    assert stale(job.pending(root, plan, BOTH, models)) == {("first", 2), ("second", 2)}


def test_without_an_ingest_to_follow_encodings_stay_as_they_are(root: str, plan: Plan) -> None:
    mark(ingest_ledger(root, plan), 0)
    mark(encode_ledger(root, plan, "first"), 0, 2)
    found = job.pending(root, plan, ("encode",), ("first",))
    assert names(found) == ["encode first 000001"]
    assert found.stale == []


def test_to_look_removes_no_stale_marker(root: str, plan: Plan) -> None:
    mark(encode_ledger(root, plan, "first"), 1)
    assert job.pending(root, plan, BOTH, MODELS).stale
    assert encode_ledger(root, plan, "first").done() == {1}


def test_an_encoding_without_any_ingested_spectra_is_refused(root: str, plan: Plan) -> None:
    with pytest.raises(ConfigError) as caught:
        job.pending(root, plan, ("encode",), MODELS)
    error = caught.value
    assert (error.key, str(error)) == ("ROOT", f"the spectra of {root} are not ingested; run ingest first")
    assert error.remedy == "run ingest first"


def test_one_ingested_chunk_is_enough_to_begin_to_encode(root: str, plan: Plan) -> None:
    mark(ingest_ledger(root, plan), 2)
    assert len(job.pending(root, plan, ("encode",), MODELS).tasks) == 6


def test_where_all_is_encoded_the_spectra_are_not_asked_for(root: str, plan: Plan) -> None:
    mark(encode_ledger(root, plan, "first"), 0, 1, 2)
    assert job.pending(root, plan, ("encode",), ("first",)).tasks == []


def test_markers_of_another_fingerprint_do_not_count(root: str, plan: Plan) -> None:
    mark(ingest_ledger(root, plan), 0, 1, 2)
    mark(encode_ledger(root, plan, "first"), 0, 1, 2)
    other = replace(plan, chunk=4)
    assert job.pending(root, other, BOTH, MODELS).done_before == 0
    encoded_otherwise = replace(plan, models=tuple(replace(each, precision="bf16") for each in plan.models))
    assert job.pending(root, encoded_otherwise, BOTH, MODELS).done_before == 3


def test_failures_and_the_stores_own_marker_are_no_chunks(root: str, plan: Plan) -> None:
    ledger = ingest_ledger(root, plan)
    ledger.mark_store({})
    ledger.fail(1, {"reason": "no answer"})
    assert job.pending(root, plan, ("ingest",), ()).done_before == 0


def test_a_task_is_done_under_the_fingerprint_of_its_stage(root: str, plan: Plan) -> None:
    found = job.pending(root, plan, BOTH, MODELS)
    ingest, first, second = found.tasks[:3]
    assert found.fingerprint(ingest) == plan.ingest_fingerprint
    assert found.fingerprint(first) == plan.encode_fingerprint("first")
    assert found.fingerprint(second) == plan.encode_fingerprint("second")


def test_what_another_run_does_between_two_looks_is_not_taken_for_stale(
    root: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = Ledger.done, []

    def look_while_another_run_works(ledger: Ledger) -> set[int]:
        found = look(ledger)
        if not looks:
            mark(ingest_ledger(root, plan), 0)
            for name in MODELS:
                mark(encode_ledger(root, plan, name), 0)
        looks.append(ledger)
        return found

    monkeypatch.setattr(Ledger, "done", look_while_another_run_works)
    assert job.pending(root, plan, BOTH, MODELS).stale == []
    assert len(looks) == 3


CHUNKS = st.frozensets(st.integers(0, 2))


@pytest.mark.slow
@given(ingested=CHUNKS, encoded=CHUNKS, others=CHUNKS, model_names=st.sampled_from([(), ("first",), MODELS]))
def test_every_chunk_is_pending_or_done_and_no_encoding_outlives_its_spectra(
    ingested: frozenset[int], encoded: frozenset[int], others: frozenset[int], model_names: tuple[str, ...]
) -> None:
    plan = planned()
    with new_root() as root:
        mark(ingest_ledger(root, plan), *ingested)
        mark(encode_ledger(root, plan, "first"), *encoded)
        mark(encode_ledger(root, plan, "second"), *others)
        found = job.pending(root, plan, BOTH, model_names)
    pending = {(task.kind, task.shard.index) for task in found.tasks}
    assert len(pending) == len(found.tasks) == found.total - found.done_before
    assert {index for kind, index in pending if kind == ("ingest", None)} == {0, 1, 2} - ingested
    for name, marked in (("first", encoded), ("second", others)):
        if name in model_names:
            assert {index for kind, index in pending if kind[1] == name} == {0, 1, 2} - (marked & ingested)
    assert stale(found) == {("first", i) for i in encoded - ingested} | {("second", i) for i in others - ingested}


def test_densities_follow_their_encodings(root: str, plan: Plan) -> None:
    scored = replace(plan.model("first"), density="flow.pt", density_sha256="12" * 32)
    plan = plan.with_model(scored)
    mark(ingest_ledger(root, plan), 0, 1, 2)
    mark(encode_ledger(root, plan, "first"), 0, 2)
    mark(density_ledger(root, plan, "first"), 0, 1)
    every = (*BOTH, "density")
    found = job.pending(root, plan, every, ("first",))
    assert names(found) == [
        "encode first 000001",
        "density first 000001",
        "density first 000002",
    ]
    assert [(ledger.stage, source.stage, index) for ledger, source, index in found.stale] == [("density", "encode", 1)]
    assert names(job.pending(root, plan, ("density",), ("first",))) == ["density first 000002"]
    assert {task.source for task in found.tasks} == {
        (("ingest", None), 1),
        (("encode", "first"), 1),
        (("encode", "first"), 2),
    }
    ingest_ledger(root, plan).unmark(0)
    again = job.pending(root, plan, ("ingest",), ())
    assert {(ledger.stage, index) for ledger, _, index in again.stale} == {
        ("encode", 0),
        ("density", 0),
        ("density", 1),
    }
