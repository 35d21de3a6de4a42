"""Columns that the folders of Parquet files name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.catalog.reader import open_catalog
from pipeline.catalog.targets import find_targets, read_targets
from pipeline.errors import ConfigError
from tests.catalogs import csv, table, write_as


@pytest.mark.parametrize("pattern", ["", "/*/*.parquet"])
def test_what_pandas_divides_by_reductions_is_one_catalog(tmp_path: Path, pattern: str) -> None:
    pd.DataFrame(table()).to_parquet(tmp_path / "parts", partition_cols=["RUN2D"])
    assert (tmp_path / "parts" / "RUN2D=v5_13_2").is_dir()
    pd.testing.assert_frame_equal(read_targets(f"{tmp_path}/parts{pattern}"), read_targets(csv(tmp_path)))


def test_a_file_of_a_divided_catalog_has_its_folders_columns(tmp_path: Path) -> None:
    pd.DataFrame(table()).to_parquet(tmp_path / "parts", partition_cols=["RUN2D"])
    (part,) = (tmp_path / "parts" / "RUN2D=v5_13_2").iterdir()
    assert read_targets(str(part))["target"].tolist() == ["v5_13_2/10467-58138-636"]


def test_numbers_text_and_missing_values_of_folders_can_be_kept_and_selected(tmp_path: Path) -> None:
    frame = pd.DataFrame(table(RUN2D=["26", "26", "v5_13_2"])).assign(
        tile=[7, 8, 8], name=["a/b", "7", "7"], size=[1.5, None, None]
    )
    frame.to_parquet(tmp_path / "parts", partition_cols=["tile", "name", "size"])
    found = find_targets(str(tmp_path / "parts"), keep=["tile", "name", "size"]).frame
    assert found["fiberid"].tolist() == [1, 9, 636]
    assert found["tile"].tolist() == [8, 7, 8]
    assert found["tile"].dtype.kind == "i"
    assert found["name"].tolist() == ["7", "a/b", "7"]
    assert found["size"].isna().tolist() == [True, False, True]
    assert find_targets(str(tmp_path / "parts"), "tile == 7").frame["fiberid"].tolist() == [9]
    with open_catalog(str(tmp_path / "parts")) as opened:
        assert sum(len(block["tile"]) for block in opened.blocks(["tile"], 10)) == 3


def test_a_column_of_the_file_goes_before_that_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "z=9").mkdir()
    write_as("parquet", tmp_path / "z=9" / "c.parquet", table())
    assert sorted(read_targets(str(tmp_path / "z=9"))["z"]) == pytest.approx([0.1, 0.2, 0.4])


def test_a_part_outside_of_the_folders_lacks_their_column(tmp_path: Path) -> None:
    pd.DataFrame(table()).to_parquet(tmp_path / "parts", partition_cols=["RUN2D"])
    write_as("parquet", tmp_path / "parts" / "odd.parquet", table(RUN2D=None))
    with pytest.raises(ConfigError, match=r"odd.parquet', expected a part with the columns RUN2D"):
        read_targets(str(tmp_path / "parts"))
