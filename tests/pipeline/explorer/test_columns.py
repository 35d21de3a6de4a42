"""Columns in memory are those of the table, a value for each row of the run."""

from __future__ import annotations

import numpy as np
import pytest

import pipeline
from pipeline.errors import ConfigError
from pipeline.explorer import columns as module
from pipeline.explorer.columns import OTHERS, Columns
from tests.pipeline.explorer.conftest import NOT_DONE

pytestmark = pytest.mark.slow


@pytest.fixture
def columns(run: pipeline.Run) -> Columns:
    return Columns(run.results("toy"))


def test_every_column_of_numbers_is_that_of_the_table(run: pipeline.Run, columns: Columns) -> None:
    table = run.table("toy")
    assert columns.numbers[:3] == ["l0", "l1", "l2"]
    assert {"ra", "z", "norm"} <= set(columns.numbers)
    for name in columns.numbers:
        values = columns.number(name)
        assert values.shape == (18,)
        assert np.isnan(values[NOT_DONE]).all()
        np.testing.assert_array_equal(values[table.index], table[name].to_numpy(np.float32), err_msg=name)


def test_words_are_numbered_by_how_frequent_they_are(run: pipeline.Run, columns: Columns) -> None:
    groups = columns.groups("class")
    table = run.table("toy")
    assert set(groups.names) == {"GALAXY", "QSO", "STAR"}
    assert (groups.number[NOT_DONE] == -1).all()
    assert [groups.names[number] for number in groups.number[table.index]] == table["class"].tolist()
    counts = np.bincount(groups.number[groups.number >= 0])
    assert counts.tolist() == sorted(counts, reverse=True)


def test_rare_words_are_one_group(columns: Columns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WORDS", 2)
    groups = columns.groups("class")
    assert groups.names[1:] == (OTHERS,)
    assert set(groups.number.tolist()) == {-1, 0, 1}


def test_quality_is_in_words(columns: Columns) -> None:
    assert columns.groups("quality_words").names == ("GOOD",)


@pytest.mark.parametrize("name", ["nonsense", "class", "latents"])
def test_what_is_no_column_of_numbers_is_refused(columns: Columns, name: str) -> None:
    with pytest.raises(ConfigError, match="one of l0, l1"):
        columns.number(name)
    with pytest.raises(ConfigError, match="one of run2d, class"):
        columns.groups("z")
