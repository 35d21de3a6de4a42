"""Runs with made-up latents, whose odd spectra are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

import pipeline
from tests.pipeline.conftest import MakeRun, model_config

ODD = 13
EARLIER = ("latents", "restframe", "chi2", "n_pixels")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the cache folder of a user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spender-pipeline"


def stored(root: Path | str) -> zarr.Group:
    return zarr.open_group(Path(root) / "encodings" / "toy.zarr", mode="r+")


def with_latents(root: Path) -> pipeline.Run:
    """Draw the latents of a run, of which row 13 is far from all others and row 2 has none."""
    latents = np.random.default_rng(0).normal(3, [1, 5, 0.1], (18, 3)).astype(np.float32)
    latents[ODD] += [8, 40, 0.8]
    latents[2] = np.nan
    stored(root)["latents"][:] = latents
    return pipeline.open_run(root)


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    """Give a run of 18 spectra with reasons: the worst run of row 13 lies on Halpha."""
    make_run(tmp_path / "run")
    run = with_latents(tmp_path / "run")
    store, z = stored(run.root), run.targets()["z"].to_numpy()
    significance = np.linspace(-4, 4, 18).astype(np.float32)
    significance[ODD] = -26.8
    store["run_significance"][:] = significance
    store["run_wavelength"][:] = (6564.6 * (1 + z)).astype(np.float32)
    region = np.ones((18, 8), np.float32)
    region[ODD, 6], region[ODD, 7] = 5.25, np.nan
    store["region_chi2"][:] = region
    return run


@pytest.fixture
def earlier(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    """Give a run that was planned before there were reasons."""
    make_run(tmp_path / "earlier", models=(model_config(variables=EARLIER),))
    return with_latents(tmp_path / "earlier")
