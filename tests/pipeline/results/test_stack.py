"""Restframes masked by what spectra cover, and their weighted means, against a computation by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import pipeline
from pipeline.results.coverage import covered
from tests.pipeline.conftest import MakeRun, model_config

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    """Give a run of 18 spectra that cover other parts of the 50 restframe bins, two of them none."""
    make_run(tmp_path)
    import zarr

    store = zarr.open_group(tmp_path / "encodings" / "toy.zarr", mode="r+")
    first = np.arange(18, dtype=np.int32)
    first[[4, 9]] = -1
    store["rest_first"][:] = first
    store["rest_last"][:] = np.where(first < 0, -1, first + 20).astype(np.int32)
    return pipeline.open_run(tmp_path)


def test_bins_that_a_spectrum_does_not_cover_are_masked(run: pipeline.Run) -> None:
    whole, masked = run.encodings(), run.encodings(observed_only=True)
    inside = covered(whole["rest_first"].to_numpy(), whole["rest_last"].to_numpy(), 50)
    assert inside.sum(axis=1).tolist() == [0 if row in (4, 9) else 21 for row in range(18)]
    expected = np.where(inside, whole["restframe"].to_numpy(), np.nan)
    np.testing.assert_array_equal(masked["restframe"].to_numpy(), expected)
    assert masked["restframe"].dtype == np.float32
    assert masked["restframe"].chunksizes == whole["restframe"].chunksizes
    assert {"flux", "norm", "latents"} <= set(masked.data_vars)


def by_hand(run: pipeline.Run, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    flux = run.encodings(observed_only=True)["restframe"].to_numpy()[rows].astype(np.float64)
    weight = np.where(np.isfinite(flux), weights[rows][:, None], 0)
    with np.errstate(invalid="ignore"):
        return np.nansum(np.nan_to_num(flux) * weight, axis=0) / weight.sum(axis=0)


def test_a_stack_is_the_mean_of_what_is_covered(run: pipeline.Run) -> None:
    edges = [0, 0.1, 0.25, 0.4]
    stacked = run.stack(by="z", bins=edges, where="z >= 0")
    z = run.table()["z"].to_numpy()
    for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        rows = np.flatnonzero((z >= low) & ((z < high) | ((high == edges[-1]) & (z <= np.float32(high)))))
        np.testing.assert_allclose(stacked["restframe"][number], by_hand(run, rows, np.ones(18)), rtol=1e-12)
        assert stacked["spectra"][number] == len(rows)
    assert stacked["low"].values.tolist() == edges[:-1]
    assert stacked["count"].max() <= stacked["spectra"].max()
    assert stacked["model"].item() == "toy"
    assert stacked.attrs["model_sha256"] == "ab" * 32


def test_words_are_groups_and_columns_weights(run: pipeline.Run) -> None:
    table = run.table()
    stacked = run.stack(by="class", weights="specobjid", where="z >= 0")
    assert stacked["group"].values.tolist() == ["GALAXY", "QSO", "STAR"]
    rows = np.flatnonzero(table["class"] == "QSO")
    expected = by_hand(run, rows, table["specobjid"].to_numpy().astype(np.float32))
    np.testing.assert_allclose(stacked["restframe"][1], expected, rtol=1e-6)


def test_a_number_of_bins_holds_equal_numbers_of_spectra(run: pipeline.Run) -> None:
    where = np.isfinite(run.table()["l0"].to_numpy())
    assert run.stack(by="l0", bins=2, where=where)["spectra"].values.tolist() == [7, 7]
    assert run.stack(by="l0", where=where)["spectra"].values.tolist() == [14]


def test_scatter_is_the_standard_deviation(run: pipeline.Run) -> None:
    stacked = run.stack(where="z >= 0")
    flux = run.encodings(observed_only=True)["restframe"].to_numpy().astype(np.float64)
    some = stacked["count"].to_numpy()[0] > 0
    np.testing.assert_allclose(stacked["scatter"].to_numpy()[0, some], np.nanstd(flux[:, some], axis=0), atol=1e-7)


def test_a_cluster_gives_the_same(run: pipeline.Run, threads: Client) -> None:
    def stacked() -> np.ndarray:
        return run.stack(by="z", bins=3, where="z >= 0")["restframe"].to_numpy()

    with threads.as_current():
        there = stacked()
    np.testing.assert_array_equal(there, stacked())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"by": "mass"}, "by is 'mass', expected a column of the table"),
        ({"by": "latents"}, "by is 'latents', expected a column of the table, one value for each spectrum"),
        ({"by": None}, "by is None"),
        ({"weights": "latents"}, "weights is 'latents'"),
        ({"bins": "abc"}, "a number of bins, or their edges"),
        ({"by": "class", "bins": 3}, "no bins: class is text"),
        ({"bins": [1, 0]}, "edges in ascending order"),
        ({"bins": 0}, "at least 1"),
        ({"weights": "class"}, "a column of numbers"),
    ],
)
def test_what_cannot_be_stacked_is_refused(run: pipeline.Run, asked: dict[str, object], message: str) -> None:
    with pytest.raises(pipeline.ConfigError, match=message):
        run.stack(where="z >= 0", **asked)  # type: ignore[arg-type]


def test_a_model_that_kept_no_coverage_is_refused(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, models=[model_config(variables=["latents", "restframe"])])
    run = pipeline.open_run(tmp_path)
    for ask in (lambda: run.encodings(observed_only=True), lambda: run.stack(where="z >= 0")):
        with pytest.raises(pipeline.ConfigError, match="the encodings of toy have no rest_first, rest_last"):
            ask()


def test_an_empty_selection_has_an_empty_stack(run: pipeline.Run) -> None:
    stacked = run.stack(by="z", bins=[0, 1], where="z > 9")
    assert stacked["spectra"].values.tolist() == [0]
    assert np.isnan(stacked["restframe"]).all()
