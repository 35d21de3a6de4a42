from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
from astropy import units

import pipeline
from pipeline.errors import ConfigError
from pipeline.planning.model import ModelConfig
from pipeline.spectra.quality import Quality
from pipeline.store import arrays as dataset
from pipeline.store.finalize import finalize
from tests.pipeline.conftest import model_config

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeRun, MakeTargets

BIG = 2**64 - 1


def other_model() -> ModelConfig:
    settings = {"sha256": "cd" * 32, "n_latent": 3, "n_rest": 50, "micro_batch": 4}
    return ModelConfig.from_dict({"name": "other", "checkpoint": "other.pt", **settings})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template") / "run"


@pytest.fixture
def run(tmp_path: Path, template: Path, make_run: MakeRun) -> pipeline.Run:
    if not template.exists():
        finalize(str(template), make_run(template))
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return pipeline.open_run(str(tmp_path))


def test_a_run_shows_its_plan_and_targets(run: pipeline.Run, make_targets: MakeTargets) -> None:
    assert run.plan.n_spectra == 18
    assert "18 spectra, models: toy" in repr(run)
    assert run.targets().equals(make_targets(18))


def test_changing_the_returned_targets_does_not_change_the_run(run: pipeline.Run) -> None:
    frame = run.targets()
    frame.loc[:, "plate"] = 7
    assert run.find("300-51600-1") == 0


def test_spectra_are_lazy_and_labelled(run: pipeline.Run) -> None:
    spectra = run.spectra()
    assert set(spectra.data_vars) == {"flux", "ivar", "norm", "quality"}
    assert spectra["flux"].chunksizes["spectrum"] == (4, 4, 4, 4, 2)
    assert "target" in spectra.coords


def test_encodings_are_joined_with_their_spectra(run: pipeline.Run) -> None:
    encodings = run.encodings()
    assert {"latents", "restframe", "chi2", "flux", "ivar", "norm"} <= set(encodings.data_vars)
    np.testing.assert_array_equal(encodings["flux"], run.spectra()["flux"])
    np.testing.assert_array_equal(encodings["specobjid"], run.targets()["specobjid"])
    assert encodings.sizes["wavelength"] == 3921


