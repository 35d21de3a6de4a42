"""What is typed is an id, or a position as astronomers write it."""

from __future__ import annotations

import numpy as np
import pytest

import pipeline
from pipeline.errors import ConfigError
from pipeline.explorer.search import find_spectrum, position_of

PLACE = (15 * (9 + 46 / 60 + 51.4 / 3600), -(1 + 2 / 60 + 28 / 3600))


@pytest.mark.parametrize(
    "text",
    [
        f"{PLACE[0]:.8f} {PLACE[1]:.8f}",
        f"{PLACE[0]:.8f} , {PLACE[1]:.8f}",
        f"({PLACE[0]:.8f}, \u2212{-PLACE[1]:.8f})",
        f"{PLACE[0]:.8f} deg {PLACE[1]:.8f} deg",
        f"{PLACE[0]:.8f}\u00b0 {PLACE[1]:.8f}\u00b0",
        "9:46:51.4 -1:02:28",
        "+9H46M51.4S \u22121\u00b002M28S",
        "9:46:51.4, -1:02:28",
        "09:46:51.4-01:02:28",
        "9h46m51.4s -1d02m28s",
        "09 46 51.4 -01 02 28",
    ],
)
def test_positions_are_read_in_degrees_and_in_hours(text: str) -> None:
    np.testing.assert_allclose(position_of(text), PLACE, rtol=0, atol=1e-7)


def test_numbers_of_degrees_are_as_people_write_them() -> None:
    assert position_of("-0.5 .5") == (-0.5, 0.5)
    assert position_of("9:46:51.4 1:02:28") == pytest.approx((PLACE[0], -PLACE[1]))


@pytest.mark.parametrize(
    "text",
    [
        *("266-51602-1", "26/266-51602-1", "v5_13_2/4055-55359-1", "299489676975171584", "-5", "266 51602 1"),
        *("sv3-bright-1-2", "main-dark-12345-39627", "266-51602-1 266-51602-2 266-51602-3 266-51602-4", "galaxy", ""),
    ],
)
def test_ids_are_no_positions(text: str) -> None:
    assert position_of(text) is None


@pytest.mark.parametrize(
    "text", ["400 0", "0 91", "146.714 -1:02:28", "200h 0d", "-9:46:51 -1:02:28", "9:46:51 -91:0:0"]
)
def test_impossible_positions_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^there is no position {text}; ra is from 0 to 360 degrees, or from 0h to"):
        position_of(text)


@pytest.mark.parametrize("text", ["25:46:51.4 -1:02:28", "9:60:51 -1:02:28", "9:46", "9h46m51.4s", "1:2:3 4:5:6 7:8:9"])
def test_what_cannot_be_read_is_refused_with_what_can(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text} cannot be read as a position; positions are written as"):
        position_of(text)


def test_the_nearest_spectrum_within_five_arcsec_is_taken(run: pipeline.Run) -> None:
    frame = run.targets()
    frame.loc[[2, 7], ["ra", "dec"]] = [[10.0, 20.0], [10.0, 20.0 + 2 / 3600]]
    run.__dict__["_targets"] = frame
    assert find_spectrum(run, "10 20.0004") == 7
    assert find_spectrum(run, "0:40:00 20:00:00") == 2
    with pytest.raises(ConfigError, match="no spectrum of this run lies within 5 arcsec of ra 10.00000, dec 21.00000"):
        find_spectrum(run, "10 21")
    assert find_spectrum(run, str(frame["target"].iloc[5])) == 5
