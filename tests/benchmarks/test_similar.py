"""The measurements of neighbors, outliers and their reasons, at tiny sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.running import lines_of


def test_neighbors_and_outliers_are_measured(tmp_path: Path) -> None:
    lines_of("survey_store.py", tmp_path / "run", "--spectra", "700", "--latents", "5")
    lines = lines_of("similar.py", tmp_path / "run", "--queries", "2", "--outliers", "5")
    names = [line.split(":")[0] for line in lines[:-1]]
    assert names[:2] == ["index", "query"]
    assert "outliers" in names
    assert lines[-2].endswith("100% of the queries give the rows and distances that float64 gives for every row.")
    assert float(lines[-1].split()[1]) > 0


@pytest.mark.long
def test_features_are_put_into_mocks_and_found(shared_data: Path) -> None:
    lines = lines_of("reasons.py", "--data", shared_data, "--spectra", "20", "--amplitudes", "2,6")
    assert lines[0] == "| sigma in each pixel | 2 | 6 |"
    two, six = (float(cell.strip(" %")) for cell in lines[2].split("|")[2:4])
    assert two < six
    assert float(lines[-1].split()[1]) > 0.9
