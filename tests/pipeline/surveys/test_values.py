"""Values of catalogs by one rule, whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.surveys.values import as_strings, read_numbers, read_text

MASKED = np.ma.masked_array([1.5, 2.5], [False, True])
OBJECTS = np.array(["1.5", "null"], dtype=object)


@pytest.mark.parametrize(
    "column",
    [
        np.array([1.5, np.nan]),
        MASKED,
        MASKED.astype(np.float32),
        np.array(["1.5 ", " "]),
        np.array([b"1.5\0", b"NaN"]),
        np.array(["+1.5E0", "N/A"]),
        np.ma.masked_array(["1.5", "x"], [False, True]),
        OBJECTS,
    ],
    ids=repr,
)
def test_numbers_are_the_same_from_every_type(column: np.ndarray[Any, Any]) -> None:
    values, unreadable = read_numbers(column)
    np.testing.assert_array_equal(values, [1.5, np.nan])
    assert not unreadable.any()


def test_what_is_no_number_is_known() -> None:
    values, unreadable = read_numbers(np.array(["1", "red", "", "1,5"]))
    np.testing.assert_array_equal(values, [1, np.nan, np.nan, np.nan])
    assert unreadable.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    "column",
    [
        np.array(["26 ", "null", "", "a"]),
        np.array([b" 26", b"--", b"\0\0", b"a "]),
        np.ma.masked_array(["26", "x", "", "a"], [False, True, False, False]),
        np.array(["26", "None", "NaN", "a"], dtype=object),
    ],
    ids=repr,
)
def test_text_is_the_same_from_every_type(column: np.ndarray[Any, Any]) -> None:
    assert as_strings(read_text(column)).tolist() == ["26", "", "", "a"]


def test_whole_numbers_have_no_decimal_point_as_text() -> None:
    assert as_strings(read_text(np.array([26.0, 1.5, np.nan]))).tolist() == ["26", "1.5", ""]
    assert as_strings(read_text(np.array([], dtype="S0"))).tolist() == []
