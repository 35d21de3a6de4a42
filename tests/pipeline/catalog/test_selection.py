"""Which columns and rows of a catalog become targets; the same from every format."""

from __future__ import annotations

import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.catalog import targets
from pipeline.catalog.targets import find_targets
from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.sdss.survey import SDSS
from tests.catalogs import FORMS, csv, table, write_as

ROWS: dict[str, list[Any]] = {
    "specObjID": ["299489676975171584", None, "3.72E+18", "-1"],
    "plate": [266, 266, 266, 267],
    "mjd": [51602, 51602, 51602, 51608],
    "fiberID": [1, 9, 162, 3],
    "run2d": ["26.0", "026", " 26 ", "26"],
    "ra": [146.71421, None, 146.28017, 1.0],
    "z": [0.02127545, 0.1, None, 0.3],
    "zWarning": [0, None, 4, 0],
    "class": ["GALAXY ", None, "QSO", " STAR"],
}
EXPECTED = {
    "target": ["26/266-51602-1", "26/266-51602-9", "26/266-51602-162", "26/267-51608-3"],
    "specobjid": [299489676975171584, 299491875998427136, 299533932318189568, None],
    "zwarning": [0, -1, 4, 0],
    "class": ["GALAXY", "", "QSO", "STAR"],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_value_is_the_same_from_every_format(tmp_path: Path, form: str) -> None:
    found = find_targets(write_as(form, tmp_path / f"catalog.{form}", ROWS))
    for name, values in EXPECTED.items():
        own = found.frame[name].tolist()
        assert [each for each, value in zip(own, values, strict=True) if value is not None] == [
            value for value in values if value is not None
        ], name
    assert found.frame["specobjid"][3] == (267 << 50) + (3 << 38) + (1608 << 24) + (26 << 10)
    assert found.frame["ra"].isna().tolist() == [False, True, False, False]
    assert found.frame["z"].isna().tolist() == [False, False, True, False]
    assert {text.split(" that ")[0]: n for text, n in found.remarks.items() if "SPECOBJID" in text.upper()} == {
        "with a specObjID": 1
    }


REDUCTIONS = st.one_of(
    st.lists(st.sampled_from(["26", "26.0", "026", " 26", "103", "v5_13_2", "v5_13_2  "]), min_size=4, max_size=4),
    st.lists(st.sampled_from([26, 103, 104]), min_size=4, max_size=4),
    st.lists(st.sampled_from([26.0, 103.0]), min_size=4, max_size=4),
)
SOME = {"allow_nan": False, "width": 32}


@settings(max_examples=10)
@given(
    reductions=REDUCTIONS,
    z=st.lists(st.none() | st.floats(0, 6, **SOME), min_size=4, max_size=4),
    ra=st.lists(st.none() | st.floats(0, 360, **SOME), min_size=4, max_size=4),
    warnings=st.lists(st.none() | st.integers(0, 511), min_size=4, max_size=4),
    words=st.lists(st.none() | st.sampled_from(["GALAXY", "QSO  ", " STAR", "null", "NaN"]), min_size=4, max_size=4),
)
def test_any_table_gives_the_same_targets_from_every_format(
    reductions: list[Any], z: list[Any], ra: list[Any], warnings: list[Any], words: list[Any]
) -> None:
    ids = {"PLATE": [1, 2, 3, 4], "MJD": [51602] * 4, "FIBERID": [5, 6, 7, 8]}
    rows = {**ids, "RUN2D": reductions, "Z": z, "RA": ra, "ZWARNING": warnings, "CLASS": words}
    with TemporaryDirectory() as folder:
        frames = {form: find_targets(write_as(form, Path(folder, f"t.{form}"), rows)).frame for form in FORMS}
    for form, frame in frames.items():
        pd.testing.assert_frame_equal(frame, frames["parquet"], obj=form, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("missing", [None, -1])
def test_ids_that_are_missing_are_counted_in_every_format(tmp_path: Path, form: str, missing: int | None) -> None:
    rows = {"PLATE": [266, missing, missing], "MJD": [51602, 51602, missing], "FIBERID": [1, 2, 3]}
    path = write_as(form, tmp_path / f"catalog.{form}", {**rows, "RUN2D": ["26"] * 3, "Z": [0.1] * 3})
    with pytest.raises(RefusedError, match=r"2 of 3 rows of .* have no PLATE \(2\), MJD \(1\); leave them out"):
        find_targets(path)
    found = find_targets(path, skip_incomplete=True)
    assert found.frame["target"].tolist() == ["26/266-51602-1"]
    assert found.remarks["left out, without the ids of a spectrum (--skip-incomplete)"] == 2
    assert found.rows == 3


def test_rows_that_are_not_selected_may_lack_ids(tmp_path: Path) -> None:
    path = csv(tmp_path, PLATE=[266, -1, 10467], RUN2D=["26", "a/b", "v5_13_2"])
    assert len(find_targets(path, "PLATE > 0 and RUN2D != 'a/b'").frame) == 2
    with pytest.raises(RefusedError, match=r"1 of 1 rows of .* has no PLATE"):
        find_targets(csv(tmp_path, PLATE=[266, -1, 10467]), "PLATE < 0")
    with pytest.raises(RefusedError, match=r"none of the 1 rows of .* has all of PLATE"):
        find_targets(csv(tmp_path, PLATE=[266, -1, 10467]), "PLATE < 0", skip_incomplete=True)


def test_a_missing_reduction_is_a_missing_id(tmp_path: Path) -> None:
    path = csv(tmp_path, RUN2D=["26", None, "v5_13_2"])
    with pytest.raises(RefusedError, match="1 of 3 rows of .* has no RUN2D"):
        find_targets(path)
    found = find_targets(path, settle=lambda frame, suggested, has_z: (frame, ["as it is"]))
    assert found.frame["target"].tolist() == ["/266-51602-1", "26/266-51602-9", "v5_13_2/10467-58138-636"]
    assert found.said[-1] == "as it is"


def test_rows_that_repeat_a_spectrum_are_dropped_but_for_the_first(tmp_path: Path) -> None:
    rows = {name: [values[i] for i in (0, 1, 0, 2, 0)] for name, values in table().items()}
    path = csv(tmp_path, **{**rows, "Z": [0.5, 0.2, 0.6, 0.4, 0.7]})
    with pytest.raises(ConfigError, match="take the first of the 2 repeated rows with --unique"):
        find_targets(path)
    for block in (1, 2, 100):
        found = find_targets(path, block=block, unique=True, keep=["Z_ERR"] if "Z_ERR" in rows else ())
        assert found.remarks == {"left out, which repeat others (--unique)": 2}
        assert dict(zip(found.frame["fiberid"], found.frame["z"].round(6), strict=True)) == {
            9: np.float32(0.5),
            1: np.float32(0.2),
            636: np.float32(0.4),
        }


# --- optional columns ---


@pytest.mark.parametrize("form", FORMS)
def test_optional_columns_never_stop_a_catalog(tmp_path: Path, form: str) -> None:
    odd = {"RA": ["00 01 02", "1.5", "x"], "ZWARNING": ["0", "4.5", "?"], "SN_MEDIAN": ["1", "n/a", "high"]}
    path = write_as(form, tmp_path / f"catalog.{form}", {**table(), **odd, "SPECOBJID": ["x1", "7", "3.72E+18"]})
    found = find_targets(path)
    frame = found.frame.set_index("fiberid").loc[[9, 1, 636]]
    assert frame["ra"].isna().tolist() == [True, False, True]
    assert frame["zwarning"].tolist() == [0, -1, -1]
    assert frame["sn_median"].isna().tolist() == [False, True, True]
    assert frame["specobjid"].tolist()[:2] == [299491875998427136, 7]
    instead = "composed from PLATE, MJD, FIBERID and RUN2D instead"
    assert found.remarks == {
        "with a RA that is no number: stored as missing": 2,
        "with a ZWARNING that is no number: stored as missing": 1,
        "with a ZWARNING that is no whole number: stored as missing": 1,
        "with a SN_MEDIAN that is no number: stored as missing": 1,
        f"with a SPECOBJID that is no whole number, or has lost its digits as 3.72E+18: {instead}": 2,
    }


def test_what_is_remarked_is_counted_over_all_blocks(tmp_path: Path) -> None:
    found = find_targets(csv(tmp_path, RA=["x", "y", 1]), block=1)
    assert found.remarks == {"with a RA that is no number: stored as missing": 2}


# --- the user's choice ---


def test_every_column_of_ours_can_be_chosen(tmp_path: Path) -> None:
    names = {"PLATE": "p", "MJD": "night", "FIBERID": "hole", "RUN2D": "redux", "Z": "v", "RA": "x", "CLASS": "what"}
    rows = table(RA=[1.0, 2.0, 3.0], CLASS=["GALAXY", "QSO", "STAR"], RUN2D=["26", "26", "103"])
    expected = find_targets(csv(tmp_path, "plain.csv", **rows)).frame
    odd = tmp_path / "odd.csv"
    pd.DataFrame({names[name]: values for name, values in rows.items()}).to_csv(odd, index=False)
    found = find_targets(str(odd), columns={ours.lower(): theirs for ours, theirs in names.items()})
    pd.testing.assert_frame_equal(found.frame, expected)
    assert "plate from column p" in found.said
    assert "class from column what" in found.said


def test_sdss_v_can_be_chosen_by_hand(tmp_path: Path) -> None:
    rows = {"f": [15000], "MJD": [59146], "target_no": [63050394784953920], "RUN2D": ["v6_1_3"], "Z": [0.1]}
    path = write_as("csv", tmp_path / "odd.csv", rows)
    found = find_targets(path, columns={"plate": "f", "catalogid": "target_no"})
    assert found.frame["target"].tolist() == ["v6_1_3/15000-59146-63050394784953920"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"redshift": "Z"}, "--column is 'redshift=Z', expected one of target, specobjid, plate, mjd,"),
        ({"z": "zz"}, "--column is 'zz', expected a column of the catalog; the catalog has FIBERID,"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_targets(csv(tmp_path), columns=columns)


def test_an_id_that_is_there_twice_must_be_the_same(tmp_path: Path) -> None:
    same = csv(tmp_path, PLATE=None, PLATE_1=[266, 266, 10467], PLATE_2=[266, 266, 10467])
    assert len(find_targets(same).frame) == 3
    other = csv(tmp_path, PLATE=None, PLATE_1=[266, 266, 10467], PLATE_2=[1, 2, 3])
    with pytest.raises(
        RefusedError, match="the columns PLATE_1 and PLATE_2 of .* hold different values; choose one with"
    ):
        find_targets(other)
    assert find_targets(other, columns={"plate": "plate_2"}).frame["plate"].tolist() == [1, 2, 3]


# --- conditions ---


def test_a_condition_may_use_our_names(tmp_path: Path) -> None:
    rows = table(FIBERID=None, Fiber=[9, 1, 636], Z=None, redshift=[0.1, 0.2, 0.4], RUN2D=[26.0, 26.0, 103.0])
    path = csv(tmp_path, **rows)
    assert find_targets(path, "fiberid == 9").frame["fiberid"].tolist() == [9]
    assert len(find_targets(path, "z < 0.3 and redshift > 0.15").frame) == 1
    with pytest.raises(ConfigError, match="columns of the catalog, not zwarning"):
        find_targets(path, "zwarning == 0")


@pytest.mark.parametrize("form", FORMS)
def test_a_condition_on_a_reduction_means_the_same_in_every_format(tmp_path: Path, form: str) -> None:
    for run2d in ([26, 26, 103], [26.0, 26.0, 103.0], ["26.0", "026", "103"]):
        path = write_as(form, tmp_path / f"catalog.{form}", table(RUN2D=run2d))
        assert len(find_targets(path, "RUN2D == '26'").frame) == 2
        with pytest.raises(ConfigError, match="`RUN2D` is text: quote the other"):
            find_targets(path, "RUN2D == 26")


def test_the_catalog_s_name_comes_before_ours(tmp_path: Path) -> None:
    path = csv(tmp_path, Z=None, z=[16.0, 15.0, 14.0], u=[1, 2, 3], redshift=[0.1, 0.2, 0.4])
    found = find_targets(path, "z > 14.5")
    assert len(found.frame) == 2
    assert "z in --where is the catalog's column z; ours is written redshift" in found.said


# --- kept columns ---

KEPT: dict[str, list[Any]] = {
    "MASS": [10.5, None, 11.0],
    "COUNT": [1, 2, 3],
    "SOME": [7, None, 9],
    "NOTE": ["a ", None, "c"],
    "OBJID": [587727221951234166, 587727221951234167, 587727221951234168],
}


@pytest.mark.parametrize("form", FORMS)
def test_kept_columns_are_the_same_from_every_format(tmp_path: Path, form: str) -> None:
    units = {"MASS": "km/s", "COUNT": "count"}
    path = write_as(form, tmp_path / f"catalog.{form}", {**table(), **KEPT}, units)
    found = find_targets(path, keep=["MASS", "count", "SOME", "NOTE", "OBJID"])
    frame = found.frame.set_index("fiberid").loc[[9, 1, 636]]
    np.testing.assert_array_equal(frame["MASS"], [10.5, np.nan, 11.0])
    np.testing.assert_array_equal(frame["SOME"], [7, np.nan, 9])
    assert frame["count"].tolist() == [1, 2, 3]
    assert frame["NOTE"].tolist() == ["a", "", "c"]
    assert frame["OBJID"].tolist() == KEPT["OBJID"]
    dtypes = {name: each.dtype for name, each in found.kept.items()}
    assert dtypes == {"MASS": "float64", "count": "int64", "SOME": "float64", "NOTE": "str", "OBJID": "int64"}
    expected = {"MASS": {"units": "km s-1"}, "count": {"units": "count"}} if form in ("fits", "vot", "ecsv") else {}
    assert {name: each.attributes for name, each in found.kept.items() if each.attributes} == expected


def test_kept_columns_survive_blocks_sorting_and_the_table(tmp_path: Path) -> None:
    path = write_as("fits", tmp_path / "catalog.fits", {**table(), **KEPT}, {"MASS": "solMass"})
    found = find_targets(path, block=1, keep=["MASS", "NOTE"])
    assert found.frame["fiberid"].tolist() == [1, 9, 636]
    assert found.frame["NOTE"].tolist() == ["", "a", "c"]
    url = f"memory://{uuid.uuid4().hex}/t.parquet"
    targets.write_targets(found.frame, url, kept=found.kept)
    assert targets.read_table(url, SDSS)[1] == found.kept
    pd.testing.assert_frame_equal(targets.read_rows(url, 0, 3, SDSS, found.kept), found.frame)
    again = find_targets(url, keep=["MASS"])
    assert again.kept["MASS"].attributes == {"units": "solMass"}


def test_a_block_without_any_value_has_no_type(tmp_path: Path) -> None:
    path = csv(tmp_path, NOTE=[None, "b", None], SOME=[None, 7, None])
    for block in (1, 3):
        frame = find_targets(path, block=block, keep=["NOTE", "SOME"]).frame.set_index("fiberid").loc[[9, 1, 636]]
        assert frame["NOTE"].tolist() == ["", "b", ""]
        np.testing.assert_array_equal(frame["SOME"], [np.nan, 7, np.nan])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("none", "--keep is 'none', expected a column of the catalog"),
        ("z", "z is a column that every run has"),
        ("LIST", "--keep is 'LIST', expected a column of single numbers or text"),
        ("_x", "keep is '_x', expected the name of a column without /"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, keep: str, message: str) -> None:
    Table({**table(), "LIST": np.zeros((3, 2)), "_x": [1, 2, 3]}).write(tmp_path / "catalog.fits")
    with pytest.raises(ConfigError, match=message):
        find_targets(str(tmp_path / "catalog.fits"), keep=[keep])


def test_ids_that_floats_would_cut_are_not_kept_with_gaps(tmp_path: Path) -> None:
    path = write_as("parquet", tmp_path / "catalog.parquet", {**table(), "OBJID": [587727221951234166, None, 7]})
    with pytest.raises(RefusedError, match="OBJID misses values and has whole numbers beyond 2\\^53"):
        find_targets(path, keep=["OBJID"])
