"""A run of 18 spectra in chunks of 4, of which one is not done and two spectra have no latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from tests.pipeline.conftest import MakeRun
from tests.pipeline.results.latents.conftest import stored

pytest.importorskip("panel", reason="the extra `explorer` is not installed")
pytest.importorskip("datashader", reason="the extra `explorer` is not installed")

NOT_DONE = [8, 9, 10, 11]


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    make_run(tmp_path / "run", without=[("encode toy", 2)])
    latents = stored(tmp_path / "run")["latents"]
    latents[:] = np.random.default_rng(0).normal(3, [1, 5, 0.1], (18, 3)).astype(np.float32)
    latents[0:1] = np.nan
    latents[13:14, 1:2] = np.inf
    return pipeline.open_run(tmp_path / "run")
