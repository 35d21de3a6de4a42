"""A run over all real spectra, for what analysts do with one."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory, mirror: Path, catalog: Path) -> pipeline.Run:
    """Give the 117 real spectra, encoded by the embedded model; nobody may change it."""
    root = tmp_path_factory.mktemp("real") / "run"
    targets = pipeline.select_targets(catalog, where="Z > -1")
    pipeline.plan(root, targets=targets, source=mirror, models=["sdss-galaxies"])
    pipeline.run(root, serial=True, progress=False)
    return pipeline.open_run(root)
