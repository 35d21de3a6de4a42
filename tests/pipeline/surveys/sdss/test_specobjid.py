from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog import targets
from pipeline.surveys.sdss import specobjid
from pipeline.surveys.sdss.ids import compose_specobjid, read_specobjid
from pipeline.surveys.sdss.reductions import FIRST_BOSS_PLATE, FIRST_SEGUE2_PLATE, KNOWN
from pipeline.surveys.sdss.specobjid import DR7_UNTIL, Outcome, take_apart

XID = 211612124516974592  # of astroquery's example, 751-52251-160 in DR7
LEGACY = [name for name in KNOWN if name.isdecimal()]
BOSS = [name for name in KNOWN if not name.isdecimal()]


def dr7(plate: int, mjd: int, fiberid: int, kind: int = 0, line: int = 0) -> int:
    """Compose an id as DR7 documents it."""
    return plate << 48 | mjd << 32 | fiberid << 22 | kind << 16 | line


def dr8(run2d: str, plate: int, mjd: int, fiberid: int) -> int:
    columns = (np.array([value], np.int32) for value in (plate, mjd, fiberid))
    return int(compose_specobjid(np.array([run2d]), *columns)[0])


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def one(value: int, **own: int) -> tuple[Outcome, str, tuple[int, int, int]]:
    found = take_apart(ids(value), **{name: np.array([number]) for name, number in own.items()})
    numbers = (int(found.plate[0]), int(found.mjd[0]), int(found.fiberid[0]))
    return Outcome(found.outcome[0]), str(found.run2d[0]), numbers


def words(value: int, **own: int) -> str:
    return take_apart(ids(value), **{name: np.array([number]) for name, number in own.items()}).problem(0)


def test_the_ids_of_real_spectra_compose_and_take_apart_to_themselves(catalog: Path):
    frame = targets.read_targets(str(catalog))
    given_ids = frame["specobjid"].to_numpy()
    found = take_apart(given_ids)
    assert len(frame) == 117
    assert found.usable.all()
    for name in ("run2d", "plate", "mjd", "fiberid"):
        np.testing.assert_array_equal(getattr(found, name), frame[name].to_numpy())
    composed = compose_specobjid(found.run2d, found.plate, found.mjd, found.fiberid)
    np.testing.assert_array_equal(composed, given_ids)


def test_ids_that_a_catalog_holds_as_signed_numbers_or_text_are_the_same(catalog: Path):
    given_ids = targets.read_targets(str(catalog))["specobjid"].to_numpy()
    nothing = np.zeros(len(given_ids), np.uint64)
    assert (given_ids >= 2**63).any()
    for column in (given_ids.astype(np.int64), given_ids.astype(np.str_), given_ids.astype(np.int64).astype(np.str_)):
        assert take_apart(read_specobjid(column, nothing)[0]).usable.all()
    # floats have lost the last digits, and are read as missing
    found = take_apart(read_specobjid(given_ids.astype(np.float64), nothing)[0])
    assert (found.outcome == Outcome.MISSING).all()


@given(
    plate=st.integers(1, 2**14 - 1),
    mjd=st.integers(51000, 63000),
    fiberid=st.integers(1, 1000),
    legacy=st.sampled_from(LEGACY),
    boss=st.sampled_from(BOSS),
)
def test_any_id_of_a_later_release_is_taken_apart(plate: int, mjd: int, fiberid: int, legacy: str, boss: str):
    run2d = legacy if plate < FIRST_BOSS_PLATE else boss
    assert one(dr8(run2d, plate, mjd, fiberid)) == (Outcome.DR8, run2d, (plate, mjd, fiberid))


@given(
    plate=st.integers(1, FIRST_SEGUE2_PLATE - 1),
    mjd=st.integers(51000, DR7_UNTIL - 1),
    fiberid=st.integers(1, 640),
    kind=st.integers(0, 63),
)
def test_any_id_of_dr7_is_taken_apart(plate: int, mjd: int, fiberid: int, kind: int):
    assert one(dr7(plate, mjd, fiberid, kind)) == (Outcome.DR7, "", (plate, mjd, fiberid))


def test_no_id_of_dr7_is_one_of_a_later_release():
    """All plates, all nights of a year, and the fibers and types that come nearest: those that leave run2d a number."""
    plate, mjd = np.meshgrid(
        np.arange(1, FIRST_SEGUE2_PLATE, dtype=np.uint64), np.arange(52000, 52366, dtype=np.uint64)
    )
    base = (plate << np.uint64(48) | mjd << np.uint64(32)).ravel()
    for fiberid, kind in [(4, 8), (160, 7), (640, 11), (320, 14), (4, 0), (1, 0)]:
        found = take_apart(base | np.uint64(fiberid << 22 | kind << 16))
        is_round = found.ids % 10**9 == 0  # as a spreadsheet leaves them: one of two million
        assert is_round.sum() < 10
        assert (found.outcome == np.where(is_round, Outcome.NO_ID, Outcome.DR7)).all()


