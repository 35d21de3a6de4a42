"""Redshifts that a run finds itself, and latents that it fits: from the commands to the datasets."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.io import fits

import pipeline
from pipeline.catalog import targets as tables
from pipeline.cli import main as cli
from pipeline.compute import choice
from pipeline.compute.stages import process
from pipeline.errors import ConfigError
from pipeline.planning.redshift import WARNINGS
from pipeline.results.figures.redshift import read_scan
from pipeline.results.figures.texts import facts
from pipeline.results.plot import draw
from pipeline.results.spectrum import read_spectrum
from pipeline.spectra.quality import Quality
from spender_core.basis import Basis
from spender_core.redshift import ZWarning
from tests.running import file_hashes, markers, random_checkpoint

C = 299_792.458
OUTPUTS = "latents,restframe,reconstruction,chi2,n_pixels,amplitude,latents_fit,latents_cov,chi2_fit"


def catalog(mirror: Path) -> pd.DataFrame:
    return tables.read_targets(str(mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"))


def plan(root: Path, mirror: Path, frame: pd.DataFrame, *, redshift: str = "blind", shard: int = 8) -> None:
    pipeline.plan(
        root,
        targets=frame,
        source=mirror,
        models=f"{redshift}=sdss-galaxies",
        redshift=redshift,
        variables=OUTPUTS.split(","),
        shard=shard,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Path:
    """Give a finished blind run of all real spectra."""
    made = tmp_path_factory.mktemp("redshifts") / "run"
    plan(made, mirror, catalog(mirror))
    assert cli.main(["run", str(made), "--serial"]) == 0
    return made


@pytest.fixture(scope="module")
def found(root: Path) -> xr.Dataset:
    return pipeline.open_run(root).encodings("blind").load()


def test_a_blind_run_agrees_with_the_catalog(found: xr.Dataset) -> None:
    clean = ((found["zwarning"] == 0) & (found["class"] == "GALAXY") & (found["z"] < 0.5)).to_numpy()
    velocity = (C * (found["z_fit"] - found["z"]) / (1 + found["z"])).to_numpy()[clean]
    assert clean.sum() == 64
    assert (np.abs(velocity) > 150).sum() <= 1
    assert 1.4826 * np.median(np.abs(velocity)) < 15
    assert (found["z_fit_class"].to_numpy()[clean] == 0).sum() >= 58
    assert (found["z_fit_warning"].to_numpy()[clean] == 0).sum() >= 60
    assert found["restframe"].attrs["redshift"] == "z_fit (blind)"
    stars_and_quasars = ((found["zwarning"] == 0) & (found["class"] != "GALAXY")).to_numpy()
    kinds = np.array(found["z_fit_class"].attrs["flag_meanings"].upper().split())
    right = kinds[found["z_fit_class"].to_numpy()] == found["class"].to_numpy()
    assert right[stars_and_quasars].mean() > 0.9


def test_fitted_latents_are_never_worse_and_have_a_covariance(found: xr.Dataset) -> None:
    has = np.isfinite(found["chi2"].to_numpy())
    assert has.sum() > 80
    before, after = found["chi2"].to_numpy()[has], found["chi2_fit"].to_numpy()[has]
    assert (after <= before * (1 + 1e-5)).all()
    packed = found["latents_cov"].to_numpy()[has]
    assert packed.shape[1] == found.sizes["latent"] * (found.sizes["latent"] + 1) // 2 == found.sizes["latent_pair"]
    full = np.zeros((len(packed), 12, 12))
    row, column = np.tril_indices(12)
    full[:, row, column] = full[:, column, row] = packed
    assert (np.linalg.eigvalsh(full) > 0).all()


def test_nothing_that_a_blind_run_finds_depends_on_the_catalogs_redshift(
    found: xr.Dataset, tmp_path: Path, mirror: Path
) -> None:
    frame = catalog(mirror)
    rows = np.arange(0, len(frame), 4)
    shuffled = frame.iloc[rows].reset_index(drop=True)
    shuffled["z"] = np.random.default_rng(1).permutation(shuffled["z"].to_numpy())
    shuffled.loc[::5, "z"] = np.nan
    shuffled["class"] = ""
    plan(tmp_path / "run", mirror, shuffled)
    assert cli.main(["run", str(tmp_path / "run"), "--serial"]) == 0
    other = pipeline.open_run(tmp_path / "run").encodings("blind").load()
    one = found.set_index(spectrum="target").sel(spectrum=other["target"].to_numpy()).reset_index("spectrum")
    assert not np.allclose(one["norm"], other["norm"], equal_nan=True)
    for name in ("z_fit", "z_fit_second", "z_fit_delta_chi2", "z_fit_chi2", "chi2", "latents"):
        np.testing.assert_allclose(one[name], other[name], rtol=3e-4, atol=3e-5, err_msg=name)
    for name in ("z_fit_warning", "z_fit_class", "n_pixels"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    # A fit of four steps takes a rounding of its start along, and further where it has not arrived.
    sigma = np.sqrt(one["latents_cov"].to_numpy()[:, [i * (i + 3) // 2 for i in range(12)]])
    off = np.abs(one["latents_fit"].to_numpy() - other["latents_fit"].to_numpy()) / sigma
    assert np.nanmedian(off) < 1e-3
    assert np.nanmax(off) < 0.2
    for name in ("restframe", "reconstruction", "amplitude"):
        mine, theirs = one[name] * one["norm"], other[name] * other["norm"]
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-4, err_msg=name)
    of_catalog = np.uint32(Quality.OUT_OF_DOMAIN)  # judged by S/N, which the catalog says
    np.testing.assert_array_equal(one["quality"] & ~of_catalog, other["quality"] & ~of_catalog)


def test_a_blind_run_that_is_killed_and_resumed_has_the_same_bytes(root: Path, tmp_path: Path, mirror: Path) -> None:
    made = tmp_path / "run"
    plan(made, mirror, catalog(mirror))
    running = subprocess.Popen([sys.executable, "-m", "pipeline", "run", str(made), "--serial"])
    deadline = time.monotonic() + 120
    while markers(made) < 3 and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it was to be killed half-way"
    assert cli.main(["run", str(made), "--workers", "2"]) == 0
    assert file_hashes(made) == file_hashes(root)
    assert cli.main(["verify", str(made)]) == 0


def test_a_run_that_grows_finds_what_one_run_would(root: Path, tmp_path: Path, mirror: Path) -> None:
    frame, made = catalog(mirror), tmp_path / "run"
    pipeline.plan(
        made,
        targets=frame.iloc[:12],
        source=mirror,
        models="blind=sdss-galaxies",
        redshift="blind",
        variables=OUTPUTS.split(","),
        shard=8,
        expect=len(frame),
    )
    assert cli.main(["run", str(made), "--serial"]) == 0
    pipeline.plan(made, targets=frame.iloc[:28], extend=True)
    assert cli.main(["run", str(made), "--serial"]) == 0
    grown = pipeline.open_run(made).encodings("blind").load()
    whole = pipeline.open_run(root).encodings("blind").isel(spectrum=slice(0, 28)).load()
    for name in ("z_fit", "latents", "latents_fit", "restframe", "quality", "z_fit_warning"):
        np.testing.assert_array_equal(grown[name].to_numpy()[:24], whole[name].to_numpy()[:24], err_msg=name)


def test_warnings_are_counted(
    root: Path, found: xr.Dataset, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["status", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "redshifts by warning, encode blind" in printed
    few = int((found["z_fit_warning"].to_numpy() & ZWarning.SMALL_DELTA_CHI2 != 0).sum())
    assert any(line.split() == ["small_delta_chi2", str(few)] for line in printed.splitlines())
    assert cli.main(["report", str(root), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Redshifts with warnings" in page
    assert WARNINGS[4][1] in page


def test_the_bits_are_those_of_the_core() -> None:
    assert {bit: name for bit, (name, _) in WARNINGS.items()} == {int(bit): bit.name for bit in ZWarning}


def test_a_figure_shows_chi2_along_redshift_and_the_runner_up(root: Path, found: xr.Dataset, tmp_path: Path) -> None:
    run = pipeline.open_run(root)
    scanned = read_scan(run, 0, "blind")
    assert scanned is not None
    assert [curve.kind for curve in scanned.curves] == ["GALAXY", "QSO", "STAR"]
    best = scanned.curves[int(found["z_fit_class"][0])]
    assert best.z[best.chi2.argmin()] == pytest.approx(float(found["z_fit"][0]), abs=2e-4)
    assert scanned.delta_chi2 == pytest.approx(float(found["z_fit_delta_chi2"][0]))
    spectrum = read_spectrum(run, 0, "blind")
    assert spectrum.z == pytest.approx(float(found["z_fit"][0]))
    figure = draw(spectrum, None, scanned)
    assert len(figure.axes) == 4
    assert any("runner-up" in str(line.get_label()) for line in figure.axes[-1].lines)
    assert cli.main(["plot", str(root), "--row", "0", "--output", str(tmp_path / "f.png")]) == 0


def test_refined_redshifts_stay_near_the_catalogs(tmp_path: Path, mirror: Path) -> None:
    frame = catalog(mirror).iloc[:16].reset_index(drop=True)
    frame["z"] = (frame["z"] * (1 + 2e-4) + 2e-4).astype(np.float32)
    frame.loc[3, "z"] = np.nan
    pipeline.plan(
        tmp_path / "run",
        targets=frame,
        source=mirror,
        models="near=sdss-galaxies",
        redshift="refine",
        redshift_window=500,
    )
    assert cli.main(["run", str(tmp_path / "run"), "--serial"]) == 0
    found = pipeline.open_run(tmp_path / "run").encodings("near").load()
    velocity = (C * (found["z_fit"] - found["z"]) / (1 + found["z"])).to_numpy()
    good = (found["z_fit_warning"] & ~np.int32(ZWarning.SMALL_DELTA_CHI2)).to_numpy() == 0
    assert good.sum() >= 10
    assert (np.abs(velocity[good]) < 580).all()
    assert np.median(velocity[good]) == pytest.approx(-60, abs=15)
    assert found["z_fit_warning"][3] == ZWarning.NODATA
    assert int(found["quality"][3]) & Quality.NO_REDSHIFT
    assert np.isfinite(found["latents"][3]).all()
    compared = np.isfinite(found["z_fit_delta_chi2"]).to_numpy()
    assert compared[np.arange(16) != 3].all(), "runners-up are looked for in the whole range"
    scanned = read_scan(pipeline.open_run(tmp_path / "run"), 0, "near")
    assert scanned is not None
    assert scanned.window is not None
    (curve,) = scanned.curves
    assert curve.z[0] < scanned.window[0] < scanned.z < scanned.window[1] < curve.z[-1]


def test_near_the_catalogs_redshift_its_class_stays(tmp_path: Path, mirror: Path) -> None:
    frame = catalog(mirror)
    frame = frame[(frame["class"] != "GALAXY") & (frame["z"] < 0.4)].iloc[:6].reset_index(drop=True)
    pipeline.plan(tmp_path / "run", targets=frame, source=mirror, models="near=sdss-galaxies", redshift="refine")
    pipeline.run(tmp_path / "run", serial=True, progress=False)
    quality = pipeline.open_run(tmp_path / "run").encodings("near")["quality"].to_numpy()
    assert len(quality) == 6
    assert (quality & np.uint32(Quality.OUT_OF_DOMAIN) > 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "sdss-galaxies", "--redshift", "blind", "--redshift-window", "300"], "redshift is not refined"),
        (["--model", "sdss-galaxies", "--redshift", "refine", "--redshift-window", "5"], "100 to 100000 km/s"),
        (["--redshift", "blind"], "expected a --model with it"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: list[str], said: str, tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog(mirror).iloc[:4].to_parquet(tmp_path / "t.parquet")
    what = ["plan", str(tmp_path / "run"), "--targets", str(tmp_path / "t.parquet"), "--source", str(mirror)]
    assert cli.main([*what, *options]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_model_that_covers_no_redshifts_is_refused(tmp_path: Path, mirror: Path) -> None:
    domain = {"classes": ["STAR"], "z": [0.0, 0.002], "sn": None}
    checkpoint = random_checkpoint(tmp_path, domain=domain)
    with pytest.raises(pipeline.ConfigError, match="cannot be scanned for redshifts: it covers no range"):
        pipeline.plan(
            tmp_path / "run", targets=catalog(mirror).iloc[:4], source=mirror, models=checkpoint, redshift="blind"
        )


def test_templates_that_are_lost_are_missed_and_made_again(
    tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_fittings", {})
    made = tmp_path / "run"
    plan(made, mirror, catalog(mirror).iloc[:4], shard=4)
    (file,) = (made / "basis").iterdir()
    kept = file.read_bytes()
    basis = Basis.from_bytes(kept)
    other = Basis(replace(basis.templates, flux=-basis.templates.flux), basis.prior).to_bytes()
    remedy = f"make it again: spender-pipeline plan {made}"
    for wrong in (kept[:1000], other, None):
        file.unlink() if wrong is None else file.write_bytes(wrong)
        assert cli.main(["verify", str(made)]) == 3
        assert remedy in capsys.readouterr().out
        assert cli.main(["run", str(made), "--serial"]) == 3
        assert remedy in capsys.readouterr().err
        assert cli.main(["plan", str(made)]) == 0
        assert file.read_bytes() == kept
    assert cli.main(["run", str(made), "--serial"]) == 0
    assert cli.main(["verify", str(made)]) == 0


def test_templates_of_another_processor_are_not_taken_for_those_of_the_run(
    tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "run"
    plan(made, mirror, catalog(mirror).iloc[:4], shard=4)
    (file,) = (made / "basis").iterdir()
    kept = file.read_bytes()
    file.unlink()
    basis = Basis.from_bytes(kept)
    other = Basis(replace(basis.templates, flux=basis.templates.flux * (1 + 1e-6)), basis.prior).to_bytes()
    monkeypatch.setattr(choice, "basis_of", lambda *arguments: other)
    for further in ([], ["--model", "second=sdss-galaxies", "--redshift", "blind"]):
        assert cli.main(["plan", str(made), *further]) == 1
        said = capsys.readouterr().err
        assert "this machine makes other templates than the run began with; bring the file back" in said
        assert not file.exists()
    file.write_bytes(kept)
    further = ["--model", "second=sdss-galaxies", "--redshift", "blind"]
    assert cli.main(["plan", str(made), *further]) == 0
    assert {model.basis for model in pipeline.open_run(made).plan.models if model.basis} == {sha256(kept).hexdigest()}


def test_plans_of_the_catalogs_redshifts_say_nothing_of_it(tmp_path: Path, mirror: Path) -> None:
    """Their fingerprints, and the bytes of plan.json, stay what they were."""
    made = pipeline.plan(tmp_path / "run", targets=catalog(mirror).iloc[:4], source=mirror, models="sdss-galaxies")
    assert not (tmp_path / "run" / "basis").exists()
    assert "redshift" not in made.models[0].to_dict()
    with pytest.raises(pipeline.ConfigError, match="redshift of model"):
        pipeline.plan(tmp_path / "run", models="sdss-galaxies", redshift="blind")


def test_a_spectrum_that_is_written_says_whose_redshift_it_has(root: Path, tmp_path: Path) -> None:
    run = pipeline.open_run(root)
    name = str(run.encodings("blind")["target"].to_numpy()[0])
    pipeline.export_spectra(root, tmp_path / "one.fits", ids=[name])
    assert fits.getheader(tmp_path / "one.fits", "TARGETS")["TCOMM3"] == "redshift of the restframe, z_fit of the model"
    assert fits.getdata(tmp_path / "one.fits", "TARGETS")["z"][0] == run.encodings("blind")["z_fit"].to_numpy()[0]
    assert "z fitted = " in facts(read_spectrum(run, 0))


def test_a_frame_without_redshifts_is_told_how_to_have_none(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown ones are NaN"):
        plan(tmp_path / "run", mirror, catalog(mirror).drop(columns="z"))
    plan(tmp_path / "run", mirror, catalog(mirror).iloc[:8].assign(z=np.nan))
    assert cli.main(["run", str(tmp_path / "run"), "--serial"]) == 0
    assert np.isfinite(pipeline.open_run(tmp_path / "run").encodings("blind")["z_fit"]).any()
