"""The store that measurements of whole surveys begin with, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.spectra.quality import Quality
from tests.benchmarks.running import lines_of

pytestmark = pytest.mark.slow


def test_it_is_a_run_whose_encodings_are_done(tmp_path: Path) -> None:
    lines = lines_of("survey_store.py", tmp_path / "run", "--spectra", "700", "--latents", "5")
    assert "planned 700 spectra in 22 chunks" in lines[-3]
    run = pipeline.open_run(tmp_path / "run")
    encodings = run.encodings()
    assert encodings["latents"].shape == (700, 5)
    missing = (encodings["quality"] & int(Quality.NO_FILE)).values > 0
    np.testing.assert_array_equal(np.isnan(encodings["latents"]).any("latent"), missing)
    ingest, encode = pipeline.status(tmp_path / "run").stages
    assert (ingest.done, encode.pending) == (0, 0)
    problems = pipeline.verify(tmp_path / "run").problems
    assert not [text for text in problems if "is not what was written" in text or "cannot be read" in text]
