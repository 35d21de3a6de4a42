"""Outliers: what they are ranked by, and why each is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

import pipeline
from pipeline.cli import main as cli
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from pipeline.results.latents import outliers
from pipeline.results.latents.outliers import DENSITY
from pipeline.results.latents.reasons import lines_near
from pipeline.results.tables import table as tables
from pipeline.results.tables.columns import Column
from pipeline.store.root import encode_ledger
from tests.pipeline.conftest import MakeRun, model_config
from tests.pipeline.results.latents.conftest import ODD

pytestmark = pytest.mark.slow


def test_the_rarest_come_first_with_their_reasons(run: pipeline.Run) -> None:
    found = run.outliers(5)
    assert found.index[0] == ODD
    first = found.iloc[0]
    assert first["target"] == run.targets()["target"][ODD]
    assert found["distance"].is_monotonic_decreasing
    np.testing.assert_allclose(found["distance"], np.linalg.norm(run.index().values[found.index], axis=1), rtol=1e-6)
    assert (first["line"], first["quality_words"]) == ("Halpha", "GOOD")
    assert first["run_rest"] == pytest.approx(6564.6, rel=1e-6)
    assert abs(first["line_offset"]) < 5
    assert first["reason"].endswith(
        "; 20 pixels -26.8 sigma at 8573 A (restframe 6565, Halpha); chi2 per pixel 5.2 at 6200 to 7000 A"
    )
    assert first["reason"].startswith(f"latents {first['distance']:.1f} sigma from the mean, ")
    assert [name for name in found if name.startswith("region_chi2_")][3:5] == ["region_chi2_4200", "region_chi2_4750"]
    assert found.attrs["ranked_by"] == "distance, largest first"
    assert found.attrs["left_out"] == "1"
    assert found.attrs["missing"] == "log_prob, log_prob_percentile: the run has no density of the latents"
    assert found.attrs["units"]["run_wavelength"] == "Angstrom"


def test_the_distance_to_neighbors_is_the_mean_of_five(run: pipeline.Run) -> None:
    found, values = run.outliers(3), run.index().values.astype(np.float64)
    for row, distance in found["neighbor_distance"].items():
        others = np.sort(np.linalg.norm(values - values[int(str(row))], axis=1))
        assert distance == pytest.approx(others[1:6].mean(), rel=1e-6)


def test_rows_are_chosen_by_a_condition(run: pipeline.Run) -> None:
    found = run.outliers(100, where="z < 0.2 and class == 'GALAXY'")
    whole = run.table()
    assert set(found.index) == set(whole.index[(whole["z"] < 0.2) & (whole["class"] == "GALAXY")]) - {2}
    with pytest.raises(pipeline.ConfigError, match="no spectrum that is done and has latents is chosen"):
        run.outliers(where="z > 9")
    with pytest.raises(pipeline.ConfigError, match="n is 0, expected 1 to 10000 spectra"):
        run.outliers(0)


def test_a_run_made_before_is_ranked_by_what_is_there(earlier: pipeline.Run) -> None:
    found = earlier.outliers(4)
    assert found.index[0] == ODD
    assert "run_significance" not in found
    text = "region_chi2, run_significance, run_wavelength: the run was planned without these outputs"
    assert text in found.attrs["missing"]


@pytest.mark.parametrize(
    ("variables", "ranked_by"),
    [
        (("run_significance", "chi2", "n_pixels"), "run_significance, farthest from 0 first"),
        (("chi2", "n_pixels"), "chi2_n, largest first"),
    ],
)
def test_without_latents_others_tell(
    tmp_path: Path, make_run: MakeRun, variables: tuple[str, ...], ranked_by: str
) -> None:
    make_run(tmp_path / "run", models=(model_config(variables=variables),))
    found = pipeline.open_run(tmp_path / "run").outliers(4)
    assert found.attrs["ranked_by"] == ranked_by
    assert "distance, neighbor_distance: the run keeps no latents of toy" in found.attrs["missing"]
    values = found[variables[0]].abs() if "run" in ranked_by else found["chi2_n"]
    assert values.is_monotonic_decreasing


def test_a_run_that_keeps_nothing_of_it_is_refused(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", models=(model_config(variables=("restframe",)),))
    with pytest.raises(pipeline.ConfigError, match="keeps nothing of toy to rank spectra by; plan the model with"):
        pipeline.open_run(tmp_path / "run").outliers()


def test_a_density_ranks_before_all_else(run: pipeline.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns of a density come with its stage; here another one stands for them."""
    known = tables.columns_of

    def with_density(plan: Plan, model: ModelConfig) -> list[Column]:
        columns = known(plan, model)
        amplitude = next(each for each in columns if each.name == "amplitude")
        return [*columns, *(replace(amplitude, name=name, of="amplitude") for name in DENSITY)]

    monkeypatch.setattr(tables, "columns_of", with_density)
    planned = run.outliers(18)
    assert planned.attrs["ranked_by"] == "distance, largest first"
    assert planned.attrs["missing"] == "log_prob, log_prob_percentile: the density has not been run yet"
    monkeypatch.setattr(outliers, "density_ledger", encode_ledger)
    found = run.outliers(18)
    assert found.attrs["ranked_by"] == "log_prob, lowest first"
    assert found["log_prob"].is_monotonic_increasing
    assert found["reason"].iloc[0].startswith(f"log p {found['log_prob'].iloc[0]:.1f} (percentile ")
    assert "missing" not in found.attrs


