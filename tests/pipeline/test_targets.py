from __future__ import annotations

import gzip
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits as astropy_fits
from astropy.table import Table

from pipeline import storage, targets
from pipeline.config import ConfigError
from pipeline.selection import select

COLUMNS = ["target", "specobjid", "plate", "mjd", "fiberid", "run2d", "ra", "dec"]
COLUMNS += ["z", "z_err", "zwarning", "class", "sn_median"]


def real_rows(catalog: Path) -> dict[str, np.ndarray]:
    """The catalog's own columns, read independently: text stripped."""
    with astropy_fits.open(catalog) as hdus:
        data = hdus[1].data
        rows = {name: np.array(data[name]) for name in data.names if name != "THETA"}
    return {
        name: np.char.strip(v) if v.dtype.kind == "U" else v.astype(v.dtype.newbyteorder("="))
        for name, v in rows.items()
    }


def table(**replaced: Any) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "PLATE": [266, 266, 10467],
        "MJD": [51602, 51602, 58138],
        "FIBERID": [9, 1, 636],
        "RUN2D": ["26", "26", "v5_13_2"],
        "Z": [0.1, 0.2, 0.4],
    }
    return {name: values for name, values in (rows | replaced).items() if values is not None}


def csv(folder: Path, name: str = "catalog.csv", **replaced: Any) -> str:
    path = folder / name
    pd.DataFrame(table(**replaced)).to_csv(path, index=False)
    return str(path)


# --- the real catalog ---


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


def test_composed_ids_are_the_real_ones(catalog: Path):
    frame = targets.read_targets(str(catalog))
    columns = (frame[name].to_numpy() for name in ("plate", "mjd", "fiberid"))
    composed = targets.compose_specobjid(frame["run2d"].to_numpy(dtype=np.str_), *columns)
    np.testing.assert_array_equal(composed, frame["specobjid"])
    assert (frame["specobjid"] > 2**63).any()  # ids that no signed or floating column holds


@pytest.mark.parametrize(
    "where",
    [
        "Z > -1",
        "CLASS == 'GALAXY' and 0 < Z < 0.5",
        "SURVEY == 'sdss'",
        "SURVEY != 'sdss' or SUBCLASS == 'AGN'",
        "PLATEQUALITY == 'good' and SPECPRIMARY == 1 and ZWARNING == 0",
        "RUN2D in ('v5_9_0', 'v5_13_0')",
        "(ZWARNING & 4) != 0",
        "RCHI2 / (1 + Z) < 1.1",
    ],
)
def test_where_selects_the_rows_that_it_selects_by_hand(catalog: Path, where: str):
    rows = real_rows(catalog)
    expected = {int(text) for text in rows["SPECOBJID"][select(where, rows)]}
    assert 0 < len(expected)
    assert set(targets.read_targets(str(catalog), where)["specobjid"]) == expected


def test_where_can_use_columns_that_targets_do_not_have(catalog: Path):
    assert "VDISP" not in COLUMNS
    assert 0 < len(targets.read_targets(str(catalog), "VDISP > 100")) < len(targets.read_targets(str(catalog)))


def test_where_names_a_column_that_is_not_there(catalog: Path):
    with pytest.raises(ConfigError, match="not redshift; the catalog has CLASS, FIBERID, INSTRUMENT"):
        targets.read_targets(str(catalog), "REDSHIFT > 1")


def test_a_hostile_selection_is_refused_before_the_catalog_is_opened():
    with pytest.raises(ConfigError, match="where"):
        targets.read_targets("/nowhere/catalog.fits", "__import__('os').remove('x')")


