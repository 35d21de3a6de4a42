from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.planning import plan as planning
from pipeline.planning.model import ModelConfig
from pipeline.planning.partition import MAX_SHARD, MICRO_BATCH, MIN_SHARDS, choose_micro_batch, choose_shard, partition
from pipeline.planning.plan import Generation, Plan, targets_sha256
from pipeline.spectra.quality import Quality
from pipeline.storage import canonical_json
from pipeline.surveys.sdss.survey import SDSS
from tests.planner import model, survey

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeTargets

COUNTS = st.integers(1, 10_000_000)


@given(n=st.integers(0, 20_000), shard=st.integers(1, MAX_SHARD))
def test_partition_covers_every_row_once_in_whole_shards(n: int, shard: int) -> None:
    shards = partition(n, shard)
    assert [each.index for each in shards] == list(range(len(shards)))
    edges = [0] + [each.stop for each in shards]
    assert [each.start for each in shards] == edges[:-1]
    assert edges[-1] == n
    assert all(each.start % shard == 0 and 0 < len(each) <= shard for each in shards)
    assert all(len(each) == shard for each in shards[:-1])


@given(n=COUNTS)
def test_chosen_shard_is_bounded_and_made_of_whole_inner_chunks(n: int) -> None:
    shard, chunk = choose_shard(n)
    assert 1 <= shard <= MAX_SHARD
    assert shard % chunk == 0


@given(n=COUNTS)
def test_small_runs_have_enough_chunks(n: int) -> None:
    shard, _ = choose_shard(n)
    assert len(partition(n, shard)) >= min(n, MIN_SHARDS)


@given(n=COUNTS, shard=st.integers(1, MAX_SHARD))
def test_a_wished_shard_is_kept(n: int, shard: int) -> None:
    chosen, chunk = choose_shard(n, shard)
    assert chosen == shard
    assert shard % chunk == 0


@given(n=COUNTS, chunk=st.integers(1, MAX_SHARD))
def test_a_wished_inner_chunk_is_kept(n: int, chunk: int) -> None:
    shard, chosen = choose_shard(n, chunk=chunk)
    assert chosen == chunk
    assert shard % chunk == 0
    assert shard <= MAX_SHARD