def test_quality_of_the_encodings_is_their_own(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    shard = plan.shards()[0]
    bits = np.full(len(shard), int(Quality.OUT_OF_RANGE), np.uint32)
    dataset.write_region(f"{tmp_path}/encodings/toy.zarr", shard, {"quality": bits})
    encodings = pipeline.open_run(str(tmp_path)).encodings("toy")
    np.testing.assert_array_equal(encodings["quality"][:4], bits)


def test_an_unfinished_run_opens_too(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, without=[("encode toy", 1)])
    encodings = pipeline.open_run(str(tmp_path)).encodings()
    assert (encodings["quality"][4:8] == int(Quality.NOT_PROCESSED)).all()
    assert encodings["latents"][4:8].isnull().all()


def test_one_of_several_models_must_be_named(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, models=(other_model(), ModelConfig.from_dict({**other_model().to_dict(), "name": "third"})))
    several = pipeline.open_run(str(tmp_path))
    with pytest.raises(ConfigError, match="other, third"):
        several.encodings()
    assert several.encodings("third").sizes["latent"] == 3


def test_a_model_that_the_run_does_not_have_is_refused(run: pipeline.Run) -> None:
    with pytest.raises(ConfigError, match="'sdss_II', expected one of the plan's models: toy"):
        run.encodings("sdss_II")


@pytest.mark.parametrize(
    ("target", "row"),
    [
        ("300-51600-5", 4),
        ("300-51600-0005", 4),
        ("26/300-51600-5", 4),
        (str(BIG), 17),
        (BIG, 17),
        (np.uint64(BIG - 17), 0),
    ],
)
def test_a_target_is_found_by_any_of_its_names(run: pipeline.Run, target: str | int, row: int) -> None:
    assert run.find(target) == row
    assert int(run.spectra()["fiberid"][row]) == row + 1


@pytest.mark.parametrize("target", ["300-51600-99", "27/300-51600-5", "nonsense", "0", 0, -1, 2**70, ""])
def test_a_target_that_is_not_there_is_refused_with_an_example(run: pipeline.Run, target: str | int) -> None:
    with pytest.raises(ConfigError, match="first target is 26/300-51600-1") as caught:
        run.find(target)
    assert caught.value.key == "id"


def test_a_name_that_several_targets_share_is_refused_naming_them(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path)
    shared = pipeline.open_run(str(tmp_path))
    frame = shared.targets()
    frame.loc[1, ["fiberid", "run2d", "target"]] = [1, "103", "103/300-51600-1"]
    shared.__dict__["_targets"] = frame
    with pytest.raises(ConfigError, match="fits 2 targets of this run; name one of them: 26/300-51600-1, 103/3"):
        shared.find("300-51600-1")
    assert shared.find("103/300-51600-1") == 1


def test_encodings_of_two_models_are_not_joined_unnoticed(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, models=[model_config("toy"), other_model()])
    run = pipeline.open_run(tmp_path)
    one, two = (run.encodings(name)[["latents"]].isel(spectrum=slice(2)) for name in ("toy", "other"))
    joined = xr.concat([one, two], "spectrum", coords="different", compat="equals")
    assert joined["model"].dims == ("spectrum",)
    assert joined["model"].values.tolist() == ["toy", "toy", "other", "other"]
    with pytest.raises(xr.MergeError, match="model|latents"):
        xr.merge([one, two], compat="no_conflicts", join="outer")
    assert "model" not in (one["latents"] - two["latents"]).coords


def test_reductions_of_whole_datasets_work(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path)
    encodings = pipeline.open_run(tmp_path).encodings()
    for reduced in (encodings.median("spectrum"), encodings.quantile(0.5, "spectrum")):
        np.testing.assert_allclose(reduced["chi2"], np.nanmedian(encodings["chi2"]))
        np.testing.assert_allclose(reduced["latents"], np.nanmedian(encodings["latents"], axis=0))
    by_class = encodings[["chi2", "latents"]].groupby("class").median()
    assert by_class["class"].values.tolist() == ["GALAXY", "QSO", "STAR"]
    assert np.isfinite(encodings["chi2"].median())


def test_a_selection_that_is_written_to_netcdf_follows_cf(run: pipeline.Run, tmp_path: Path) -> None:
    """By the checker of IOOS, which knows CF 1.11."""
    checker = pytest.importorskip("compliance_checker.runner", reason="compliance-checker is not installed")
    checker.CheckSuite.load_all_available_checkers()
    for name, whole in (("spectra", run.spectra()), ("encodings", run.encodings())):
        file, report = tmp_path / f"{name}.nc", tmp_path / f"{name}.txt"
        whole.isel(spectrum=[1, 5, 7]).to_netcdf(file, engine="h5netcdf")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the checker's own libraries
            options = {"verbose": 0, "criteria": "strict", "output_filename": str(report)}
            passed, failed = checker.ComplianceChecker.run_checker(str(file), ["cf:1.11"], **options)
        assert passed, report.read_text()
        assert not failed


def test_units_are_those_of_astropy(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path)
    encodings = pipeline.open_run(tmp_path).encodings()
    found = {
        name: units.Unit(each.attrs["units"]) for name, each in encodings.variables.items() if "units" in each.attrs
    }
    assert found["norm"] == 1e-17 * units.erg / units.s / units.cm**2 / units.AA
    assert found["ra"] == units.deg
    assert found["flux"] == units.dimensionless_unscaled
    assert found["wavelength"] == units.AA


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plan\.json"):
        pipeline.open_run(str(tmp_path / "nowhere"))


def test_a_run_that_has_not_begun_is_refused_by_name(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "plan.json").write_bytes(plan.to_json())
    with pytest.raises(ConfigError, match="start the run first"):
        pipeline.open_run(str(tmp_path / "b")).spectra()


def test_a_store_of_another_plan_is_refused(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path)
    plan = make_run(tmp_path / "other", n=17)
    (tmp_path / "plan.json").write_bytes(plan.to_json())
    with pytest.raises(ConfigError, match=r"spectra\.zarr was made for other targets"):
        pipeline.open_run(str(tmp_path)).spectra()


@pytest.mark.slow
def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, pipeline; print(sorted({'torch', 'xarray', 'zarr', 'dask', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_opening_a_run_does_not_need_the_model() -> None:
    code = "import sys; from pipeline import open_run; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_unknown_names_of_the_package_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'open_walks'"):
        pipeline.open_walks  # noqa: B018
    assert set(pipeline.__all__) <= set(dir(pipeline))
