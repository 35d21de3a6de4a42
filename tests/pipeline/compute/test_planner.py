from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import storage
from pipeline.catalog import targets as target_table
from pipeline.catalog.targets import Selection
from pipeline.compute import planner
from pipeline.compute.choice import DEFAULT_MODEL
from pipeline.errors import ConfigError
from pipeline.planning.partition import choose_shard
from pipeline.planning.plan import Plan
from pipeline.store.root import read_plan
from spender_core.weights import PUBLISHED
from tests.planner import content, replan
from tests.running import random_checkpoint

ARCHIVE = "https://data.sdss.org/sas/dr17"
MakePlan = Callable[..., Plan]


def test_a_new_plan_is_written_with_its_targets(root: str, frame: pd.DataFrame, with_model: Plan) -> None:
    plan = with_model
    assert (plan.n_spectra, plan.shard, [model.name for model in plan.models]) == (8, 4, ["toy"])
    assert plan.config.release == "dr17"
    assert plan.models[0].resolved
    assert sorted(content(root)) == ["plan.json", "targets.parquet"]
    assert read_plan(root) == plan
    pd.testing.assert_frame_equal(target_table.read_rows(f"{root}/targets.parquet", 0, 8), frame)


def test_a_plan_is_made_away_from_a_local_disk(frame: pd.DataFrame) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    plan = planner.plan(root, targets=frame, settings={"source": ARCHIVE, "instrument": "boss"})
    assert read_plan(root) == plan
    storage.remove(root, recursive=True)


def test_targets_give_the_same_plan_in_memory_and_in_a_file(tmp_path: Path, frame: pd.DataFrame) -> None:
    file = tmp_path / "t.parquet"
    target_table.write_targets(frame, str(file))
    forms = {
        "frame": frame,
        "rows of a larger frame": pd.concat([frame.head(3), frame])[3:],
        "selection": Selection(frame, 100, {}),
        "text": str(file),
        "path": file,
    }
    plans, tables = {}, {}
    for name, targets in forms.items():
        root = str(tmp_path / name)
        plans[name] = planner.plan(root, targets=targets, settings={"source": ARCHIVE, "instrument": "boss"})
        tables[name] = Path(root, "targets.parquet").read_bytes()
    assert len({plan.ingest_fingerprint for plan in plans.values()}) == 1
    assert len(set(tables.values())) == 1
    assert plans["text"] == plans["path"]
    assert plans["text"].config.targets == str(file)
    assert plans["frame"].config.targets == str(tmp_path / "frame" / "targets.parquet")


