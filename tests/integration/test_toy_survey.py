"""A survey of another shape, with a model of another architecture, goes through the pipeline as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import pipeline
from pipeline.spectra.quality import Quality
from pipeline.store.arrays import read_region, spectra_url
from pipeline.surveys.registry import get_survey
from spender_core.architectures import get_architecture
from spender_core.instrument import get_instrument
from tests import toy_architecture, toy_survey
from tests.toy_survey import BINS, START, STEP

STARS = 7


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_architectures: None) -> Iterator[Path]:
    """Give a release of the toy survey; its package and that of the toy architecture are installed meanwhile."""
    folder = toy_architecture.install(toy_survey.install(tmp_path / "packages"))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    toy_survey.write_release(tmp_path / "release", STARS)
    yield tmp_path / "release"
    get_survey.cache_clear()
    for name in (toy_survey.MODULE, toy_architecture.MODULE):
        sys.modules.pop(name, None)


def checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    model = get_architecture("toy")(get_instrument("toygrid"), torch.linspace(4000, 8100, 900), n_latent=2)
    return toy_architecture.save_model(model, folder / "linear.pt")


def test_a_survey_of_another_shape_is_planned_run_verified_and_read(release: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    targets = pipeline.select_targets(release / "stars.csv", survey="toy")
    plan = pipeline.plan(
        root,
        targets=targets,
        source=release,
        survey="toy",
        layout="text",
        instrument="toygrid",
        models=[checkpoint(tmp_path)],
        shard=2,
    )
    assert (plan.n_spectra, plan.n_pixels, plan.models[0].architecture) == (STARS, BINS, "toy")
    summary = pipeline.run(root, workers=1, progress=False)
    assert summary.done == 2 * len(plan.shards())
    assert pipeline.verify(root).problems == ()
    assert pipeline.status(root).finished

    run = pipeline.open_run(root)
    encodings = run.encodings()
    of_arrays = {"model", "latent", "region", "wavelength", "wavelength_rest"}
    assert set(encodings.coords) == {"target", "night", "star", "z", *of_arrays}
    quality = {
        int(star): Quality(int(bits)) for star, bits in zip(encodings["star"], encodings["quality"], strict=True)
    }
    assert quality[3] & Quality.NO_FILE
    assert quality[4] & Quality.BAD_FILE
    assert quality[5] & Quality.FIBER_MASKED
    assert all(bits & Quality.TRUNCATED for star, bits in quality.items() if star not in (3, 4))
    assert run.find("star 6") == run.find(6) == run.find("n0:6")
    assert np.isfinite(encodings["latents"].isel(spectrum=run.find("star 6"))).all()
    assert encodings.attrs["license"] == "public"
    assert encodings.attrs["title"].startswith("Encodings of Toy spectra")


def test_pixels_go_to_the_nearest_bin_and_nothing_is_resampled(release: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    targets = pipeline.select_targets(release / "stars.csv", survey="toy", select="bright", where="STAR_ID < 3")
    pipeline.plan(root, targets=targets, source=release, survey="toy")
    pipeline.run(root, serial=True, progress=False, stages=("ingest",))
    arrays = read_region(spectra_url(str(root)), ("flux", "ivar", "norm"), 0, 2)
    rows = targets.frame["target"].tolist()
    for row, key in enumerate(rows):
        flux, ivar = expected(release, key)
        norm = arrays["norm"][row]
        np.testing.assert_allclose(arrays["flux"][row] * norm, flux, rtol=1e-6)
        np.testing.assert_allclose(arrays["ivar"][row] / norm**2, ivar, rtol=1e-6)


def expected(release: Path, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Place the pixels of a file one by one."""
    night, star = key.split(":")
    flux, ivar = np.zeros(BINS), np.zeros(BINS)
    for line in (release / "nights" / night / f"{star}.txt").read_text().splitlines()[1:]:
        wavelength, value, weight, mask = (float(word) for word in line.split())
        index = round((wavelength - START) / STEP)
        if 0 <= index < BINS:
            flux[index] = value
            ivar[index] = 0 if int(mask) & toy_survey.SATURATED else weight
    ivar[np.asarray(get_instrument("toygrid").skyline_mask)] = 0
    return flux, ivar


def test_an_unknown_survey_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(pipeline.ConfigError, match="survey is 'nowhere', expected one of desi, sdss"):
        pipeline.plan(tmp_path, targets=tmp_path / "t.parquet", source=tmp_path, survey="nowhere")


def test_a_survey_file_has_the_layout_and_the_grid_of_its_survey(release: Path, tmp_path: Path) -> None:
    table = tmp_path / "targets.parquet"
    pipeline.select_targets(release / "stars.csv", survey="toy", output=table)
    (tmp_path / "toy.toml").write_text(f'survey = "toy"\ntargets = "{table}"\nsource = "{release}"\n')
    plan = pipeline.plan(tmp_path / "run", config=tmp_path / "toy.toml")
    assert (plan.config.layout, plan.config.instrument, plan.models) == ("text", "toygrid", ())
