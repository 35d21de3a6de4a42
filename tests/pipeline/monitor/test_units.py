from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.monitor.units import duration, label, number, size

SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def value_of(text: str, units: dict[str, float]) -> float:
    """Read a text such as "2 min 05 s" back."""
    return sum(float(count) * units[unit] for count, unit in re.findall(r"(\S+) (\S+)", text))


def test_a_stage_is_named_with_its_model_if_it_has_one() -> None:
    assert label("ingest", None) == "ingest"
    assert label("encode", "sdss_II") == "encode sdss_II"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (7.0, "7"),
        (7.25, "7.25"),
        (0.12345, "0.123"),
        (99.94, "99.9"),
        (99.96, "100"),
        (123.6, "124"),
        (1000, "1,000"),
        (4_986_132, "4,986,132"),
    ],
)
def test_numbers_have_separators_when_large_and_few_digits_when_small(value: float, text: str) -> None:
    assert number(value) == text


@given(st.integers(0, 10**12))
def test_whole_numbers_lose_no_digit(value: int) -> None:
    assert int(number(value).replace(",", "")) == value


@given(st.floats(0.001, 1e9))
def test_numbers_keep_three_digits(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "0 ms"),
        (0.0321, "32 ms"),
        (0.0999, "100 ms"),
        (0.1, "0.1 s"),
        (7, "7 s"),
        (7.0, "7 s"),
        (7.26, "7.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (60, "1 min"),
        (65.4, "1 min 05 s"),
        (119.6, "2 min"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h"),
        (3661, "1 h 01 min"),
        (36_000, "10 h"),
        (90_061, "25 h 01 min"),
    ],
)
def test_durations_are_in_the_units_that_fit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e7))
@example(59.95)
@example(3599.5)
@example(216000.0)
def test_a_duration_says_its_seconds_to_the_last_digit_shown(seconds: float) -> None:
    text = duration(seconds)
    step = 0.001 if "ms" in text else 60.0 if "h" in text else 1.0 if "min" in text else 0.1
    assert abs(value_of(text, SECONDS) - seconds) <= step
    assert not re.search(r"\b60 (s|min)", text)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (250_000, "250 kB"),
        (140_000_000_000, "140 GB"),
        (2_500_000_000_000, "2.5 TB"),
    ],
)
def test_sizes_are_in_powers_of_a_thousand(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text


@given(st.integers(0, 900 * 10**12))
def test_a_size_says_its_bytes_to_three_digits(n_bytes: int) -> None:
    assert value_of(size(n_bytes), BYTES) == pytest.approx(n_bytes, rel=0.0051)