@pytest.mark.parametrize(
    ("key", "targets", "settings"), [("--targets", None, {"source": ARCHIVE}), ("--source", 1, {})]
)
def test_a_new_plan_needs_targets_and_a_source(
    root: str, frame: pd.DataFrame, key: str, targets: int | None, settings: dict[str, str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        planner.plan(root, targets=targets and frame, settings=settings)
    error = caught.value
    assert (error.key, error.value, error.expected) == (key, None, "a URL")
    assert error.remedy == f"a new plan needs it: {root} has no plan yet"
    assert not Path(root).exists()


def test_without_a_model_a_new_plan_on_the_sdss_grid_takes_the_embedded_one(make_plan: MakePlan) -> None:
    (model,) = make_plan(settings={"instrument": "sdss"}).models
    assert (model.name, model.checkpoint) == (DEFAULT_MODEL, DEFAULT_MODEL)
    assert DEFAULT_MODEL == "sdss-galaxies"
    assert PUBLISHED[DEFAULT_MODEL].revision is None, "it comes with the package: nothing is fetched"


def test_without_a_model_a_plan_on_another_grid_has_none(make_plan: MakePlan) -> None:
    assert make_plan(settings={"instrument": "boss"}).models == ()


def test_the_embedded_model_is_not_added_to_a_plan_that_has_another(root: str, with_model: Plan) -> None:
    assert replan(root).models == with_model.models


def test_a_plan_made_with_an_earlier_default_keeps_it(root: str, make_plan: MakePlan) -> None:
    before = make_plan(settings={"instrument": "sdss"}, models=["sdss-demo"])
    assert replan(root, settings={"retries": 7}).models == before.models
    assert before.models[0].sha256.startswith(PUBLISHED["sdss-demo"].sha256)


def test_what_is_left_out_stays_as_planned(root: str, make_plan: MakePlan) -> None:
    before = make_plan(settings={"retries": 3, "layout": "spec", "max_requests": 7})
    files = content(root)
    assert replan(root) == before
    assert content(root) == files
    changed = replan(root, settings={"max_requests": 9})
    assert (changed.config.max_requests, changed.config.retries, changed.config.layout) == (9, 3, "spec")
    assert changed.ingest_fingerprint == before.ingest_fingerprint


def test_a_partition_that_was_chosen_stays_chosen_where_a_new_plan_would_have_another(
    root: str, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_plan(settings={"shard": None})
    monkeypatch.setattr("pipeline.planning.partition.MIN_SHARDS", 4)
    assert (before.shard, choose_shard(8)) == (1, (2, 2))
    again = replan(root, settings={"retries": 2})
    assert (again.shard, again.chunk) == (before.shard, before.chunk)


def test_the_same_plan_again_may_name_all_of_it(root: str, make_plan: MakePlan) -> None:
    before = make_plan()
    files = content(root)
    assert make_plan() == before
    assert content(root) == files


def test_a_model_is_added_to_those_that_are_planned(root: str, with_model: Plan, checkpoint: Path) -> None:
    other = random_checkpoint(checkpoint.parent, seed=2)
    plan = replan(root, models=[f"other={other}"])
    assert [model.name for model in plan.models] == ["other", "toy"]
    assert plan.model("toy") == with_model.model("toy")
    assert plan.model("other").sha256 != plan.model("toy").sha256


def test_a_moved_checkpoint_is_the_same_model(root: str, tmp_path: Path, with_model: Plan, checkpoint: Path) -> None:
    moved = tmp_path / "moved.pt"
    moved.write_bytes(checkpoint.read_bytes())
    plan = replan(root, models=[f"toy={moved}"])
    assert plan.model("toy").checkpoint == str(moved)
    assert plan.encode_fingerprint("toy") == with_model.encode_fingerprint("toy")


def test_another_checkpoint_under_a_name_that_is_taken_is_refused(
    root: str, with_model: Plan, checkpoint: Path
) -> None:
    files = content(root)
    with pytest.raises(ConfigError, match="checkpoint of model toy") as caught:
        replan(root, models=[f"toy={random_checkpoint(checkpoint.parent, seed=2)}"])
    assert (caught.value.key, caught.value.value) == ("model", "toy")
    assert "--model NAME=M" in caught.value.remedy
    assert content(root) == files


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"shard": 2}, "shard: 2 here, 4 in the existing plan; chunk: 2 here, 4 in the existing plan"),
        ({"chunk": 1}, "chunk: 1 here, 4 in the existing plan"),
        ({"layout": "spec"}, "layout: spec here, spec-lite in the existing plan"),
        ({"instrument": "sdss"}, "instrument: sdss here, boss in the existing plan"),
    ],
    ids=str,
)
def test_another_plan_in_the_same_root_is_refused_by_what_differs(
    root: str, make_plan: MakePlan, settings: dict[str, Any], difference: str
) -> None:
    make_plan()
    files = content(root)
    with pytest.raises(ConfigError) as caught:
        replan(root, settings=settings)
    error = caught.value
    assert (error.key, error.value, error.remedy) == ("ROOT", root, "choose another ROOT")
    assert error.expected == f"a ROOT with the same plan ({difference})"
    assert content(root) == files


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("another redshift", "has z 0.1 here, and 0.0 in the run"),
        ("fewer rows", "has these 7 targets and 1 more"),
        ("another position", "has these targets with other coordinates"),
    ],
)
def test_other_targets_in_the_same_root_are_refused(
    root: str, frame: pd.DataFrame, make_plan: MakePlan, change: str, words: str
) -> None:
    make_plan()
    files = content(root)
    column = "z" if change == "another redshift" else "ra"
    other = frame.head(7) if change == "fewer rows" else frame.assign(**{column: frame[column] + np.float32(0.1)})
    with pytest.raises(ConfigError, match=words):
        replan(root, targets=other)
    assert content(root) == files


def test_another_mirror_of_the_release_is_the_same_plan(root: str, make_plan: MakePlan) -> None:
    before = make_plan()
    for source in ("s3://mirror/DR17", "/mirrors/sdss"):
        plan = replan(root, settings={"source": source})
        assert (plan.config.source, plan.config.release) == (source, "dr17")
        assert plan.ingest_fingerprint == before.ingest_fingerprint


def test_a_source_of_another_release_is_refused(root: str, make_plan: MakePlan) -> None:
    make_plan()
    files = content(root)
    with pytest.raises(ConfigError) as caught:
        replan(root, settings={"source": "https://data.sdss.org/sas/dr16"})
    error = caught.value
    assert (error.key, error.value) == ("source", "https://data.sdss.org/sas/dr16")
    assert error.expected == "a mirror of dr17, the release of the plan"
    assert "another ROOT" in error.remedy
    assert content(root) == files


def test_a_release_that_no_source_has_named_is_read_from_the_next(root: str, make_plan: MakePlan) -> None:
    assert make_plan(settings={"source": "/mirrors/sdss"}).config.release == ""
    assert replan(root, settings={"source": ARCHIVE}).config.release == "dr17"
