"""Targets without redshifts, and targets that are not like those a model was trained on, from catalog to figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.table import Table

import pipeline
from pipeline.cli import main as cli
from pipeline.planning.domain import Domain
from pipeline.spectra.quality import Quality
from tests.running import random_checkpoint

FIBERS = [(266, 51630, fiberid) for fiberid in (168, 174, 486)]
DOMAIN = {"classes": ["GALAXY"], "z": [0.02, 0.5], "sn": [2.0, 40.0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blind")


@pytest.fixture(scope="module")
def root(folder: Path, mirror: Path) -> Path:
    """Give a finished run over a catalog that has no redshifts, with a model that takes them and one that does not."""
    plate, mjd, fiberid = zip(*FIBERS, strict=True)
    rows = {"PLATE": plate, "MJD": mjd, "FIBERID": fiberid, "RUN2D": ["26"] * 3, "CLASS": ["GALAXY", "STAR", ""]}
    pd.DataFrame(rows).to_csv(folder / "catalog.csv", index=False)
    targets, made = folder / "targets.parquet", folder / "run"
    assert cli.main(["targets", str(folder / "catalog.csv"), "--no-fetch", "--output", str(targets)]) == 0
    free, taking = random_checkpoint(folder, domain=DOMAIN), random_checkpoint(folder, n_aux=1)
    models = ["--model", f"free={free}", "--model", f"taking={taking}"]
    assert cli.main(["plan", str(made), "--targets", str(targets), "--source", str(mirror), *models]) == 0
    assert cli.main(["run", str(made), "--serial"]) == 0
    return made


def encodings(root: Path, model: str) -> xr.Dataset:
    return pipeline.open_run(root).encodings(model).load()


def test_a_model_without_aux_gives_latents_alone(root: Path) -> None:
    found = encodings(root, "free")
    no_z, outside = int(Quality.NO_REDSHIFT), int(Quality.OUT_OF_DOMAIN)
    of_encoding = found["quality"].to_numpy() & (no_z | outside | int(Quality.UNUSABLE))
    assert of_encoding.tolist() == [no_z, no_z | outside, no_z]
    assert np.isfinite(found["latents"]).all()
    for name in ("restframe", "chi2", "amplitude"):
        assert found[name].isnull().all(), name
    assert not found["n_pixels"].any()


def test_a_model_that_takes_the_redshift_says_why_it_gives_nothing(root: Path) -> None:
    found = encodings(root, "taking")
    bits = np.uint32(Quality.NO_REDSHIFT | Quality.NEEDS_REDSHIFT)
    assert (found["quality"].to_numpy() & bits == bits).all()
    assert found["latents"].isnull().all()


def test_status_and_report_count_them_by_model(root: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingest, free, taking = pipeline.status(root).stages
    assert [(each.usable, each.quality["NO_REDSHIFT"]) for each in (ingest, free, taking)] == [(3, 3), (3, 3), (0, 3)]
    assert taking.quality["NEEDS_REDSHIFT"] == 3
    assert cli.main(["status", str(root)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert not lines["no_redshift"].endswith("no latents")
    assert lines["needs_redshift"].endswith("no latents")
    pipeline.report(root, folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "The model takes the redshift as input, and the target has none." in page
    assert page.count('<span class="tag">no latents</span>') == 1


@pytest.mark.parametrize("model", ["free", "taking"])
@pytest.mark.parametrize("attention", [(), ("--attention",)], ids=["plain", "attention"])
def test_they_are_drawn(root: Path, folder: Path, model: str, attention: tuple[str, ...]) -> None:
    output = folder / f"{model}{len(attention)}.png"
    assert cli.main(["plot", str(root), "--row", "0", "--model", model, "--output", str(output), *attention]) == 0
    assert output.stat().st_size > 10_000


def test_a_run_says_by_its_plan_what_a_model_was_trained_on(root: Path) -> None:
    free, taking = pipeline.open_run(root).plan.models
    assert free.domain == Domain.from_dict(DOMAIN)
    assert taking.domain is None


def test_plan_warns_of_targets_that_are_outside(
    catalog: Path, mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets, root = tmp_path / "targets.parquet", tmp_path / "run"
    assert cli.main(["targets", str(catalog), "--output", str(targets)]) == 0
    capsys.readouterr()
    models = ["--model", f"free={random_checkpoint(tmp_path, domain=DOMAIN)}"]
    models += ["--model", f"all={random_checkpoint(tmp_path)}"]
    assert cli.main(["plan", str(root), "--targets", str(targets), "--source", str(mirror), *models]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    table = Table.read(catalog)["CLASS", "Z", "SN_MEDIAN_ALL"].to_pandas()  # by the catalog's own columns
    is_galaxy = table["CLASS"].str.decode("ascii").str.strip() == "GALAXY"
    inside = is_galaxy & table["Z"].between(0.02, 0.5) & table["SN_MEDIAN_ALL"].between(2, 40)
    assert 20 < inside.sum() < 100
    assert line == (
        f"warning: {(~inside).sum()} of {len(table)} targets lie outside of what free was trained on"
        " (class GALAXY, z 0.02 to 0.5, S/N 2 to 40); their encodings get the bit OUT_OF_DOMAIN"
    )


def test_status_and_report_warn_of_spectra_that_are_outside(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = pipeline.open_run(root).encodings("free")["quality"].values
    outside = int(((quality & np.uint32(Quality.OUT_OF_DOMAIN)) > 0).sum())
    assert 0 < outside < len(quality)
    said = f"{outside} of {len(quality)} spectra lie outside of what free was trained on:"
    assert cli.main(["status", str(root)]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")] == [
        f"warning: {said} they have the bit OUT_OF_DOMAIN, and Run.good leaves them out"
    ]
    pipeline.report(root, tmp_path / "report.html")
    assert said in (tmp_path / "report.html").read_text(encoding="utf-8")