def test_a_selection_of_nothing_is_refused(catalog: Path):
    with pytest.raises(ConfigError, match="at least one of the catalog's"):
        targets.read_targets(str(catalog), "Z > 100")


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet", "fits.gz", "lower.csv", "lower.parquet"])
def test_other_formats_give_the_same_targets(catalog: Path, tmp_path: Path, form: str):
    path = tmp_path / f"catalog.{form}"
    rows = pd.DataFrame(real_rows(catalog))
    if form.startswith("lower"):
        rows.columns = rows.columns.str.lower()
    if form == "fits.gz":
        path.write_bytes(gzip.compress(catalog.read_bytes()))
    elif "csv" in form:
        rows.to_csv(path, index=False)
    else:
        rows.to_parquet(path, index=False)
    where = "class == 'GALAXY' and Z < 0.5 and SURVEY == 'sdss'"
    expected = targets.read_targets(str(catalog), where)
    pd.testing.assert_frame_equal(targets.read_targets(str(path), where), expected)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_catalogs_are_read_from_any_url(catalog: Path, scheme: str):
    url = f"file://{catalog}"
    if scheme == "memory":
        url = f"memory://{uuid.uuid4().hex}/specObj.fits"
        with fsspec.open(url, "wb") as file:
            file.write(catalog.read_bytes())
    pd.testing.assert_frame_equal(targets.read_targets(url), targets.read_targets(str(catalog)))


def test_a_targets_table_is_itself_a_catalog(catalog: Path, tmp_path: Path):
    frame = targets.read_targets(str(catalog))
    targets.write_targets(frame, str(tmp_path / "targets.parquet"))
    pd.testing.assert_frame_equal(targets.read_targets(str(tmp_path / "targets.parquet")), frame)


# --- made catalogs ---


def test_rows_are_sorted_by_run2d_plate_mjd_fiberid(tmp_path: Path):
    frame = targets.read_targets(csv(tmp_path))
    assert frame["target"].tolist() == ["26/266-51602-1", "26/266-51602-9", "v5_13_2/10467-58138-636"]
    assert frame.index.tolist() == [0, 1, 2]


def test_absent_columns_are_filled(tmp_path: Path):
    frame = targets.read_targets(csv(tmp_path, RUN2D=["26", "26", "master"]))
    assert frame["specobjid"].tolist()[:2] == [299489676975171584, 299491875998427136]
    assert frame["specobjid"][2] == 0
    assert frame[["ra", "dec", "z_err", "sn_median"]].isna().all(axis=None)
    assert frame["zwarning"].tolist() == [-1, -1, -1]
    assert frame["class"].tolist() == ["", "", ""]


def test_a_table_without_padding_or_with_it_is_the_same(tmp_path: Path):
    padded = csv(tmp_path, "padded.csv", RUN2D=["26     ", " 26", "v5_13_2"], CLASS=["GALAXY ", " STAR", "QSO"])
    plain = csv(tmp_path, "plain.csv", CLASS=["GALAXY", "STAR", "QSO"])
    pd.testing.assert_frame_equal(targets.read_targets(padded), targets.read_targets(plain))
    assert len(targets.read_targets(padded, "CLASS == 'GALAXY'")) == 1


def test_a_download_of_skyserver_is_read(tmp_path: Path):
    path = tmp_path / "skyserver.csv"
    path.write_text("#Table1\nspecobjid,plate,mjd,fiberid,run2d,ra,dec,z,zErr,zWarning,class\n")
    with path.open("a") as file:
        file.write("299489676975171584,266,51602,1,26,146.71421,-1.0413043,0.021275,9.2e-06,0,GALAXY\n")
    frame = targets.read_targets(str(path), "zWarning == 0 and class == 'GALAXY'")
    assert frame["specobjid"].tolist() == [299489676975171584]
    assert frame["ra"].tolist() == [146.71421]
    assert frame["z_err"].tolist() == [np.float32(9.2e-06)]


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


def test_nulls_fail_comparisons(tmp_path: Path):
    rows = pa.table({**table(), "SURVEY": pa.array(["sdss", None, "boss"]), "COUNT": pa.array([1, None, 3])})
    pq.write_table(rows, tmp_path / "catalog.parquet")
    url = str(tmp_path / "catalog.parquet")
    assert targets.read_targets(url, "SURVEY != 'sdss'")["fiberid"].tolist() == [636]
    assert targets.read_targets(url, "COUNT < 3")["fiberid"].tolist() == [9]


def test_a_missing_redshift_is_nan(tmp_path: Path):
    assert np.isnan(targets.read_targets(csv(tmp_path, Z=[0.1, None, 0.4]))["z"][0])


