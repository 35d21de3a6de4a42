"""Training beside upstream, at a tiny size: it runs, it goes on, and what it prints can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.running import lines_of

pytestmark = pytest.mark.long


@pytest.mark.parametrize("losses", ["fidelity", "all"])
def test_both_curves_begin_alike_and_what_is_done_is_not_done_again(
    shared_data: Path, tmp_path: Path, losses: str
) -> None:
    options = ("--data", shared_data, "--work", tmp_path, "--losses", losses, "--seeds", "1")
    size = ("--steps", "4", "--every", "2", "--batch", "2")
    lines = lines_of("train_upstream.py", *options, *size)
    curves = [[float(value) for value in line.split()] for line in lines[3:5]]
    assert [row[0] for row in curves] == [2, 4]
    for _, theirs, ours, theirs_valid, ours_valid in curves:
        assert ours == pytest.approx(theirs, rel=1e-3)
        assert ours_valid == pytest.approx(theirs_valid, rel=1e-3)
    assert lines[-3].endswith(": not worse")

    assert lines_of("train_upstream.py", *options, *size) == lines  # the seconds, too
    (state,) = tmp_path.glob("*/seed0-upstream.pt")
    state.unlink()  # as if killed before upstream's turn
    assert lines_of("train_upstream.py", *options, *size)[:5] == lines[:5]
