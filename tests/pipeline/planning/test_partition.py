"""Chunks of files that targets share: few files are read by two of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import SurveyConfig
from pipeline.planning.partition import MAX_SHARD, READ_AGAIN, choose_shard, widened
from pipeline.planning.plan import Plan


def reads(shard: int, starts: Sequence[int], n: int) -> int:
    """Count the files that the chunks of a run read; each holds the rows up to the next one's first."""
    file_of = np.searchsorted(starts, np.arange(n), side="right")
    return sum(len(np.unique(file_of[start : start + shard])) for start in range(0, n, shard))


@given(st.lists(st.integers(1, 900), min_size=1, max_size=60))
def test_chunks_of_shared_files_read_few_files_twice(sizes: list[int]) -> None:
    n, starts = sum(sizes), [0, *np.cumsum(sizes)[:-1].tolist()]
    base, _ = choose_shard(n)
    shard, _ = choose_shard(n, widened(base, starts, n))
    assert base <= shard <= MAX_SHARD
    assert reads(shard, starts, n) <= (1 + READ_AGAIN) * len(sizes) or shard == MAX_SHARD


def test_files_of_one_size_are_cut_by_no_chunk() -> None:
    starts = list(range(0, 5000, 500))
    shard, chunk = choose_shard(5000, widened(choose_shard(5000)[0], starts, 5000))
    assert (shard, chunk) == (500, 25)
    assert reads(shard, starts, 5000) == 10


def frame(sizes: Sequence[int]) -> pd.DataFrame:
    """Give DESI targets, so many of each pixel."""
    pixels = np.repeat(np.arange(len(sizes)), sizes)
    ids = np.arange(len(pixels)) + 1
    columns = {
        "target": [f"main-dark-{pixel}-{each}" for pixel, each in zip(pixels, ids, strict=True)],
        "targetid": ids,
        "survey": "main",
        "program": "dark",
        "healpix": pixels.astype(np.int32),
        "class": "GALAXY",
        "zwarning": np.zeros(len(ids), np.int32),
        **{name: np.zeros(len(ids)) for name in ("ra", "dec")},
        **{name: np.zeros(len(ids), np.float32) for name in ("z", "z_err", "delta_chi2")},
    }
    return pd.DataFrame(columns)


def test_a_plan_chooses_its_chunks_by_the_files_of_its_layout() -> None:
    settings = {"source": "s3://desidata/dr1", "targets": "t", "survey": "desi", "layout": "desi-healpix"}
    config = SurveyConfig(**settings, instrument="desi")
    assert Plan.create(config, frame([500] * 4)).shard == 500
    assert Plan.create(config, frame([3])).shard == 3
    assert Plan.create(config, frame([300])).shard == 320
    named = SurveyConfig(**settings, instrument="desi", shard=64)
    assert Plan.create(named, frame([500] * 4)).shard == 64