def test_a_numeric_run2d_column_is_text(tmp_path: Path):
    rows = pa.table(table(RUN2D=[26, 26, 103]))
    pq.write_table(rows, tmp_path / "catalog.parquet")
    assert targets.read_targets(str(tmp_path / "catalog.parquet"))["run2d"].tolist() == ["103", "26", "26"]
    assert targets.read_targets(csv(tmp_path, RUN2D=[26, 26, 103]), "RUN2D == '26'")["plate"].tolist() == [266, 266]


def test_a_vector_column_counts_as_absent(tmp_path: Path):
    rows = pa.table({**table(), "SN_MEDIAN": pa.array([[1.0, 2.0]] * 3)})  # spAll has one value per band
    pq.write_table(rows, tmp_path / "catalog.parquet")
    assert targets.read_targets(str(tmp_path / "catalog.parquet"))["sn_median"].isna().all()


@pytest.mark.parametrize("name", ["Z", "PLATE", "RUN2D"])
def test_a_vector_where_a_number_is_needed_is_refused_by_name(tmp_path: Path, name: str):
    pq.write_table(pa.table(table(**{name: pa.array([[1.0, 2.0]] * 3)})), tmp_path / "catalog.parquet")
    with pytest.raises(ConfigError, match=f"CATALOG column {name} .* one number or text per row"):
        targets.read_targets(str(tmp_path / "catalog.parquet"))


def test_every_way_of_arrow_to_hold_text_and_ids_gives_the_same(tmp_path: Path):
    ids = [2**64 - 1, 299489951322761216, 0]
    expected = targets.read_targets(csv(tmp_path, SPECOBJID=[str(each) for each in ids]))
    run2d = table()["RUN2D"]
    for number, (words, numbers) in enumerate(
        (
            (pa.binary(), pa.uint64()),
            (pa.large_binary(), pa.string()),
            (pa.string_view(), pa.large_string()),
            (pa.dictionary(pa.int8(), pa.string()), pa.decimal128(20, 0)),
        )
    ):
        rows = table(
            RUN2D=pa.array(run2d).cast(pa.binary()).cast(words) if "binary" in str(words) else pa.array(run2d, words),
            SPECOBJID=pa.array([Decimal(i) for i in ids], numbers)
            if "decimal" in str(numbers)
            else pa.array(ids, pa.uint64()).cast(numbers),
        )
        pq.write_table(pa.table(rows), tmp_path / f"{number}.parquet")
        pd.testing.assert_frame_equal(targets.read_targets(str(tmp_path / f"{number}.parquet")), expected)


@pytest.mark.parametrize("name", ["Z", "PLATE", "MJD", "FIBERID", "RUN2D"])
def test_a_missing_column_is_named(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match=f"with the columns {name}; the catalog has"):
        targets.read_targets(csv(tmp_path, **{name: None}))


def test_duplicates_are_refused_and_the_first_are_named(tmp_path: Path):
    rows = table()
    doubled = {name: np.repeat(values, 2) for name, values in rows.items()}
    with pytest.raises(ConfigError, match="26/266-51602-1, 26/266-51602-9, v5_13_2/10467-58138-636'"):
        targets.read_targets(csv(tmp_path, **doubled))
    many = {"PLATE": [1] * 12, "MJD": [2] * 12, "FIBERID": [*range(6)] * 2, "RUN2D": ["26"] * 12, "Z": [0] * 12}
    with pytest.raises(ConfigError, match="and 3 more"):
        targets.read_targets(csv(tmp_path, **many))


def test_one_fiber_observed_on_two_days_or_reduced_twice_is_no_duplicate(tmp_path: Path):
    frame = targets.read_targets(
        csv(tmp_path, PLATE=[1, 1, 1], MJD=[2, 3, 2], FIBERID=[4, 4, 4], RUN2D=["26", "26", "103"])
    )
    assert len(frame) == 3


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


