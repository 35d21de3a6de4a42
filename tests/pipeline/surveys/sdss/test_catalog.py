from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from pipeline.catalog import targets
from pipeline.errors import ConfigError
from tests.catalogs import COLUMNS, csv, real_rows, sdss_v, table


def test_the_real_catalog_gives_one_row_per_spectrum(catalog: Path):
    rows = real_rows(catalog)
    frame = targets.read_targets(str(catalog))
    assert list(frame.columns) == COLUMNS
    assert len(frame) == len(rows["Z"])
    order = np.lexsort([rows["FIBERID"], rows["MJD"], rows["PLATE"], rows["RUN2D"]])
    expected = {
        "specobjid": [int(text) for text in rows["SPECOBJID"][order]],
        "plate": rows["PLATE"][order],
        "mjd": rows["MJD"][order],
        "fiberid": rows["FIBERID"][order],
        "run2d": rows["RUN2D"][order],
        "ra": rows["PLUG_RA"][order],
        "dec": rows["PLUG_DEC"][order],
        "z": rows["Z"][order],
        "z_err": rows["Z_ERR"][order],
        "zwarning": rows["ZWARNING"][order],
        "class": rows["CLASS"][order],
        "sn_median": rows["SN_MEDIAN_ALL"][order],
    }
    for name, values in expected.items():
        assert frame[name].tolist() == list(values), name
    assert frame["target"][0] == f"{frame['run2d'][0]}/{frame['plate'][0]}-{frame['mjd'][0]}-{frame['fiberid'][0]}"


def test_columns_have_the_types_of_the_schema(catalog: Path):
    frame = targets.read_targets(str(catalog))
    numeric = {name: str(frame[name].dtype) for name in COLUMNS if name not in ("target", "run2d", "class")}
    assert numeric == {
        **{name: "int32" for name in ("plate", "mjd", "fiberid", "zwarning")},
        **{name: "float64" for name in ("ra", "dec")},
        **{name: "float32" for name in ("z", "z_err", "sn_median")},
        "specobjid": "uint64",
    }
    for name in ("target", "run2d", "class"):
        assert all(type(value) is str and value == value.strip() for value in frame[name])


def test_absent_columns_are_filled(tmp_path: Path):
    frame = targets.read_targets(csv(tmp_path, RUN2D=["26", "26", "master"]))
    assert frame["specobjid"].tolist()[:2] == [299489676975171584, 299491875998427136]
    assert frame["specobjid"][2] == 0
    assert frame[["ra", "dec", "z_err", "sn_median"]].isna().all(axis=None)
    assert frame["zwarning"].tolist() == [-1, -1, -1]
    assert frame["class"].tolist() == ["", "", ""]


def test_a_download_of_skyserver_is_read(tmp_path: Path):
    path = tmp_path / "skyserver.csv"
    path.write_text("#Table1\nspecobjid,plate,mjd,fiberid,run2d,ra,dec,z,zErr,zWarning,class\n")
    with path.open("a") as file:
        file.write("299489676975171584,266,51602,1,26,146.71421,-1.0413043,0.021275,9.2e-06,0,GALAXY\n")
    frame = targets.read_targets(str(path), "zWarning == 0 and class == 'GALAXY'")
    assert frame["specobjid"].tolist() == [299489676975171584]
    assert frame["ra"].tolist() == [146.71421]
    assert frame["z_err"].tolist() == [np.float32(9.2e-06)]


def test_a_missing_redshift_is_nan(tmp_path: Path):
    assert np.isnan(targets.read_targets(csv(tmp_path, Z=[0.1, None, 0.4]))["z"][0])


def test_a_vector_column_counts_as_absent(tmp_path: Path):
    rows = pa.table({**table(), "SN_MEDIAN": pa.array([[1.0, 2.0]] * 3)})  # spAll has one value per band
    pq.write_table(rows, tmp_path / "catalog.parquet")
    assert targets.read_targets(str(tmp_path / "catalog.parquet"))["sn_median"].isna().all()


@pytest.mark.parametrize("name", ["Z", "PLATE", "RUN2D"])
def test_a_vector_where_a_number_is_needed_is_refused_by_name(tmp_path: Path, name: str):
    pq.write_table(pa.table(table(**{name: pa.array([[1.0, 2.0]] * 3)})), tmp_path / "catalog.parquet")
    with pytest.raises(ConfigError, match=f"CATALOG column {name} .* does not hold one number or text per row"):
        targets.read_targets(str(tmp_path / "catalog.parquet"))


@pytest.mark.parametrize("name", ["Z", "PLATE", "MJD", "FIBERID", "RUN2D"])
def test_a_missing_column_is_named(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match=f"with the columns {name}; the catalog has"):
        targets.read_targets(csv(tmp_path, **{name: None}))


@pytest.mark.parametrize(
    ("column", "value"),
    [("PLATE", 1.5), ("PLATE", None), ("MJD", -1), ("FIBERID", 2**31), ("FIBERID", "x"), ("RUN2D", "../../etc")]
    + [("RUN2D", ""), ("RUN2D", "a/b"), ("Z", "red"), ("SPECOBJID", "x1")],
)
def test_values_that_cannot_be_used_are_refused_by_column(tmp_path: Path, column: str, value: object):
    rows = {"SPECOBJID": ["1", "2", "3"], **table()}
    rows[column] = [rows[column][0], value, rows[column][2]]
    with pytest.raises(ConfigError, match=column):
        targets.read_targets(csv(tmp_path, **rows))


@pytest.mark.parametrize("form", ["fits", "parquet", "csv"])
def test_a_catalog_of_sdss_v_names_its_spectra_by_field_mjd_and_catalogid(tmp_path: Path, form: str):
    path = tmp_path / f"spAll.{form}"
    if form == "fits":
        Table(sdss_v()).write(path)
    else:
        frame = pd.DataFrame(sdss_v())
        frame.to_parquet(path) if form == "parquet" else frame.to_csv(path, index=False)
    found = targets.find_targets(str(path))
    frame = found.frame
    assert frame["target"].tolist() == [
        "v6_1_3/15000-59146-4375924486",
        "v6_1_3/15000-59146-27021597780",
        "v6_1_3/101077-60000-63050394784953920",
    ]
    assert frame["plate"].tolist() == [15000, 15000, 101077]
    assert frame["fiberid"].tolist() == [0, 0, 0]
    assert frame["specobjid"].tolist() == [0, 7, 0]
    assert frame["ra"].tolist() == [3.0, 2.0, 1.0]
    assert found.remarks == {"with a SPECOBJID above 64 bits, stored as 0": 1}


def test_a_legacy_catalog_with_catalogids_beside_stays_legacy(tmp_path: Path):
    frame = targets.read_targets(csv(tmp_path, FIELD=[1, 2, 3], CATALOGID=[4, 5, 6]))
    assert frame["target"].tolist() == ["26/266-51602-1", "26/266-51602-9", "v5_13_2/10467-58138-636"]


def test_two_columns_that_say_the_same_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="PLATE and plate of .* differ only in case"):
        targets.read_targets(csv(tmp_path, plate=[1, 2, 3]))
