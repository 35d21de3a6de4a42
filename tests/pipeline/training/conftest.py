"""Fixtures of training: finished ingests of a few real spectra, on two grids."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline
from pipeline.catalog import targets
from pipeline.compute import executor, job
from pipeline.store.root import read_plan
from tests.running import Recorder, random_checkpoint

STEP = 5


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> dict[str, str]:
    """Give the ROOT of some real spectra on the grid of each of two instruments, and of others, "more".

    Their column `mine` counts the rows of the catalog: it is a multiple of STEP but in "more".
    """
    folder = tmp_path_factory.mktemp("ingested")
    frame = targets.read_targets(str(mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"))
    roots = {}
    for name, instrument, first in (("sdss", "sdss", 0), ("boss", "boss", 0), ("more", "sdss", 1)):
        root = str(folder / name)
        rows = frame.assign(mine=range(len(frame))).iloc[first::STEP].reset_index(drop=True)
        model = [] if instrument == "boss" else [f"random={random_checkpoint(folder)}"]
        pipeline.plan(root, targets=rows, source=mirror, instrument=instrument, models=model, shard=8, keep="mine")
        executor.run(job.pending(root, read_plan(root), ("ingest",), []), None, Recorder())
        roots[name] = root
    return roots