@pytest.mark.parametrize("name", ["catalog.txt", "catalog", "catalog.gz"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str):
    (tmp_path / name).write_text("PLATE\n1\n")
    with pytest.raises(ConfigError, match=r"\.fits"):
        targets.read_targets(str(tmp_path / name))


@pytest.mark.parametrize(
    "name", ["catalog.fits", "catalog.fits.gz", "catalog.csv", "catalog.csv.gz", "catalog.parquet"]
)
@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff\xfe\x00\x01" * 2000])
def test_an_unreadable_catalog_is_refused(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="CATALOG"):
        targets.read_targets(str(tmp_path / name))


def test_a_spectrum_in_place_of_a_catalog_is_refused(mirror: Path):
    spectrum = next(mirror.glob("sdss/**/spec-*.fits"))
    with pytest.raises(ConfigError, match="with the columns Z, PLATE, MJD, FIBERID, RUN2D; the catalog has and_mask"):
        targets.read_targets(str(spectrum))


@pytest.mark.parametrize("url", ["/nowhere/catalog.fits", "memory://nowhere/catalog.csv"])
def test_a_catalog_that_is_not_there_is_refused(url: str):
    with pytest.raises(ConfigError, match="a file that exists"):
        targets.read_targets(url)


def test_an_empty_catalog_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="at least one row"):
        targets.read_targets(csv(tmp_path, PLATE=[], MJD=[], FIBERID=[], RUN2D=[], Z=[]))


# --- the table ---


def frame_of(n: int) -> pd.DataFrame:
    ids = {"plate": np.arange(n, dtype=np.int32), "mjd": np.full(n, 5, np.int32), "fiberid": np.ones(n, np.int32)}
    columns: dict[str, Any] = {
        "target": [f"26/{i}-5-1" for i in range(n)],
        "specobjid": np.arange(n, dtype=np.uint64) + np.uint64(2**63),
        **ids,
        "run2d": ["26"] * n,
        "ra": np.full(n, np.nan),
        "dec": np.linspace(-90, 90, n),
        **{name: np.full(n, np.nan, np.float32) for name in ("z", "z_err")},
        "zwarning": np.zeros(n, np.int32),
        "class": [""] * n,
        "sn_median": np.ones(n, np.float32),
    }
    return pd.DataFrame(columns)


@pytest.mark.parametrize("scheme", ["file", "memory"])
@pytest.mark.parametrize("row_group", [None, 1, 7, 100])
def test_rows_are_read_back_by_range(tmp_path: Path, row_group: int | None, scheme: str):
    root = str(tmp_path) if scheme == "file" else f"memory://{uuid.uuid4().hex}"
    url = storage.join(root, "targets.parquet")
    frame = frame_of(23)
    targets.write_targets(frame, url, row_group)
    assert targets.count(url) == 23
    for start, stop in ((0, 23), (0, 1), (6, 8), (7, 14), (22, 23), (5, 5), (23, 23)):
        rows = targets.read_rows(url, start, stop)
        assert list(rows.columns) == COLUMNS
        assert rows["target"].tolist() == frame["target"].tolist()[start:stop]
        assert rows["specobjid"].tolist() == frame["specobjid"].tolist()[start:stop]
    pd.testing.assert_frame_equal(targets.read_rows(url, 0, 23), frame)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 24), (3, 2)])
def test_rows_outside_the_table_are_an_error(tmp_path: Path, start: int, stop: int):
    url = str(tmp_path / "targets.parquet")
    targets.write_targets(frame_of(23), url)
    with pytest.raises(ValueError, match="of a table of 23 rows"):
        targets.read_rows(url, start, stop)


