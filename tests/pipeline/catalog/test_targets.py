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

from pipeline import storage
from pipeline.catalog import targets
from pipeline.catalog.where import select
from pipeline.errors import ConfigError
from pipeline.surveys.sdss.survey import SDSS
from tests.catalogs import COLUMNS, csv, real_rows, table

# --- the real catalog ---


def test_coordinates_are_the_columns_of_the_targets() -> None:
    assert list(SDSS.coordinates) == targets.schema_of(SDSS).names


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


def test_a_table_without_padding_or_with_it_is_the_same(tmp_path: Path):
    padded = csv(tmp_path, "padded.csv", RUN2D=["26     ", " 26", "v5_13_2"], CLASS=["GALAXY ", " STAR", "QSO"])
    plain = csv(tmp_path, "plain.csv", CLASS=["GALAXY", "STAR", "QSO"])
    pd.testing.assert_frame_equal(targets.read_targets(padded), targets.read_targets(plain))
    assert len(targets.read_targets(padded, "CLASS == 'GALAXY'")) == 1


def test_nulls_fail_comparisons(tmp_path: Path):
    rows = pa.table({**table(), "SURVEY": pa.array(["sdss", None, "boss"]), "COUNT": pa.array([1, None, 3])})
    pq.write_table(rows, tmp_path / "catalog.parquet")
    url = str(tmp_path / "catalog.parquet")
    assert targets.read_targets(url, "SURVEY != 'sdss'")["fiberid"].tolist() == [636]
    assert targets.read_targets(url, "COUNT < 3")["fiberid"].tolist() == [9]


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


def test_duplicates_are_refused_and_the_first_are_named(tmp_path: Path):
    rows = table()
    doubled = {name: np.repeat(values, 2) for name, values in rows.items()}
    with pytest.raises(ConfigError, match="26/266-51602-1, 26/266-51602-9, v5_13_2/10467-58138-636;"):
        targets.read_targets(csv(tmp_path, **doubled))
    many = {"PLATE": [1] * 12, "MJD": [52000] * 12, "FIBERID": [*range(1, 7)] * 2, "RUN2D": ["26"] * 12, "Z": [0] * 12}
    with pytest.raises(ConfigError, match="and 3 more"):
        targets.read_targets(csv(tmp_path, **many))


def test_one_fiber_observed_on_two_days_or_reduced_twice_is_no_duplicate(tmp_path: Path):
    frame = targets.read_targets(
        csv(tmp_path, PLATE=[1, 1, 1], MJD=[52000, 52001, 52000], FIBERID=[4, 4, 4], RUN2D=["26", "26", "103"])
    )
    assert len(frame) == 3


@pytest.mark.parametrize("name", ["catalog.txt", "catalog", "catalog.gz"])
def test_the_content_decides_and_not_the_suffix(tmp_path: Path, name: str):
    (tmp_path / name).write_text(Path(csv(tmp_path, "plain.csv")).read_text())
    pd.testing.assert_frame_equal(
        targets.read_targets(str(tmp_path / name)), targets.read_targets(str(tmp_path / "plain.csv"))
    )
    (tmp_path / name).write_text("PLATE\n1\n")
    with pytest.raises(ConfigError, match="expected a catalog with the columns MJD, FIBERID, RUN2D, Z"):
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
    with pytest.raises(ConfigError, match="with the columns PLATE, MJD, FIBERID, RUN2D, Z; the catalog has and_mask"):
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
    with pytest.raises(ValueError, match="not in the table of 23 rows"):
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


# --- what users should know ---


def test_targets_without_a_redshift_are_counted(tmp_path: Path):
    found = targets.find_targets(csv(tmp_path, Z=[0.1, None, -1]))
    assert found.remarks == {"without a usable redshift; some models need it": 2}
    assert found.rows == len(found.frame) == 3


def test_ids_of_a_csv_file_are_compared_as_numbers(tmp_path: Path):
    path = csv(tmp_path, SPECOBJID=[11784853866143041536 // 2, 299489676975171584, 7])
    assert targets.read_targets(path, "SPECOBJID == 299489676975171584")["fiberid"].tolist() == [1]
    assert len(targets.read_targets(path, "SPECOBJID > 7")) == 2
