from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.monitor.run_log import Log
from pipeline.monitor.throughput import BINS, throughput

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def chunk(ended: float, took: float, spectra: int = 10, model: str | None = None) -> dict[str, Any]:
    stage = "encode" if model else "ingest"
    return {"stage": stage, "model": model, "chunk": 0, "spectra": spectra, "seconds": {"a": took}, "at": after(ended)}


def log(begin: float, end: float, *done: dict[str, Any]) -> Log:
    return Log("log", {"at": after(begin)}, list(done), [], {"at": after(end)}, True, 0)


def test_without_chunks_there_is_none() -> None:
    assert throughput([]) is None
    assert throughput([log(0, 10)]) is None


def test_a_chunks_spectra_are_spread_over_the_time_that_it_took() -> None:
    found = throughput([log(0, 60, chunk(ended=30, took=20, spectra=100))])
    assert found is not None
    assert found.edges[-1] == 60
    assert len(found.edges) == BINS + 1
    expected = np.where((found.edges[:-1] >= 10) & (found.edges[:-1] < 30), 5.0, 0.0)
    np.testing.assert_allclose(found.rates["ingest", None], expected, atol=1e-9)


def test_the_time_between_runs_is_left_out() -> None:
    day = 86400.0
    found = throughput([log(0, 30, chunk(30, 30, 60)), log(day, day + 30, chunk(day + 30, 30, 120))])
    assert found is not None
    assert found.edges[-1] == 60
    assert found.stretches == [(0, NOON), (30, after(day))]
    np.testing.assert_allclose(found.rates["ingest", None], [2.0] * 30 + [4.0] * 30)


def test_runs_at_a_time_are_one_stretch() -> None:
    found = throughput([log(0, 40, chunk(40, 40, 40)), log(20, 60, chunk(60, 40, 40, "m"))])
    assert found is not None
    assert found.stretches == [(0, NOON)]
    assert list(found.rates) == [("ingest", None), ("encode", "m")]


durations = st.floats(0, 1e4)


@given(st.lists(st.tuples(st.floats(0, 1e4), durations, st.lists(st.tuples(durations, durations)))))
def test_no_spectrum_is_lost_or_counted_twice(runs: list[tuple[float, float, list[tuple[float, float]]]]) -> None:
    logs = [log(b, b + d, *(chunk(b + min(e, d), took) for e, took in chunks)) for b, d, chunks in runs]
    found = throughput(logs)
    done = sum(len(each.done) for each in logs)
    if found is None:
        assert done == 0
        return
    rates = found.rates["ingest", None]
    assert (rates >= 0).all()
    assert (rates * np.diff(found.edges)).sum() == pytest.approx(10 * done, rel=1e-6)
