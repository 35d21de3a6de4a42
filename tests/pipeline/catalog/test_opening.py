"""Files of a catalog: their places, packing and format by content."""

from __future__ import annotations

import bz2
import gzip
import re
import tarfile
import uuid
from pathlib import Path
from typing import Literal

import fsspec
import pandas as pd
import pytest

from pipeline.catalog.opening import format_of, places_of
from pipeline.catalog.targets import find_targets, read_targets
from pipeline.errors import ConfigError
from tests.catalogs import FORMS, csv, table, write_as


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lambda data: gzip.compress(bz2.compress(data))])
@pytest.mark.parametrize("name", ["catalog.gz", "catalog.fits", "catalog"])
def test_what_is_packed_is_known_by_its_content(tmp_path: Path, form: str, pack, name: str) -> None:
    plain = Path(write_as(form, tmp_path / f"plain.{form}", table()))
    (tmp_path / name).write_bytes(pack(plain.read_bytes()))
    pd.testing.assert_frame_equal(read_targets(str(tmp_path / name)), read_targets(str(plain)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_damaged_packing_is_named(tmp_path: Path, form: str, pack) -> None:
    rows = {name: values * 200 for name, values in table().items()} | {"FIBERID": list(range(600))}
    data = pack(Path(write_as(form, tmp_path / "plain", rows)).read_bytes())
    (tmp_path / "cut").write_bytes(data[: len(data) - 20])
    with pytest.raises(ConfigError, match="packed is damaged or cut, fetch the file again"):
        read_targets(str(tmp_path / "cut"))
    spoiled = bytearray(data)
    spoiled[-6] ^= 255  # in the checksum
    (tmp_path / "spoiled").write_bytes(spoiled)
    with pytest.raises(ConfigError, match="packed is damaged or cut, fetch the file again"):
        read_targets(str(tmp_path / "spoiled"))


@pytest.mark.parametrize("form", FORMS)
def test_every_format_is_read_from_elsewhere(tmp_path: Path, form: str) -> None:
    path = write_as(form, tmp_path / "plain", table())
    url = f"memory://{uuid.uuid4().hex}/catalog.{form}"
    with fsspec.open(url, "wb") as file:
        file.write(Path(path).read_bytes())
    pd.testing.assert_frame_equal(read_targets(url), read_targets(path))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml", "an Excel workbook: save it as CSV"),
        (b"PK\x03\x04" + b"\0" * 26 + b"xl/workbook.xml", "an Excel workbook: save it as CSV"),
        (
            b"PK\x03\x04" + b"\0" * 26 + b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet",
            "an OpenDocument sheet: save it as CSV",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook: save it as CSV"),
        (b"\x89PNG\r\n\x1a\n", r"an image \(PNG\)"),
        (b"%PDF-1.7", "a PDF document"),
        (b'[{"plate": 266}]', "JSON"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<html><body>VOTABLE</body>", "a web page"),
        (b"<?xml version='1.0'?><rss>", "other XML"),
    ],
)
def test_what_is_no_catalog_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "catalog.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=what):
        read_targets(str(tmp_path / "catalog.csv"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_of_files_is_named(tmp_path: Path, mode: Literal["w", "w:gz"]) -> None:
    with tarfile.open(tmp_path / "catalog.csv", mode) as archive:
        archive.add(csv(tmp_path, "inside.csv"))
    with pytest.raises(ConfigError, match="it is a tar archive: unpack it"):
        read_targets(str(tmp_path / "catalog.csv"))


@pytest.mark.parametrize(
    "prefix", [b"<?xml version='1.0'?>\n<!-- x -->\n<VOTABLE", b"<vot:VOTABLE", b"\xef\xbb\xbf<VOTABLE"]
)
def test_a_votable_is_known_by_its_first_element(prefix: bytes) -> None:
    assert format_of(prefix, "x") == "VOTable"


# --- parts ---


def parts(folder: Path, rows: dict[str, list[object]], split: int = 1) -> Path:
    for number, (start, stop) in enumerate(((0, split), (split, 3))):
        part = folder / f"deep/part-{number}.parquet"
        part.parent.mkdir(parents=True, exist_ok=True)
        write_as("parquet", part, {name: values[start:stop] for name, values in rows.items()})
    (folder / "_metadata.parquet").write_text("not a part")
    (folder / "readme.txt").write_text("nor this")
    return folder


def test_a_folder_of_parquet_files_is_one_catalog(tmp_path: Path) -> None:
    folder = parts(tmp_path / "catalog", table())
    expected = read_targets(csv(tmp_path))
    for url in (
        str(folder),
        f"{folder}/",
        f"file://{folder}",
        f"{folder}/deep/*.parquet",
        f"{folder}/*/part-?.parquet",
    ):
        pd.testing.assert_frame_equal(read_targets(url), expected)
    assert find_targets(str(folder), "PLATE == 266").rows == 3


@pytest.mark.parametrize("name", ["catalog", "catalog/*/*.parquet"])
def test_a_folder_elsewhere_is_one_catalog_too(tmp_path: Path, name: str) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    for file in parts(tmp_path, table()).rglob("part-*.parquet"):
        with fsspec.open(f"{root}/catalog/deep/{file.name}", "wb") as target:
            target.write(file.read_bytes())
    pd.testing.assert_frame_equal(read_targets(f"{root}/{name}"), read_targets(csv(tmp_path)))


def test_parts_may_differ_in_types_but_not_in_columns(tmp_path: Path) -> None:
    folder = parts(tmp_path / "types", table(RUN2D=["26", 26.0, 103.0]))
    assert sorted(read_targets(str(folder))["run2d"]) == ["103", "26", "26"]
    write_as("parquet", folder / "deep/part-2.parquet", {"PLATE": [1], "MJD": [2], "FIBERID": [3], "RUN2D": ["26"]})
    with pytest.raises(
        ConfigError, match=r"part-2.parquet', expected a part with the columns Z; .*part-0.parquet has them"
    ):
        read_targets(str(folder))


def test_a_folder_without_parquet_files_and_a_pattern_without_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file, or a folder of Parquet files; it is an empty folder"):
        read_targets(str(tmp_path))
    for name in ("a.csv", "b.csv", "read.me"):
        csv(tmp_path, name, FIBERID=[ord(name[0]), 2 * ord(name[0]), 3 * ord(name[0])])
    pattern = f"{tmp_path}/*.csv"
    with pytest.raises(ConfigError, match=re.escape(f'it is a folder without any: use a pattern such as "{pattern}"')):
        read_targets(str(tmp_path))
    assert len(read_targets(pattern)) == 6
    with pytest.raises(ConfigError, match="expected a pattern that files match; no file does"):
        read_targets(f"{tmp_path}/*.parquet")


def test_parts_may_have_their_columns_in_another_case(tmp_path: Path) -> None:
    folder = parts(tmp_path / "case", table())
    rows = {name.lower(): values[1:] for name, values in table().items()}
    write_as("parquet", folder / "deep/part-1.parquet", rows)
    pd.testing.assert_frame_equal(read_targets(str(folder)), read_targets(csv(tmp_path)))
    write_as("parquet", folder / "deep/part-1.parquet", {**rows, "Z": [1.5, 1.5]})  # the same letters go before
    assert sorted(read_targets(str(folder))["z"]) == pytest.approx([0.1, 1.5, 1.5])
    rows["Fiberid"] = rows["FiberId"] = rows.pop("fiberid")
    write_as("parquet", folder / "deep/part-1.parquet", rows)
    with pytest.raises(ConfigError, match=r"part-1.parquet', expected a part with the columns FIBERID"):
        read_targets(str(folder))


def test_two_columns_of_a_name_in_two_cases_are_not_one_in_another_part(tmp_path: Path) -> None:
    folder = parts(tmp_path / "both", {**table(), "z": [15.0, 15.0, 15.0]})
    write_as("parquet", folder / "deep/part-1.parquet", {name: values[1:] for name, values in table().items()})
    with pytest.raises(ConfigError, match=r"part-1.parquet', expected a part with the columns z;"):
        read_targets(str(folder))


def test_parts_need_no_suffix_in_small_letters_and_none_at_all(tmp_path: Path) -> None:
    folder = parts(tmp_path / "names", table())
    (folder / "deep/part-0.parquet").rename(folder / "deep/part-0.PARQUET")
    (folder / "deep/part-1.parquet").rename(folder / "deep/part-1")
    (folder / "LICENSE").write_text("no part")
    (folder / "_delta_log").mkdir()
    (folder / "_delta_log/0.parquet").write_text("no part")
    pd.testing.assert_frame_equal(read_targets(str(folder)), read_targets(csv(tmp_path)))


def test_brackets_are_a_pattern_where_no_file_has_them_in_its_name(tmp_path: Path) -> None:
    folder = parts(tmp_path / "catalog", table())
    pattern = f"{folder}/deep/part-[01].parquet"
    pd.testing.assert_frame_equal(read_targets(pattern), read_targets(csv(tmp_path)))
    pd.testing.assert_frame_equal(read_targets(f"file://{pattern}"), read_targets(csv(tmp_path)))
    write_as("parquet", Path(pattern), table(Z=[5.0, 5.0, 5.0]))
    assert read_targets(pattern)["z"].tolist() == [5.0] * 3
    with pytest.raises(ConfigError, match="expected a pattern that files match; no file does"):
        read_targets(f"{folder}/deep/part-[78].parquet")


def test_a_file_may_have_brackets_and_stars_in_its_name(tmp_path: Path) -> None:
    for name in ("odd[2].csv", "odd*.csv"):
        path = csv(tmp_path, name)
        assert places_of(path) == ([path], None)
        assert len(read_targets(path)) == 3


def test_only_fits_files_have_extensions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a FITS file; only FITS files have extensions: leave out \[2\]"):
        read_targets(csv(tmp_path) + "[2]")
    with pytest.raises(ConfigError, match="a file that exists"):
        read_targets(f"{tmp_path}/none.fits[2]")
