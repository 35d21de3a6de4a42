"""What the spectra of a run were to the training of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pipeline
from pipeline.planning.plan import Generation, Plan
from pipeline.results.tables.split import NEITHER, TRAINING, UNKNOWN, VALIDATION, split_ids, split_of
from pipeline.spectra.quality import Quality
from pipeline.store.root import read_plan
from spender_core.dataset import SPLIT_RULE, validation
from tests.pipeline.conftest import MakeRun


@pytest.fixture
def plan(tmp_path: Path, make_run: MakeRun) -> Plan:
    make_run(tmp_path)
    return read_plan(str(tmp_path))


@pytest.fixture
def rows(tmp_path: Path, plan: Plan) -> pd.DataFrame:
    return pipeline.open_run(tmp_path).targets()


def entries(plan: Plan, **changes: object) -> dict[str, Any]:
    """Give what the trainer writes into a checkpoint of a model trained on this run."""
    run = {"survey": "sdss", "instrument": "sdss", "targets_sha256": plan.targets_sha256}
    return {"split": SPLIT_RULE, "data": {"runs": [run], "where": None, **changes}}


def test_a_run_that_was_trained_on_is_split_by_the_rule(plan: Plan, rows: pd.DataFrame) -> None:
    split = split_of(plan, entries(plan))
    quality = np.zeros(18, np.uint32)
    quality[3] = Quality.NO_NORM
    found = split.sample(0, rows, quality)
    valid = validation(split_ids(rows, "specobjid"))
    expected = np.where(valid, VALIDATION, TRAINING)
    expected[3] = NEITHER
    assert found.tolist() == expected.tolist()
    assert {TRAINING, VALIDATION} <= set(found.tolist())
    assert split.rule == SPLIT_RULE


def test_a_block_of_rows_gets_what_all_of_them_do(plan: Plan, rows: pd.DataFrame) -> None:
    split, quality = split_of(plan, entries(plan)), np.zeros(18, np.uint32)
    parts = [split.sample(start, rows.iloc[start : start + 8], quality[start : start + 8]) for start in (0, 8, 16)]
    assert np.concatenate(parts).tolist() == split.sample(0, rows, quality).tolist()


def test_a_condition_of_the_training_leaves_out_others(plan: Plan, rows: pd.DataFrame) -> None:
    split = split_of(plan, entries(plan, where="class == 'GALAXY'"))
    found = split.sample(0, rows, np.zeros(18, np.uint32))
    assert ((found == NEITHER) == (rows["class"] != "GALAXY").to_numpy()).all()
    assert "of the spectra where class == 'GALAXY'" in split.rule


def test_targets_that_were_added_since_are_neither(plan: Plan, rows: pd.DataFrame) -> None:
    grown = replace(plan, generations=(Generation(10, "earlier"), Generation(18, plan.targets_sha256)))
    trained = entries(plan)
    trained["data"]["runs"][0]["targets_sha256"] = "earlier"
    found = split_of(grown, trained).sample(0, rows, np.zeros(18, np.uint32))
    assert set(found[10:].tolist()) == {NEITHER}
    assert set(found[:10].tolist()) <= {TRAINING, VALIDATION}
    trained["data"]["runs"].append({"survey": "sdss", "instrument": "sdss", "targets_sha256": "another"})
    found = split_of(grown, trained).sample(0, rows, np.zeros(18, np.uint32))
    assert set(found[10:].tolist()) == {UNKNOWN}


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({}, "does not say"),
        (None, "cannot be read"),
        ({"split": "by a coin"}, "by a coin"),
        ({"split": SPLIT_RULE}, "other runs"),
        ({"split": SPLIT_RULE, "data": {"runs": [{"survey": "sdss", "targets_sha256": "x"}]}}, "other runs"),
    ],
)
def test_all_is_unknown_where_nothing_is_said(plan: Plan, rows: pd.DataFrame, said: Any, rule: str) -> None:
    split = split_of(plan, said)
    assert set(split.sample(0, rows, np.zeros(18, np.uint32)).tolist()) == {UNKNOWN}
    assert split.rule.startswith("unknown")
    assert rule in split.rule


def test_a_list_of_names_is_the_training_sample(plan: Plan, rows: pd.DataFrame) -> None:
    split = split_of(plan, {"trained_on": ["0300-51600-0003", "0999-51600-0001"]})
    found = split.sample(0, rows, np.zeros(18, np.uint32))
    assert np.flatnonzero(found == TRAINING).tolist() == [2]
    assert set(found.tolist()) == {TRAINING, NEITHER}
