"""Spectra are found by every name that they have, one or many, and by positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy import units
from astropy.coordinates import SkyCoord

import pipeline
from pipeline.results.names import nearest, row_among, separation, within
from tests.pipeline.conftest import MakeRun

BIG = 2**64 - 1


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    make_run(tmp_path)
    return pipeline.open_run(tmp_path)


@pytest.mark.parametrize(
    "one",
    [
        (300, 51600, 5),
        [300, 51600, 5, "26"],
        (300, 51600, 5, 26),
        np.array([300, 51600, 5]),
        b"26/300-51600-5",
        np.str_("300-51600-5"),
        np.uint64(BIG - 13),
        np.int64(-14),
    ],
    ids=str,
)
def test_one_name_gives_one_row(run: pipeline.Run, one: Any) -> None:
    found = run.find(one)
    assert isinstance(found, int)
    assert found == 4


@pytest.mark.parametrize("one", [(300, 51600, 5), b"26/300-51600-5", "300-51600-5", BIG - 13, -14], ids=str)
def test_one_name_is_found_in_targets_that_come_in_pieces(run: pipeline.Run, one: Any) -> None:
    frame, lookup = run.targets(), run.plan.survey.lookup
    asked: list[list[str]] = []

    def pieces(names: list[str]) -> list[pd.DataFrame]:
        asked.append(names)
        return [frame[names].iloc[start : start + 4] for start in range(0, 18, 4)]

    assert row_among(pieces, lookup, one) == 4
    assert "ra" not in asked[0]
    for wrong in ("1-2-3", "none"):
        with pytest.raises(pipeline.ConfigError) as whole:
            run.find(wrong)
        with pytest.raises(pipeline.ConfigError) as parts:
            row_among(pieces, lookup, wrong)
        assert str(parts.value) == str(whole.value)


@pytest.mark.parametrize(
    "several",
    [
        ["26/300-51600-5", "300-51600-1", str(BIG)],
        ("26/300-51600-5", "26/300-51600-1", "26/300-51600-18"),
        [(300, 51600, 5), (300, 51600, 1, "26"), BIG],
        np.array([[300, 51600, 5], [300, 51600, 1], [300, 51600, 18]]),
        np.array([BIG - 13, BIG - 17, BIG], np.uint64),
        np.array(["26/300-51600-5", "26/300-51600-1", "26/300-51600-18"]),
        pd.Series(["26/300-51600-5", "26/300-51600-1", "26/300-51600-18"]),
        pd.Series([BIG - 13, BIG - 17, BIG], dtype=np.uint64),
        (each for each in ["300-51600-5", "300-51600-1", "300-51600-18"]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_several_names_give_rows_in_their_order(run: pipeline.Run, several: Any) -> None:
    found = run.find(several)
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [4, 0, 17]


def test_no_names_give_no_rows(run: pipeline.Run) -> None:
    assert run.find([]).tolist() == []


def test_a_name_among_others_that_is_not_there_is_refused(run: pipeline.Run) -> None:
    with pytest.raises(pipeline.ConfigError, match="no target of this run has the id '300-51600-99'"):
        run.find(["300-51600-1", "300-51600-99"])
    for wrong in (None, {"target": "x"}, pd.DataFrame({"plate": [266]}), 1j):
        with pytest.raises(pipeline.ConfigError, match=r"^ids is .* expected names of spectra"):
            run.find(wrong)  # type: ignore[call-overload]


def test_a_target_without_a_number_is_not_that_of_the_number_0(run: pipeline.Run) -> None:
    frame = run.targets()
    frame.loc[3, "specobjid"] = 0
    run.__dict__["_targets"] = frame
    with pytest.raises(pipeline.ConfigError, match="nonsense"):
        run.find(["nonsense"])


def test_a_position_gives_the_rows_within_a_radius_the_nearest_first(run: pipeline.Run) -> None:
    frame = run.targets()
    frame.loc[[2, 7], "ra"] = [10.0, 10.0]
    frame.loc[[2, 7], "dec"] = [20.0, 20.0 + 1 / 3600]
    run.__dict__["_targets"] = frame
    assert run.find(position=(10, 20 + 0.8 / 3600)).tolist() == [7, 2]
    assert run.find(position=(10, 20), radius=0.5).tolist() == [2]
    assert run.find(position=SkyCoord(10 * units.deg, 20 * units.deg), radius=0.5).tolist() == [2]
    assert run.find(position=(190, 20)).tolist() == []
    assert run.find(position=([10, 190, 10], [20, 0, 20 + 0.9 / 3600])).tolist() == [2, -1, 7]
    assert run.find(position=SkyCoord([10, 10] * units.deg, [20, 21] * units.deg)).tolist() == [2, -1]


@pytest.mark.parametrize(
    "position",
    [
        (1,),
        "here",
        (1, 95),
        (400, 0),
        (10**400, 0),
        SkyCoord(float("nan") * units.deg, 0 * units.deg),
        (float("nan"), 0),
        3,
    ],
)
def test_what_is_no_position_is_refused(run: pipeline.Run, position: object) -> None:
    with pytest.raises(pipeline.ConfigError, match="position is"):
        run.find(position=position)
    with pytest.raises(pipeline.ConfigError, match="radius is 0"):
        run.find(position=(1, 1), radius=0)


def test_distances_are_astropys() -> None:
    random = np.random.default_rng(0)
    ra, dec = random.uniform(0, 360, 400), np.degrees(np.arcsin(random.uniform(-1, 1, 400)))
    sky = SkyCoord(ra * units.deg, dec * units.deg)
    for place in ((0.0, 90.0), (359.9999, -3.0), (12.0, 40.0)):
        there = sky.separation(SkyCoord(*place * units.deg)).arcsec
        np.testing.assert_allclose(separation(ra, dec, place), there, rtol=1e-9)
        assert within(ra, dec, place, 20 * 3600).tolist() == [
            row for row in np.argsort(there) if there[row] <= 20 * 3600
        ]
        assert nearest(ra, dec, np.array([place]), 40 * 3600).tolist() == [int(np.argmin(there))]
