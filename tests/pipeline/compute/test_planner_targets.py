"""A lost table of targets is restored from the tables that the run was planned and extended with."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from pipeline.catalog import targets as target_table
from pipeline.errors import ConfigError
from pipeline.planning.plan import Plan
from pipeline.store import stores
from pipeline.surveys.columns import Coordinate
from tests.planner import content, replan

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeTargets

MakePlan = Callable[..., Plan]
KEPT = {"MAG": Coordinate("float64", {"units": "mag"}), "NOTE": Coordinate("str", {})}


def damage(root: str, how: str) -> None:
    file = Path(root, "targets.parquet")
    whole = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how in ("empty", "cut"):
        file.write_bytes(whole[: len(whole) // 2] if how == "cut" else b"")
    else:
        rows = pd.read_parquet(file)
        rows = rows.head(7) if how == "fewer rows" else rows.assign(z=rows["z"] + np.float32(0.1))
        target_table.write_targets(rows, str(file))


@pytest.fixture
def parts(tmp_path: Path, make_targets: MakeTargets) -> list[str]:
    """Three tables: the first is in no order of its own, the others repeat targets of those before."""
    frame = make_targets(20)
    frame["MAG"], frame["NOTE"] = np.arange(20) / 7, [f"no {i}" for i in range(20)]
    files = []
    for name, rows in {"c": [5, 2, 9, 3, 8], "a": [9, 1, 2, 14, 12], "b": [0, 1, 8, 19, 17, 18]}.items():
        files.append(str(tmp_path / f"{name}.parquet"))
        target_table.write_targets(frame.iloc[rows].reset_index(drop=True), files[-1], kept=KEPT)
    return files


@pytest.fixture
def grown(root: str, make_plan: MakePlan, parts: list[str]) -> dict[str, bytes]:
    """Give the files of a run that has grown twice."""
    plan = make_plan(targets=parts[0])
    stores.create(root, plan, [("ingest", None)])
    for part in parts[1:]:
        replan(root, targets=part, extend=True)
    assert [each.n_spectra for each in replan(root).generations] == [5, 8, 12]
    return content(root)


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "fewer rows", "others"])
def test_a_lost_table_is_restored_from_the_original(
    root: str, make_plan: MakePlan, frame: pd.DataFrame, tmp_path: Path, how: str
) -> None:
    original = str(tmp_path / "original.parquet")
    target_table.write_targets(frame, original, row_group=3)
    make_plan(targets=original)
    before = content(root)
    damage(root, how)
    with pytest.raises(ConfigError, match=f"restore it: spender-pipeline plan {root} --targets ORIGINAL") as caught:
        replan(root)
    assert "targets CATALOG" not in str(caught.value)  # another table than the original would be refused
    with pytest.raises(ConfigError, match="restore it"):
        replan(root, targets=original, extend=True)
    replan(root, targets=original)
    assert content(root) == before


def test_another_table_restores_nothing(root: str, make_plan: MakePlan, frame: pd.DataFrame) -> None:
    make_plan()
    damage(root, "cut")
    files = content(root)
    for other in (frame.head(7), frame.iloc[::-1], frame.assign(ra=frame["ra"] + 1)):
        with pytest.raises(ConfigError, match="makes the run's 8 targets .SHA-256"):
            replan(root, targets=other)
    assert content(root) == files


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_after_growth_all_tables_restore_it_in_any_order(
    root: str, parts: list[str], grown: dict[str, bytes], order: tuple[int, ...]
) -> None:
    damage(root, "gone")
    replan(root, targets=[parts[i] for i in order])
    assert content(root)["targets.parquet"] == grown["targets.parquet"]
    assert replan(root, targets=parts).generations == replan(root).generations  # once more: nothing to restore


def test_a_copy_of_the_runs_own_table_stands_for_all_that_it_holds(
    root: str, parts: list[str], grown: dict[str, bytes], tmp_path: Path
) -> None:
    whole, early = tmp_path / "whole.parquet", tmp_path / "early.parquet"
    whole.write_bytes(grown["targets.parquet"])
    target_table.write_targets(target_table.read_rows(str(whole), 0, 8, kept=KEPT), str(early), kept=KEPT)
    for tables in (str(whole), [parts[2], str(early)]):
        damage(root, "gone")
        replan(root, targets=tables)
        assert content(root)["targets.parquet"] == grown["targets.parquet"]


def test_the_generation_that_no_table_makes_is_named(root: str, parts: list[str], grown: dict[str, bytes]) -> None:
    damage(root, "gone")
    files = content(root)
    with pytest.raises(ConfigError, match="all 3 tables that the run was planned and extended with, in any order"):
        replan(root)
    for tables, words in (
        (parts[0], "generation 2 of the targets, 8 in all"),
        ([parts[2], parts[0]], "generation 2"),
        (parts[:2], "generation 3"),
        (parts[1:], "generation 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            replan(root, targets=tables)
    assert content(root) == files


def test_kept_columns_are_compared_with_the_stores(root: str, parts: list[str], grown: dict[str, bytes]) -> None:
    rows = pd.read_parquet(parts[2])
    target_table.write_targets(rows.assign(NOTE=[*rows["NOTE"][:-1], "another"]), parts[2], kept=KEPT)
    damage(root, "gone")
    with pytest.raises(ConfigError, match="the column NOTE of the tables given has other values"):
        replan(root, targets=parts)


def test_a_new_plan_and_an_extension_take_one_table(root: str, make_plan: MakePlan, parts: list[str]) -> None:
    with pytest.raises(ConfigError, match="then add each other with --extend"):
        make_plan(targets=parts)
    make_plan(targets=parts[0])
    with pytest.raises(ConfigError, match="2 tables of targets are given"):
        replan(root, targets=parts[1:], extend=True)
