from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog import targets
from pipeline.errors import ConfigError
from pipeline.surveys.sdss.ids import compose_specobjid
from tests.catalogs import csv, sdss_v, table


def test_composed_ids_are_the_real_ones(catalog: Path):
    frame = targets.read_targets(str(catalog))
    columns = (frame[name].to_numpy() for name in ("plate", "mjd", "fiberid"))
    composed = compose_specobjid(frame["run2d"].to_numpy(dtype=np.str_), *columns)
    np.testing.assert_array_equal(composed, frame["specobjid"])
    assert (frame["specobjid"] > 2**63).any()  # ids that no signed or floating column holds


@pytest.mark.parametrize("kind", ["text", "signed", "unsigned", "float"])
def test_ids_beyond_the_signed_range_survive(tmp_path: Path, kind: str):
    big = 11784853866143041536  # plate 10467, over 2^63
    values = {
        "text": pa.array([str(big), "", "7"]),
        "signed": pa.array([big - 2**64, None, 7], pa.int64()),
        "unsigned": pa.array([big, None, 7], pa.uint64()),
        "float": pa.array([float(big), None, 7.0]),
    }[kind]
    rows = pa.table({**table(), "SPECOBJID": values})
    pq.write_table(rows, tmp_path / "catalog.parquet")
    found = dict(
        zip(*(targets.read_targets(str(tmp_path / "catalog.parquet"))[c] for c in ("target", "specobjid")), strict=True)
    )
    own = 299489676975171584
    expected = {"26/266-51602-9": big, "26/266-51602-1": own, "v5_13_2/10467-58138-636": 7}
    if kind == "float":  # the last digits are gone: composed instead
        assert found["26/266-51602-1"] == own
        assert found["26/266-51602-9"] == own + (8 << 38)
    else:
        assert found == expected


def test_an_id_beyond_64_bits_is_0(tmp_path: Path):
    frame = targets.read_targets(csv(tmp_path, SPECOBJID=["1" * 26, "1", "2"]))
    assert sorted(frame["specobjid"]) == [0, 1, 2]


def test_a_numeric_run2d_column_is_text(tmp_path: Path):
    rows = pa.table(table(RUN2D=[26, 26, 103]))
    pq.write_table(rows, tmp_path / "catalog.parquet")
    assert targets.read_targets(str(tmp_path / "catalog.parquet"))["run2d"].tolist() == ["103", "26", "26"]
    assert targets.read_targets(csv(tmp_path, RUN2D=[26, 26, 103]), "RUN2D == '26'")["plate"].tolist() == [266, 266]


def test_a_run2d_with_leading_zeros_is_the_one_without(tmp_path: Path):
    frame = targets.read_targets(csv(tmp_path, RUN2D=["026", "26", "v5_13_2"]))
    assert frame["run2d"].tolist() == ["26", "26", "v5_13_2"]


@pytest.mark.parametrize("wrong", [[1.5, 2.5, 3.5], [-1, 2, 3], ["a", "b", "c"]])
def test_catalogids_that_are_no_ids_are_refused(tmp_path: Path, wrong: list[Any]):
    pd.DataFrame(sdss_v(CATALOGID=wrong)).to_parquet(tmp_path / "spAll.parquet")
    with pytest.raises(ConfigError, match="CATALOGID"):
        targets.read_targets(str(tmp_path / "spAll.parquet"))
