"""The density of a plan's model: what is fingerprinted, kept and refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.errors import ConfigError
from pipeline.planning.density import SCORES, density_variables
from pipeline.planning.memory import projected_memory
from pipeline.planning.plan import Plan
from pipeline.planning.stages import STAGES, source_of
from pipeline.surveys.columns import Coordinate

FIRST, SECOND = "12" * 32, "34" * 32


def with_density(plan: Plan, sha256: str = FIRST) -> Plan:
    (model,) = plan.models
    return plan.with_model(replace(model, density="s3://bucket/flow.pt", density_sha256=sha256))


def test_stages_follow_each_other() -> None:
    assert [source_of((stage, "m")) for stage in STAGES] == [None, ("ingest", None), ("encode", "m")]


def test_a_density_changes_its_own_fingerprint_alone(plan: Plan) -> None:
    (name,) = (model.name for model in plan.models)
    one, other = with_density(plan), with_density(plan, SECOND)
    assert {each.encode_fingerprint(name) for each in (plan, one, other)} == {plan.encode_fingerprint(name)}
    assert one.density_fingerprint(name) != other.density_fingerprint(name)
    assert one.difference(other) == []


def test_the_place_of_a_density_changes_nothing(plan: Plan) -> None:
    one = with_density(plan)
    (model,) = one.models
    moved = one.with_model(replace(model, density="/elsewhere/flow.pt"))
    assert moved.density_fingerprint(model.name) == one.density_fingerprint(model.name)


def test_a_model_that_is_planned_again_keeps_its_density(plan: Plan) -> None:
    (model,) = plan.models
    assert with_density(plan).with_model(model).model(model.name).density_sha256 == FIRST


def test_a_plan_is_read_as_it_was_written_and_no_other(plan: Plan) -> None:
    made = with_density(plan)
    assert Plan.from_json(made.to_json()) == made
    assert b"density" not in plan.to_json()
    values = json.loads(made.to_json())
    values["models"][0]["density_sha256"] = SECOND
    with pytest.raises(ConfigError, match="density_fingerprints"):
        Plan.from_json(json.dumps(values))
    values["models"][0]["density_sha256"] = "short"
    with pytest.raises(ConfigError, match="64 lower-case"):
        Plan.from_json(json.dumps(values))


def test_columns_of_targets_do_not_take_the_names_of_scores(plan: Plan) -> None:
    kept = replace(plan, kept={"log_prob": Coordinate("float64", {})})  # as a plan without a density may
    with pytest.raises(ConfigError, match="every run has a variable log_prob; rename the column"):
        with_density(kept)


def test_noise_is_scored_where_the_covariance_is_known() -> None:
    assert set(density_variables(with_covariance=True)) == {*SCORES, "quality"}
    assert set(density_variables(with_covariance=False)) == {*SCORES, "quality"} - {"log_prob_noise"}


def test_a_density_takes_less_memory_than_encoding(plan: Plan) -> None:
    made = with_density(plan)
    (model,) = made.models
    assert 0 < projected_memory(made, "density", model) < projected_memory(made, "encode", model)
    with pytest.raises(ValueError, match="a task of density"):
        projected_memory(made, "density")
