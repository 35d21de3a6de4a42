from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from pipeline.catalog import targets
from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.sdss.ids import compose_specobjid
from tests.catalogs import COLUMNS, csv, real_rows, sdss_v, table, unsettled


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
    + [("RUN2D", ""), ("RUN2D", "a/b"), ("Z", "red")],
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


# --- names that catalogs use: SkyServer, MPA-JHU, Portsmouth, DR16Q, VizieR, SDSS-V ---

LAYOUTS = {
    "SkyServer": [
        "specObjID",
        "plate",
        "mjd",
        "fiberID",
        "run2d",
        "ra",
        "dec",
        "z",
        "zErr",
        "zWarning",
        "class",
        "snMedian",
    ],
    "MPA-JHU": [
        *("SPECOBJID", "PLATEID", "MJD", "FIBERID", "RUN2D", "RA", "DEC", "Z", "Z_ERR", "Z_WARNING", "SPECTROTYPE"),
        "SN_MEDIAN",
    ],
    "DR16Q": [
        *("SPECOBJID", "PLATE", "MJD", "FIBERID", "RUN2D", "RA", "DEC", "Z", "ZERR", "ZWARN_PIPE", "AUTOCLASS_PQN"),
        "SN_MEDIAN_ALL",
    ],
    "VizieR": [
        "SpObjID",
        "Plate",
        "MJD",
        "Fiber",
        "run2d",
        "RAJ2000",
        "DEJ2000",
        "zsp",
        "e_zsp",
        "zwarn",
        "spClass",
        "snMedian",
    ],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_catalog_is_read_under_the_names_that_it_uses(tmp_path: Path, layout: str):
    values = [299489676975171584, 266, 51602, 1, "26", 146.7, -1.0, 0.02, 1e-5, 4, "GALAXY", 12.5]
    columns = dict(zip(LAYOUTS[layout], ([each] for each in values), strict=True))
    pd.DataFrame({**columns, "PLATE_DUPLICATE": [7], "z_qn": [0.3]}).to_csv(tmp_path / "c.csv", index=False)
    row = targets.read_targets(str(tmp_path / "c.csv")).iloc[0]
    ours = [
        "specobjid",
        "plate",
        "mjd",
        "fiberid",
        "run2d",
        "ra",
        "dec",
        "z",
        "z_err",
        "zwarning",
        "class",
        "sn_median",
    ]
    assert [row[name] for name in ours] == [
        np.float32(value) if name in ("z", "z_err", "sn_median") else value
        for name, value in zip(ours, values, strict=True)
    ]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_word_for_a_field_is_an_epoch_coadd(tmp_path: Path, form: str):
    frame = pd.DataFrame(sdss_v(FIELD=["allFPS", "15000", "allepoch"]))
    frame.to_csv(tmp_path / "c.csv", index=False) if form == "csv" else frame.to_parquet(tmp_path / "c.parquet")
    path = str(tmp_path / f"c.{form}")
    with pytest.raises(
        ConfigError, match="FIELD is allFPS in 2 of the rows of .*: epoch coadds of SDSS-V are not read"
    ):
        targets.read_targets(path)
    assert len(targets.read_targets(path, "FIELD == '15000'")) == 1


@pytest.mark.parametrize("kind", ["signed", "text", "mask"])
def test_catalogids_that_are_missing_are_counted(tmp_path: Path, kind: str):
    ids = {
        "signed": pa.array([63050394784953920, -1, 5]),
        "text": pa.array(["63050394784953920", "", " 5 "]),
        "mask": pa.array([63050394784953920, None, 5]),
    }[kind]
    pq.write_table(pa.table({**sdss_v(), "CATALOGID": ids}), tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match="1 of 3 rows of .* has no CATALOGID"):
        targets.read_targets(str(tmp_path / "c.parquet"))
    found = targets.find_targets(str(tmp_path / "c.parquet"), skip_incomplete=True)
    assert found.frame["target"].tolist() == ["v6_1_3/15000-59146-5", "v6_1_3/101077-60000-63050394784953920"]


def test_an_id_that_a_spreadsheet_has_rounded_stops_no_catalog_and_names_no_spectrum(tmp_path: Path):
    """282000000000000000 is, by DR7's layout, 1001-56705-522: a night after DR7."""
    for text in ("299489676975171000", "299000000000000000", "2.99E+17"):
        found = targets.find_targets(csv(tmp_path, SPECOBJID=[text, text, text], FIBERID=[1, 2, 3]))
        assert found.frame["target"].tolist()[:2] == ["26/266-51602-1", "26/266-51602-2"]
        assert found.frame["specobjid"][0] == 299489676975171584
        assert any("has lost its digits as 3.72E+18" in remark for remark in found.remarks)
    path = tmp_path / "ids.csv"
    path.write_text("specobjid,z\n282000000000000000,0.02\n")
    with pytest.raises(RefusedError, match="has no specobjid of a spectrum .*export it as text"):
        targets.find_targets(str(path), settle=unsettled)


def test_why_an_id_is_of_no_use_is_said(tmp_path: Path):
    path = tmp_path / "ids.csv"
    for text, problem in (
        ("3.72E+18", "with all its digits, as 3.72E+18 has not: export it as text"),
        ("-1", "has no specobjid; leave"),
        ("1" * 26, "of 64 bits"),
    ):
        path.write_text(f"specobjid,z\n{text},0.02\n")
        with pytest.raises(RefusedError, match=re.escape(problem)):
            targets.find_targets(str(path), settle=unsettled)


def test_ids_that_floats_hold_without_a_loss_are_enough(tmp_path: Path):
    Table({"SPECOBJID": np.array([299489676975171584.0]), "Z": [0.1]}).write(tmp_path / "ids.fits")
    found = targets.find_targets(str(tmp_path / "ids.fits"), settle=unsettled)
    assert found.frame["target"].tolist() == ["26/266-51602-1"]
    assert found.frame["specobjid"].tolist() == [299489676975171584]


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("FIBERID", 1001, "fiberid 1001 is no fiber (1 to 1000)"),
        ("MJD", 2451602, "mjd 2451602 is no night of the surveys (51000 to 63000)"),
    ],
)
def test_numbers_that_no_spectrum_has_are_refused(tmp_path: Path, column: str, value: int, problem: str):
    rows = {column: [value, *table()[column][1:]]}
    with pytest.raises(RefusedError, match=re.escape(problem)):
        targets.find_targets(csv(tmp_path, **rows))


