from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.catalog import targets
from pipeline.catalog.kept import kept_columns
from pipeline.errors import ConfigError
from pipeline.surveys.columns import Coordinate
from pipeline.surveys.sdss.survey import SDSS


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "MASS": [1.5, np.nan, 3.0],
            "MASS32": np.array([1, 2, 3], np.float32),
            "COUNT": [1, 2, 3],
            "SMALL": np.array([1, 2, 3], np.int16),
            "SOME": pd.array([1, None, 3], dtype="Int64"),
            "IS_AGN": [True, False, True],
            "NOTE": ["a", None, ""],
            "WHEN": pd.to_datetime(["2020-01-01"] * 3),
            "LISTS": [[1], [2], [3]],
        }
    )


def test_numbers_keep_their_types_and_missing_values_are_nan_or_empty() -> None:
    names = ["MASS", "MASS32", "COUNT", "SMALL", "SOME", "IS_AGN", "NOTE"]
    made, kept = kept_columns(frame(), names, SDSS, {"MASS": {"units": "solMass"}})
    assert {name: each.dtype for name, each in kept.items()} == {
        "MASS": "float64",
        "MASS32": "float32",
        "COUNT": "int64",
        "SMALL": "int16",
        "SOME": "float64",
        "IS_AGN": "bool",
        "NOTE": "str",
    }
    assert kept["MASS"].attributes == {"units": "solMass"}
    assert made["SOME"].isna().tolist() == [False, True, False]
    assert made["NOTE"].tolist() == ["a", "", ""]


@pytest.mark.parametrize("name", ["WHEN", "LISTS"])
def test_other_types_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"targets column {name} is .*, expected numbers or text"):
        kept_columns(frame(), [name], SDSS)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "_x"])
def test_names_that_are_no_names_of_variables_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="keep is "):
        kept_columns(frame().rename(columns={"MASS": name}), [name], SDSS)


def test_what_every_run_has_or_the_table_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="z is a column that every run has"):
        kept_columns(frame().assign(z=0.1), ["z"], SDSS)
    with pytest.raises(ConfigError, match="keep is 'NONE', expected a column of the targets: MASS, "):
        kept_columns(frame(), ["NONE"], SDSS)


def test_a_table_carries_them_with_their_attributes(tmp_path: Path, make_targets) -> None:
    rows = make_targets(3).assign(MASS=[1.5, np.nan, 3.0], NOTE=["a", "", "c"])
    kept = {"MASS": Coordinate("float64", {"units": "solMass"}), "NOTE": Coordinate("str")}
    url = str(tmp_path / "t.parquet")
    targets.write_targets(rows, url, kept=kept)
    assert targets.read_table(url, SDSS)[1] == kept
    found = targets.read_rows(url, 1, 3, SDSS, kept)
    assert found["NOTE"].tolist() == ["", "c"]
    assert found["MASS"].isna().tolist() == [True, False]
    assert list(targets.read_rows(url, 0, 3, SDSS)) == list(SDSS.coordinates)