def test_the_id_of_a_cross_match_is_dr7s(shared_data: Path):
    (row,) = csv.DictReader((shared_data.parent / "cases" / "xid.csv").read_text().splitlines())
    assert one(int(row["specobjid"])) == (Outcome.DR7, "", (751, 52251, 160))
    own = {name: int(row[column]) for name, column in (("plate", "plate"), ("mjd", "mjd"), ("fiberid", "fiberID"))}
    assert one(int(row["specobjid"]), **own) == (Outcome.DR7, "", (751, 52251, 160))


@pytest.mark.parametrize("value", [0, 2**64 - 1])
def test_a_missing_id_is_said_to_be_missing(value: int):
    assert one(value) == (Outcome.MISSING, "", (0, 0, 0))
    assert words(value) == "no SPECOBJID"


@pytest.mark.parametrize(
    "value",
    [
        1,
        3720000000000000000,  # what 3.72E+18 leaves of an id
        dr8("26", 266, 51602, 1) + 1,  # a line's
        dr8("26", 266, 51602, 1001),
        dr8("26", 266, 50999, 1),
        dr8("26", 266, 63001, 1),
        dr8("27", 266, 51602, 1),
        dr8("v5_99_0", 3655, 55240, 1),
        dr8("26", 3655, 55240, 1),  # a reduction of another spectrograph
        dr8("v5_13_2", 266, 51602, 1),
        dr7(751, 52251, 641),
        dr7(751, 52251, 0),
        dr7(751, 50999, 160),
        dr7(751, 52251, 160, line=3),
        dr7(3510, 55100, 160),
        dr7(3000, 54000, 160),  # of SEGUE-2, after DR7
        dr7(751, 54700, 160),
        282000000000000000,  # 2.82E+17: by DR7's layout 1001-56705-522
    ],
)
def test_a_number_that_is_no_spectrums_id_is_unusable(value: int):
    assert one(value) == (Outcome.NO_ID, "", (0, 0, 0))


def test_a_number_that_is_no_spectrums_id_is_explained():
    assert words(3720000000000000000) == (
        "SPECOBJID 3720000000000000000 is no spectrum's: it says 3304-52660-97, run2d number 7424 by the layout of "
        "DR8 and later, and 13216-6218-401 by DR7's"
    )


def test_an_id_of_sdss_v_is_named_as_such():
    value = 15170 << 50 | 12 << 38 | (59292 - 50000) << 24 | 10004 << 10
    assert one(value)[0] == Outcome.SDSS_V
    assert "SDSS-V's, and does not hold the catalogid" in words(value)


@pytest.mark.parametrize("own", [{"plate": 752}, {"mjd": 52252}, {"fiberid": 161}, {"plate": 187, "fiberid": 3888}])
def test_an_id_of_another_spectrum_than_the_rows_is_refused(own: dict[str, int]):
    assert one(XID, **own) == (Outcome.DISAGREES, "", (0, 0, 0))
    name, value = next(iter(own.items()))
    assert words(XID, **own).startswith(f"SPECOBJID {XID} is of 751-52251-160, but the row says {name} {value}")


def test_a_later_id_of_another_spectrum_is_refused_with_its_own_words():
    assert words(dr8("26", 266, 51602, 1), fiberid=2) == (
        f"SPECOBJID {dr8('26', 266, 51602, 1)} is of 266-51602-1, but the row says fiberid 2"
    )


def test_numbers_that_the_row_lacks_disagree_with_nothing():
    assert one(XID, plate=-1, mjd=0, fiberid=160)[0] == Outcome.DR7
    good = dr8("26", 266, 51602, 1)
    found = take_apart(ids(good, good, XID), plate=np.array([-1, 266, 266]))
    assert found.outcome.tolist() == [Outcome.DR8, Outcome.DR8, Outcome.DISAGREES]
    assert found.problem(0) == ""
    assert found.problem(2) != ""


def test_ids_that_both_layouts_allow_are_refused_unless_the_row_decides(monkeypatch: pytest.MonkeyPatch):
    """There are none today: the plates of BOSS's reductions keep them apart."""
    value = dr7(2000, 52234, 4, kind=8)
    assert one(value)[0] == Outcome.DR7
    monkeypatch.setattr(specobjid, "_LEGACY", [*specobjid._LEGACY, 512])
    assert one(value) == (Outcome.AMBIGUOUS, "", (0, 0, 0))
    assert words(value) == f"SPECOBJID {value} may be 500-52561-816 by DR8's layout, or 2000-52234-4 by DR7's"
    assert one(value, fiberid=4)[0] == Outcome.DR7
    assert one(value, fiberid=816)[0] == Outcome.DR8


def test_no_rows_are_taken_apart_to_no_rows():
    assert len(take_apart(ids()).usable) == 0
