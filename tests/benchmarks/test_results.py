"""The measurements of what analysts do with a run, at tiny sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.running import lines_of

pytestmark = pytest.mark.long


def test_stacks(tmp_path: Path) -> None:
    lines = lines_of("stack.py", tmp_path / "run", "--spectra", "200", "--bins", "300", "--workers", "1")
    assert " of 200 spectra in 10 bins of redshift: " in lines[-3]


def test_the_recommended_selection_keeps_few_mocks_outside_of_the_domain(shared_data: Path) -> None:
    lines = lines_of("good.py", "--data", shared_data, "--spectra", "40")
    assert [line.split("  ")[0] for line in lines[1:6]][0] == "galaxies within"
    assert float(lines[-1].split()[1]) >= 1