def test_a_reduction_of_0_or_minus_1_is_none(tmp_path: Path):
    found = targets.find_targets(csv(tmp_path, RUN2D=[0, -1, "v5_13_2"]), settle=unsettled)
    assert found.frame["run2d"].tolist() == ["", "", "v5_13_2"]


def test_sdss_v_is_known_by_its_columns_even_beside_plates_that_say_nothing(tmp_path: Path):
    rows = pd.DataFrame(sdss_v()).assign(PLATE=-1, FIBERID=-1)
    rows.to_csv(tmp_path / "v.csv", index=False)
    frame = targets.read_targets(str(tmp_path / "v.csv"))
    pd.DataFrame(sdss_v()).to_csv(tmp_path / "plain.csv", index=False)
    pd.testing.assert_frame_equal(frame, targets.read_targets(str(tmp_path / "plain.csv")))


def test_the_names_of_kaggles_second_table_and_of_vizier_are_known(tmp_path: Path):
    kaggle = tmp_path / "kaggle.csv"
    kaggle.write_text(
        "obj_ID,alpha,delta,u,g,r,i,z,spec_obj_ID,class,redshift,plate,MJD,fiber_ID\n"
        "1.23E+18,146.7,-1.04,18,17,16,15,14.9,2.99E+17,GALAXY,0.0212,266,51602,1\n"
    )
    row = targets.find_targets(str(kaggle), settle=unsettled).frame.iloc[0]
    assert (row["ra"], row["dec"], row["class"], row["z"]) == (146.7, -1.04, "GALAXY", np.float32(0.0212))
    vizier = tmp_path / "vizier.tsv"
    vizier.write_text("RA_ICRS\tDE_ICRS\tclass\tSp-ID\tzsp\tspCl\n146.7\t-1.04\t3\t0266-51602-0001\t0.0212\tGALAXY\n")
    row = targets.find_targets(str(vizier), settle=unsettled).frame.iloc[0]
    assert (row["target"], row["class"], row["z"]) == ("/266-51602-1", "GALAXY", np.float32(0.0212))
    vizier.write_text("class\tSp-ID\tzsp\n3\t0266-51602-0001\t0.0212\n")
    found = targets.find_targets(str(vizier), settle=unsettled)
    assert found.frame["class"].tolist() == [""]


def test_an_id_that_ends_in_zeros_by_chance_has_lost_nothing(tmp_path: Path):
    """As one of 125 does; of a reduction that no list has."""
    fibers = np.arange(1, 1001)
    rows = {"PLATE": 11000, "MJD": 58000, "FIBERID": fibers, "RUN2D": "v5_99_7", "Z": 0.1}
    one = np.ones(1000, dtype=np.int64)
    ids = compose_specobjid(np.full(1000, "v5_99_7"), 11000 * one, 58000 * one, fibers)
    assert (ids % 1000 == 0).any()
    found = targets.find_targets(csv(tmp_path, **{**rows, "SPECOBJID": ids}))
    assert found.remarks == {}
    assert sorted(found.frame["specobjid"]) == sorted(ids)