def test_a_row_group_holds_what_was_asked_for(tmp_path: Path):
    targets.write_targets(frame_of(23), str(tmp_path / "targets.parquet"), 10)
    metadata = pq.read_metadata(tmp_path / "targets.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [10, 10, 3]


def test_the_same_targets_are_written_as_the_same_bytes(catalog: Path, tmp_path: Path):
    for name in ("a", "b"):
        targets.write_targets(targets.read_targets(str(catalog)), str(tmp_path / name), 16)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_table_that_is_not_of_targets_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"plate": [1]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    for name, message in (("other", "with the columns target"), ("text", "in Parquet"), ("none", "exists")):
        with pytest.raises(ConfigError, match=message):
            targets.count(str(tmp_path / f"{name}.parquet"))


def test_a_table_by_others_is_brought_to_our_types_or_refused(tmp_path: Path):
    frame = frame_of(5)
    ours = pa.Table.from_pandas(frame, preserve_index=False)
    index = {name: ours.schema.get_field_index(name) for name in COLUMNS}
    url = str(tmp_path / "targets.parquet")

    def write(name: str, values: Any) -> None:
        pq.write_table(ours.set_column(index[name], name, values), url)

    write("run2d", ours["run2d"].dictionary_encode())
    pd.testing.assert_frame_equal(targets.read_rows(url, 0, 5), frame)
    write("plate", ours["plate"].cast(pa.float64()))
    pd.testing.assert_frame_equal(targets.read_rows(url, 0, 5), frame)
    for name, values in (
        ("plate", pa.array([1.5] * 5)),
        ("plate", pa.array([None, 1, 1, 1, 1], pa.int32())),
        ("mjd", pa.array([2**40] * 5)),
        ("specobjid", pa.array([-1] * 5)),
        ("run2d", pa.array([["26"]] * 5)),
    ):
        write(name, values)
        with pytest.raises(ConfigError, match=f"targets column {name} is"):
            targets.read_rows(url, 0, 5)


# --- SDSS-V ---


def sdss_v(**replaced: Any) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "FIELD": [101077, 15000, 15000],
        "MJD": [60000, 59146, 59146],
        "CATALOGID": np.array([63050394784953920, 27021597780, 4375924486]),
        "RUN2D": ["v6_1_3"] * 3,
        "FIBERID_LIST": ["17 18", "2", "3"],
        "RACAT": [1.0, 2.0, 3.0],
        "DECCAT": [-1.0, -2.0, -3.0],
        "Z": [0.1, 0.2, 0.3],
        "ZWARNING": [0, 0, 4],
        "SPECOBJID": ["200000000000000000000000000", "7", ""],
    }
    return {name: values for name, values in (rows | replaced).items() if values is not None}


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
    assert found.remarks == {"with a SPECOBJID of more than 64 bits: 0 in the table": 1}


def test_a_legacy_catalog_with_catalogids_beside_stays_legacy(tmp_path: Path):
    frame = targets.read_targets(csv(tmp_path, FIELD=[1, 2, 3], CATALOGID=[4, 5, 6]))
    assert frame["target"].tolist() == ["26/266-51602-1", "26/266-51602-9", "v5_13_2/10467-58138-636"]


@pytest.mark.parametrize("wrong", [[1.5, 2.5, 3.5], [-1, 2, 3], ["a", "b", "c"]])
def test_catalogids_that_are_no_ids_are_refused(tmp_path: Path, wrong: list[Any]):
    pd.DataFrame(sdss_v(CATALOGID=wrong)).to_parquet(tmp_path / "spAll.parquet")
    with pytest.raises(ConfigError, match="CATALOGID"):
        targets.read_targets(str(tmp_path / "spAll.parquet"))


# --- what users should know ---


def test_targets_without_a_redshift_are_counted(tmp_path: Path):
    found = targets.find_targets(csv(tmp_path, Z=[0.1, None, -1]))
    assert found.remarks == {"without a usable redshift: they get no latents": 2}
    assert found.rows == len(found.frame) == 3


def test_two_columns_that_say_the_same_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="PLATE and plate say the same"):
        targets.read_targets(csv(tmp_path, plate=[1, 2, 3]))


def test_a_run2d_with_leading_zeros_is_the_one_without(tmp_path: Path):
    frame = targets.read_targets(csv(tmp_path, RUN2D=["026", "26", "v5_13_2"]))
    assert frame["run2d"].tolist() == ["26", "26", "v5_13_2"]


def test_ids_of_a_csv_file_are_compared_as_numbers(tmp_path: Path):
    path = csv(tmp_path, SPECOBJID=[11784853866143041536 // 2, 299489676975171584, 7])
    assert targets.read_targets(path, "SPECOBJID == 299489676975171584")["fiberid"].tolist() == [1]
    assert len(targets.read_targets(path, "SPECOBJID > 7")) == 2
