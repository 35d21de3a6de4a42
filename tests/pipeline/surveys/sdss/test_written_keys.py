from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog import targets
from pipeline.errors import RefusedError
from pipeline.surveys.sdss.keys import Ids, is_key, is_sdss_v, read_keys
from pipeline.surveys.sdss.layouts import spec_path
from pipeline.surveys.sdss.reductions import KNOWN
from tests.catalogs import unsettled

Key = tuple[str, int, int, int, bool]


def one(text: str) -> Key:
    found = read_keys(np.array([text]))
    assert found.usable.all(), found.problem(0)
    assert found.problem(0) == ""
    numbers = (found.plate[0], found.mjd[0], found.fiber_or_catalogid[0])
    return str(found.run2d[0]), *(int(number) for number in numbers), bool(found.is_sdss_v[0])  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("751-52251-160", ("", 751, 52251, 160, False)),
        ("0266-51602-0001", ("", 266, 51602, 1, False)),
        (" 26/266-51602-1\t", ("26", 266, 51602, 1, False)),
        ("v5_13_2/10467-58138-636", ("v5_13_2", 10467, 58138, 636, False)),
        ("spec-0266-51602-0001", ("", 266, 51602, 1, False)),
        ("spec-0266-51602-0001.fits", ("", 266, 51602, 1, False)),
        ("SPEC-0266-51602-0001.FITS.gz", ("", 266, 51602, 1, False)),
        ("lite/0266/spec-0266-51602-0001.fits", ("", 266, 51602, 1, False)),
        ("26/spec-0266-51602-0001.fits", ("26", 266, 51602, 1, False)),
        ("spSpec-52591-1070-072.fit", ("", 1070, 52591, 72, False)),
        ("v6_1_3/17057-59631-27021598108289694", ("v6_1_3", 17057, 59631, 27021598108289694, True)),
        ("v6_0_4/15170p-59292-4375924486", ("v6_0_4", 15170, 59292, 4375924486, True)),
        ("spec-017057-59631-27021598108289694.fits", ("", 17057, 59631, 27021598108289694, True)),
        ("\ufeff751-52251-160\r", ("", 751, 52251, 160, False)),
    ],
)
def test_keys_are_read_as_people_write_them(text: str, key: Key):
    assert one(text) == key


@pytest.mark.parametrize(
    "target",
    [
        "26/266-51602-1",
        "v5_13_2/10467-58138-636",
        "v6_0_4/15170-59292-4375924486",
        "v6_1_3/101077-60000-63050394784953920",
    ],
)
def test_the_path_of_a_file_is_its_key(target: str):
    run2d, numbers = target.split("/")
    ids = Ids(run2d, *(int(number) for number in numbers.split("-")))
    for kind in ("lite", "full"):
        path = spec_path(ids, kind)
        for place in (path, f"https://data.sdss.org/sas/dr17/{path}"):
            assert one(place) == (*ids, is_sdss_v(run2d))


def test_real_targets_are_keys(catalog: Path):
    frame = targets.read_targets(str(catalog))
    found = read_keys(frame["target"].to_numpy(dtype=np.str_))
    assert found.usable.all()
    for ours, theirs in (("run2d", "run2d"), ("plate", "plate"), ("mjd", "mjd"), ("fiber_or_catalogid", "fiberid")):
        np.testing.assert_array_equal(getattr(found, ours), frame[theirs].to_numpy())


