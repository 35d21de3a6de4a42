"""The benchmarks of the ingest, at tiny sizes: they run, and what they print can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from webserver import INSTALL, available

from tests.benchmarks.running import lines_of

pytestmark = pytest.mark.long


def test_prepare_finds_every_file_equal_to_astropys_reading(shared_data: Path) -> None:
    lines = lines_of("prepare.py", "--data", shared_data, "--files", "12", "--rounds", "1", "--fibers", "20")
    assert "equal to astropy's reading: 12 of 12" in lines
    (prepared,) = [line for line in lines if line.startswith("equal to upstream's")]
    found = re.search(r"(\d+) of the (\d+)", prepared)
    assert found is not None
    assert int(found[1]) > 0


def test_catalog_selects_as_many_rows_as_were_made(tmp_path: Path) -> None:
    lines = lines_of("catalog.py", "--rows", "2000", "--work", tmp_path)
    assert "2000 targets, selected from 2000 rows" in "\n".join(lines)
    assert (tmp_path / "specObj-2000.fits").stat().st_size % 2880 == 0


@pytest.mark.skipif(not available(latency=0.01), reason=f"needs nginx: {INSTALL}")
def test_ingest_lands_every_spectrum_of_both_layouts(tmp_path: Path) -> None:
    lines = lines_of("ingest.py", "--spectra", "40", "--workers", "1", "--latency", "0.01", "--work", tmp_path)
    for layout in ("spec-lite", "spPlate"):
        (row,) = [line.split() for line in lines if line.startswith(layout)]
        assert row[1:3] == ["20", "20"]
