"""The measurement of exports, at a tiny size."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.running import lines_of


def test_it_measures_every_format(tmp_path: Path) -> None:
    lines_of("survey_store.py", tmp_path / "run", "--spectra", "700", "--latents", "5")
    lines = lines_of("export.py", tmp_path / "run", "--output", tmp_path)
    assert [line.split(" in ")[0] for line in lines[:-1]] == ["parquet: 700 rows", "fits: 700 rows", "csv: 700 rows"]