@given(
    run2d=st.sampled_from(["", *KNOWN]),
    plate=st.integers(1, 2**31 - 1),
    mjd=st.integers(51000, 63000),
    fiberid=st.integers(1, 1000),
)
def test_any_key_of_a_plate_is_read(run2d: str, plate: int, mjd: int, fiberid: int):
    prefix = f"{run2d}/" if run2d else ""
    assert one(f"{prefix}{plate}-{mjd}-{fiberid}") == (run2d, plate, mjd, fiberid, False)
    assert one(f"{prefix}spec-{plate:04d}-{mjd}-{fiberid:04d}.fits") == (run2d, plate, mjd, fiberid, False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no key"),
        ("nothing", "'nothing' is no key, such as 751-52251-160, 26/266-51602-1"),
        ("allFPS-60000-1", "'allFPS-60000-1' is no key"),
        ("751-52251", "'751-52251' is no key"),
        ("751-52251-160-2", "'751-52251-160-2' is no key"),
        ("-1--1--1", "'-1--1--1' is no key"),
        ("../751-52251-160/x", "is no key"),
        ("52251-751-160", "'52251-751-160' has the MJD 751, expected 51000 to 63000: keys are PLATE-MJD-FIBER"),
        (
            "751-52251-0",
            "'751-52251-0' has the last number 0, expected a fiber from 1 to 1000, or a catalogid of SDSS-V",
        ),
        ("751-52251-1001", "has the last number 1001"),
        ("26/266-51602-4375924486", "has the last number 4375924486"),
        ("v6_1_3/17057-59631-12", "names a reduction of SDSS-V, whose keys end in a catalogid, and ends in a fiber"),
        ("0-52251-160", "has the plate 0, expected a number above 0"),
        ("9999999999-52251-160", "has the plate 9999999999"),
        ("17057-59631-9999999999999999999", "has the last number 9999999999999999999"),
    ],
)
def test_what_is_no_key_is_refused_in_words(text: str, problem: str):
    found = read_keys(np.array([text]))
    assert not found.usable[0]
    assert problem in found.problem(0)
    assert (found.plate[0], found.mjd[0], found.fiber_or_catalogid[0], found.run2d[0]) == (0, 0, 0, "")


def test_bytes_and_missing_values_are_read_as_text_is():
    for column in (
        np.array([b"751-52251-160 ", b""]),
        np.array(["751-52251-160", None], np.object_),
        pa.array(["751-52251-160", None]),
        pa.array(["751-52251-160", None]).dictionary_encode(),
    ):
        found = read_keys(column)
        assert found.usable.tolist() == [True, False]
        assert found.plate.tolist() == [751, 0]
        assert found.problem(1) == "no key"


def test_no_keys_are_read_as_none():
    assert len(read_keys(np.array([], np.str_)).usable) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("751-52251-160\n", True),
        ("spec-0266-51602-0001.fits\n", True),
        ("plate,mjd,fiberid\n", False),
        ("751-52251-160,0.04\n", False),
        ("key\n", False),
        ("", False),
    ],
)
def test_a_key_is_told_from_other_text(text: str, expected: bool):
    assert is_key(text) is expected


@pytest.mark.parametrize("heading", ["target\r\n", "my spectra\r\n", ""])
def test_a_text_file_of_keys_is_a_catalog(tmp_path: Path, heading: str):
    path = tmp_path / "mine.txt"
    lines = f"{heading}751-52251-160\r\n26/266-51602-1   # the first\r\n\r\nv6_1_3/17057-59631-27021598108289694\r\n"
    path.write_text("\ufeff# my spectra\r\n\r\n" + lines, newline="")
    found = targets.find_targets(str(path), settle=unsettled)
    assert found.frame["target"].tolist() == [
        "/751-52251-160",
        "26/266-51602-1",
        "v6_1_3/17057-59631-27021598108289694",
    ]
    assert found.frame["fiberid"].tolist() == [160, 1, 0]
    assert found.frame["specobjid"].tolist() == [0, 299489676975171584, 0]
    assert found.frame["z"].isna().all()


def test_a_line_that_is_no_key_is_refused(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("751-52251-160\nrubbish\n")
    with pytest.raises(RefusedError, match="'rubbish' is no key, such as"):
        targets.find_targets(str(path), settle=unsettled)


def test_a_list_of_specobjids_is_a_catalog(tmp_path: Path):
    path = tmp_path / "ids.txt"
    path.write_text("299489676975171584\n211612124516974592 # of DR7\n26/266-51602-162\n")
    found = targets.find_targets(str(path), settle=unsettled)
    assert found.frame["target"].tolist() == ["/751-52251-160", "26/266-51602-1", "26/266-51602-162"]
    path.write_text("299489676975171584\n299489676975171000\n")
    with pytest.raises(RefusedError, match="'299489676975171000' is no key"):
        targets.find_targets(str(path), settle=unsettled)