def test_an_index_of_other_latents_is_said(run: pipeline.Run) -> None:
    run.index()
    ledger = encode_ledger(run.root, run.plan, "toy")
    record = ledger.read(1)
    ledger.replace(1, {**record, "checksums": {**record["checksums"], "latents": "other"}})
    with pytest.raises(pipeline.ConfigError, match="was made before chunks were encoded; make it again.*--remake"):
        pipeline.open_run(run.root).outliers(3)
    assert cli.main(["outliers", run.root, "-n", "3", "--remake"]) == 0
    assert "distance" in pipeline.open_run(run.root).outliers(3)


def test_files_hold_the_table_and_where_it_is_from(run: pipeline.Run, tmp_path: Path) -> None:
    files = [tmp_path / f"o.{ending}" for ending in ("ecsv", "fits", "parquet")]
    found = run.outliers(6, output=files)
    for file in files:
        read = pd.read_parquet(file) if file.suffix == ".parquet" else Table.read(file, format=_format(file))
        assert list(read["target"]) == found["target"].tolist()
        np.testing.assert_array_equal(np.asarray(read["distance"]), found["distance"].to_numpy())
    header = Table.read(files[1]).meta
    assert (header["MODEL"], header["RANKEDBY"]) == ("toy", "distance, largest first")
    assert "no density" in header["MISSING"]


def _format(file: Path) -> str:
    return "ascii.ecsv" if file.suffix == ".ecsv" else "fits"


def test_another_ending_is_refused_before_anything_is_done(run: pipeline.Run, tmp_path: Path) -> None:
    with pytest.raises(pipeline.ConfigError, match=r"expected a name that ends in \.parquet or .* or \.pdf or \.png"):
        run.outliers(3, output=[tmp_path / "o.csv", tmp_path / "o.txt"])
    assert not (tmp_path / "o.csv").exists()


def test_each_wavelength_has_a_nearest_line() -> None:
    names, offsets = lines_near(np.array([6563, 6586, 5008.24, 3935, np.nan], np.float64))
    assert names.tolist() == ["Halpha", "[N II]", "[O III]", "Ca K", ""]
    assert offsets[2] == 0
    assert offsets[0] == pytest.approx(-73, abs=1)
    assert np.isnan(offsets[4])