@pytest.mark.parametrize(
    ("n", "expected"), [(1, (1, 1)), (10, (1, 1)), (117, (7, 7)), (1000, (64, 32)), (5_000_000, (4096, 32))]
)
def test_sizes_of_typical_surveys(n: int, expected: tuple[int, int]) -> None:
    assert choose_shard(n) == expected


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((0,), "targets"),
        ((10, 0), "shard"),
        ((10, MAX_SHARD + 1), "shard"),
        ((10, 8, 3), "chunk"),
        ((10, 8, 0), "chunk"),
    ],
)
def test_impossible_wishes_are_refused_by_key(arguments: tuple[int, ...], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_shard(*arguments)
    assert caught.value.key == key


def test_micro_batch_does_not_exceed_the_task() -> None:
    assert choose_micro_batch(7) == 7
    assert choose_micro_batch(MAX_SHARD) == MICRO_BATCH


def test_hash_of_the_targets_depends_on_every_column_and_on_their_order(make_targets: MakeTargets) -> None:
    frame = make_targets(20)
    hashes = {
        targets_sha256(frame, SDSS.coordinates),
        targets_sha256(frame.iloc[::-1], SDSS.coordinates),
        targets_sha256(frame.iloc[:19], SDSS.coordinates),
    }
    for name in frame:
        other = [f"{value}x" for value in frame[name]] if isinstance(frame[name].iloc[0], str) else 77
        hashes.add(targets_sha256(frame.assign(**{name: other}), SDSS.coordinates))
    assert len(hashes) == 3 + len(frame.columns)


def test_hash_of_the_targets_is_of_the_values_and_not_of_their_types(make_targets: MakeTargets) -> None:
    frame = make_targets(20)
    other = frame.astype({"plate": "int64", "fiberid": "int16", "run2d": object, "z": "float64", "target": object})
    other = other[list(reversed(other.columns))].set_index(np.arange(20) + 7)
    assert targets_sha256(other, SDSS.coordinates) == targets_sha256(frame, SDSS.coordinates)


def test_every_nan_is_the_same(make_targets: MakeTargets) -> None:
    frame = make_targets(3)
    other = frame.assign(sn_median=np.array([0x7FC00001, 0xFFC00000, 0x7FC00000], np.uint32).view(np.float32))
    assert targets_sha256(other, SDSS.coordinates) == targets_sha256(frame, SDSS.coordinates)


@pytest.mark.parametrize(("key", "value"), [("layout", "spPlatte"), ("instrument", "desi")])
def test_what_the_survey_does_not_have_is_refused_by_its_key(
    key: str, value: str, plan: Plan, make_targets: MakeTargets
) -> None:
    config = survey(**{key: value})
    for make in (lambda: Plan.create(config, make_targets(3)), lambda: planning.replace(plan, config=config)):
        with pytest.raises(ConfigError) as caught:
            make()
        assert caught.value.key == key
        assert caught.value.value == value


def test_plan_survives_the_round_trip(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(plan.to_json().decode()) == plan


def test_equal_plans_are_equal_bytes(plan: Plan, make_targets: MakeTargets) -> None:
    again = Plan.create(survey(), make_targets(100)).with_model(model())
    assert again.to_json() == plan.to_json()


def test_plan_holds_no_secret_and_no_time(plan: Plan) -> None:
    assert set(json.loads(plan.to_json())) == {
        "plan_version",
        "schema_version",
        "normalization_version",
        "encoding_version",
        "config",
        "shard",
        "chunk",
        "codecs",
        "generations",
        "kept",
        "models",
        "fingerprint",
        "model_fingerprints",
        "targets_fingerprint",
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plan_version": 1}', b"\xff"])
def test_text_that_is_no_plan_is_refused(text: str | bytes) -> None:
    with pytest.raises(ConfigError, match=r"plan\.json"):
        Plan.from_json(text)


def test_plan_of_a_later_format_is_refused(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="plan_version is 99, expected 1 or 2;"):
        Plan.from_json(json.dumps(json.loads(plan.to_json()) | {"plan_version": 99}))


@pytest.mark.parametrize("version", ["plan", "schema", "normalization", "encoding"])
def test_a_plan_of_another_version_is_read_and_not_gone_on_with(plan: Plan, version: str) -> None:
    other = replace(plan, **{f"{version}_version": 1 if version in ("plan", "schema") else 77})
    with pytest.raises(ConfigError, match=rf"{version}_version is \d+, expected \d in .*; it can be read"):
        other.require_current()
    plan.require_current()


def test_model_edited_by_hand_is_refused(plan: Plan) -> None:
    values = json.loads(plan.with_model(model()).to_json())
    values["models"][0]["precision"] = "bf16"
    with pytest.raises(ConfigError, match=r"plan\.json model_fingerprints"):
        Plan.from_json(json.dumps(values))


@pytest.mark.parametrize(("key", "value"), [("generations", "x"), ("config", 3), ("models", 7), ("kept", 5)])
def test_plan_edited_to_other_types_is_refused(plan: Plan, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=r"plan\.json"):
        Plan.from_json(json.dumps(json.loads(plan.to_json()) | {key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shard", 3),
        ("kept", [{"name": "A", "dtype": "int32", "attributes": {}}]),
        ("generations", [{"n_spectra": 99, "targets_sha256": "0" * 64}]),
    ],
)
def test_plan_edited_by_hand_is_refused(plan: Plan, key: str, value: object) -> None:
    values = json.loads(plan.to_json()) | {key: value, "chunk": 1 if key == "shard" else plan.chunk}
    with pytest.raises(ConfigError, match=r"plan\.json (targets_)?fingerprint"):
        Plan.from_json(json.dumps(values))


@pytest.mark.parametrize(
    "change",
    [
        {"source": "http://mirror/dr17"},
        {"concurrency": 2},
        {"retries": 9},
        {"targets": "x"},
        {"storage": {"s3://b": {"anonymous": True}}},
    ],
)
def test_fingerprint_ignores_what_changes_no_number(
    change: dict[str, object], plan: Plan, make_targets: MakeTargets
) -> None:
    other = Plan.create(survey(**change), make_targets(100)).with_model(model(checkpoint="elsewhere/m.pt"))
    assert other.ingest_fingerprint == plan.ingest_fingerprint
    assert other.encode_fingerprint("m") == plan.encode_fingerprint("m")
    assert other.difference(plan) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [({"instrument": "boss"}, "instrument: boss here, sdss in the existing plan"), ({"shard": 3}, "shard: 3 here, 6")],
)
def test_difference_names_what_differs(
    change: dict[str, object], named: str, plan: Plan, make_targets: MakeTargets
) -> None:
    other = Plan.create(survey(**change), make_targets(100))
    assert other.ingest_fingerprint != plan.ingest_fingerprint
    assert any(sentence.startswith(named) for sentence in other.difference(plan))


def test_other_targets_change_no_fingerprint(plan: Plan, make_targets: MakeTargets) -> None:
    frame = make_targets(100)
    frame.loc[3, "z"] = np.float32(0.5)
    other = Plan.create(survey(), frame)
    assert other.difference(plan) == []
    assert (other.ingest_fingerprint, other.targets_sha256 == plan.targets_sha256) == (plan.ingest_fingerprint, False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sha256": "cd" * 32}, "checkpoint of model m: cdcdcdcdcdcd... here, abababababab... in the existing plan"),
        ({"precision": "bf16"}, "precision of model m: bf16 here, float32"),
        ({"variables": ["latents"]}, "variables of model m: latents here, latents,restframe"),
        ({"micro_batch": 8}, "micro-batch of model m: 8 here, 16"),
        ({"n_latent": 7}, "latents of model m: 7 here, 6"),
    ],
)
def test_same_model_name_with_other_numbers_is_refused_by_name(
    change: dict[str, object], named: str, plan: Plan
) -> None:
    changed = model(**change)
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")) as caught:
        plan.with_model(changed)
    assert "--model NAME=M" in caught.value.remedy
    alone = Plan.from_json(plan.to_json())
    other = planning.replace(alone, models=(changed,))
    assert any(sentence.startswith(named) for sentence in other.difference(plan))
    assert other.encode_fingerprint("m") != plan.encode_fingerprint("m")


def test_a_second_model_joins_without_touching_the_first(plan: Plan) -> None:
    both = plan.with_model(model(name="a", sha256="cd" * 32))
    assert [each.name for each in both.models] == ["a", "m"]
    assert both.ingest_fingerprint == plan.ingest_fingerprint
    assert both.encode_fingerprint("m") == plan.encode_fingerprint("m")
    assert both.encode_fingerprint("a") != plan.encode_fingerprint("m")
    assert both.difference(plan) == []


def test_the_same_model_again_changes_nothing(plan: Plan) -> None:
    assert plan.with_model(model()) == plan
    assert plan.with_model(model(checkpoint="moved/m.pt")).models[0].checkpoint == "moved/m.pt"


def test_open_micro_batch_is_chosen_when_the_model_joins(plan: Plan) -> None:
    joined = plan.with_model(model(name="n", micro_batch=None))
    assert joined.model("n").micro_batch == choose_micro_batch(plan.shard)


def test_unresolved_model_cannot_join(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="hash and sizes"):
        plan.with_model(ModelConfig(name="x", checkpoint="x.pt"))


def test_unknown_model_is_refused_naming_the_known(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="plan's models: m"):
        plan.encode_fingerprint("other")


def test_fingerprints_are_pinned() -> None:
    # They name the ledger's folders: a change orphans every run that exists, so it must be meant, and be announced.
    plan = Plan(config=survey(), generations=(Generation(100, "0" * 64),), shard=4, chunk=2, models=(model(),))
    assert plan.ingest_fingerprint == "b942c8a8a6b4c67a7973eecf2de83aa618c416eec21ec58e8b522615df0eeaa0"
    assert plan.encode_fingerprint("m") == "78ac04befe9a99b0ac8f23cbefa5f6e980962479f8734870f407944f3b57526d"


def test_fingerprints_of_runs_with_earlier_outputs_are_kept() -> None:
    earlier = ("latents", "restframe", "chi2", "n_pixels", "amplitude", "rest_first", "rest_last")
    config = replace(model(), variables=earlier)
    plan = Plan(config=survey(), generations=(Generation(100, "0" * 64),), shard=4, chunk=2, models=(config,))
    assert plan.encode_fingerprint("m") == "24238122a467fde11a53446c3ac630e8d96afc3c2a501d99ecfc498813d20733"


def test_a_survey_of_millions_is_planned_in_seconds() -> None:
    n = 500_000
    row = np.arange(n)
    frame = pd.DataFrame({name: np.zeros(n, np.float32) for name in ("z", "z_err", "sn_median", "ra", "dec")})
    frame = frame.assign(plate=row, mjd=row, fiberid=row, zwarning=0, specobjid=row.astype(np.uint64))
    frame = frame.assign(target=pd.Series([f"26/{i}" for i in row], dtype="str"), run2d="26")
    frame["class"] = "GALAXY"
    start = time.perf_counter()
    made = Plan.create(survey(), frame)
    assert len(made.shards()) == 123
    assert time.perf_counter() - start < 5


def test_a_plan_without_codecs_keeps_the_first_ones(plan: Plan) -> None:
    values = json.loads(plan.to_json())
    del values["codecs"]
    text = canonical_json(values)
    begun = Plan.from_json(text)
    assert begun.codecs == 1
    assert begun.to_json() == text
    assert begun.ingest_fingerprint == plan.ingest_fingerprint
    with pytest.raises(ConfigError, match=r"plan.json codecs is 3, expected a whole number of 1 to 2"):
        Plan.from_json(canonical_json({**values, "codecs": 3}))


def test_without_a_redshift_there_were_no_latents_in_runs_of_earlier_versions(plan: Plan) -> None:
    assert plan.unusable == Quality.UNUSABLE
    assert replace(plan, encoding_version=2).unusable == Quality.UNUSABLE | Quality.NO_REDSHIFT


NONSENSE = [None, "", -1, 0, 10**30, 1e308, True, [], {}, "x", [None], [{}], float("nan"), float("inf"), "\ud800"]


def _places(value: object, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*place, key))


def test_a_nonsensical_plan_is_refused_or_read_but_never_breaks(make_targets: MakeTargets) -> None:
    text = Plan.create(survey(), make_targets(8)).with_model(model()).to_json()
    for place in _places(json.loads(text)):
        for value in NONSENSE:
            values = json.loads(text)
            inner = values
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            with suppress(ConfigError):
                Plan.from_json(json.dumps(values)).shards()


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"\0", b"[" * 100_000, b"9" * 5000, b"null", b'"plan_version"'])
def test_what_is_no_plan_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"plan\.json is not a plan of this program"):
        Plan.from_json(text)
