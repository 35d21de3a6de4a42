"""The newcomer's script of the pages works as it is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table

import pipeline

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "first_results.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, mirror: Path, catalog: Path) -> Path:
    """Give a finished run of real spectra of one plate, and others."""
    folder = tmp_path_factory.mktemp("newcomer") / "run"
    targets = pipeline.select_targets(catalog, where="CLASS == 'GALAXY' and ZWARNING == 0 and Z < 0.5 and PLATE < 400")
    pipeline.plan(folder, targets=targets, source=mirror, models=["sdss-galaxies"])
    pipeline.run(folder, serial=True, progress=False)
    return folder


def test_it_is_short() -> None:
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 30


def test_it_makes_a_table_a_crossmatch_a_stack_and_a_figure(root: Path, tmp_path: Path) -> None:
    run = pipeline.open_run(root)
    table = run.table()
    assert len(table) > 10
    second = Table({"ra": table["ra"][3:9] + 1e-4, "dec": table["dec"][3:9], "mass": np.arange(6.0)})
    second.add_row((12.0, 80.0, 9.0))
    second.write(tmp_path / "other.fits")
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, "-W", "error", str(SCRIPT), str(root), "other.fits"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    good = run.good()
    assert done.stdout.startswith(f"{good.sum()} good spectra, 6 matched, [")
    assert len(fits.getdata(tmp_path / "results.fits", 1)) == good.sum()
    matched = pd.read_csv(tmp_path / "matched.csv")
    assert sorted(matched["mass"]) == list(range(6))
    assert ((matched["ra"] - matched["ra_other"]).abs() < 2 / 3600).all()
    with xr.open_dataset(tmp_path / "stacked.nc", engine="h5netcdf") as stacked:
        assert int(stacked["spectra"].sum()) == good.sum()
    assert matplotlib.image.imread(tmp_path / "galaxies.png").shape[1] > 1900
