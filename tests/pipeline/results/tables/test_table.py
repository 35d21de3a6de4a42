"""The results of a run as one table: its rows and columns are those of the stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pipeline
from pipeline.results.tables import table as tables
from pipeline.results.tables.table import reduced, words
from pipeline.store.finalize import finalize
from tests.pipeline.conftest import MakeRun, model_config

pytestmark = pytest.mark.slow

COORDINATES = "target specobjid plate mjd fiberid run2d ra dec z z_err zwarning class sn_median".split()
REGIONS = [f"region_chi2_{low}" for low in (0, 3000, 3700, 4200, 4750, 5250, 6200, 7000)]
REASONS = [*REGIONS, "run_significance", "run_wavelength"]
LAST = "chi2_n quality quality_words sample".split()
OUTPUTS = [*"norm l0 l1 l2 chi2 n_pixels amplitude rest_first rest_last".split(), *REASONS, *LAST]


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> pipeline.Run:
    """Give a finished run of 18 spectra in chunks of 4, read in blocks of 8."""
    monkeypatch.setattr(tables, "BLOCK", 8)
    finalize(str(tmp_path), make_run(tmp_path))
    return pipeline.open_run(tmp_path)


def test_it_has_a_row_for_each_spectrum_and_a_column_for_each_output(run: pipeline.Run) -> None:
    table = run.table()
    assert list(table) == [*COORDINATES, *OUTPUTS]
    assert table.index.name == "row"
    assert table.index.tolist() == list(range(18))
    encodings = run.encodings()
    for name in (*COORDINATES, "norm", "chi2", "n_pixels", "amplitude", "rest_first", "rest_last", "quality"):
        stored = encodings[name].to_numpy()
        assert table[name].tolist() == stored.tolist() or np.array_equal(table[name], stored, equal_nan=True), name
    latents = table[["l0", "l1", "l2"]].to_numpy()
    np.testing.assert_array_equal(latents, encodings["latents"].to_numpy())
    assert (table["specobjid"].dtype, table["quality"].dtype, latents.dtype) == (np.uint64, np.uint32, np.float32)


def test_columns_are_chosen_in_any_order_and_single_latents_too(run: pipeline.Run) -> None:
    table = run.table(columns=["l2", "target", "latents"])
    assert list(table) == ["l2", "target", "l0", "l1", "l2"] or list(table) == ["l2", "target", "l0", "l1"]
    assert list(run.table(columns="target,chi2_n")) == ["target", "chi2_n"]


def test_a_column_that_there_is_not_is_refused_with_those_that_there_are(run: pipeline.Run) -> None:
    with pytest.raises(pipeline.ConfigError, match="columns is 'mass', expected columns of the table: target, spec"):
        run.table(columns=["mass"])
    with pytest.raises(pipeline.ConfigError, match="where is 'mass', expected a column of the table: .*chi2_n"):
        run.table(where="mass > 3")


def test_rows_are_chosen_by_any_column(run: pipeline.Run) -> None:
    whole = run.table()
    chosen = run.table(where="class == 'GALAXY' and Z < 0.2 and (quality & 4) == 0")
    wanted = whole[(whole["class"] == "GALAXY") & (whole["z"] < 0.2)]
    pd.testing.assert_frame_equal(chosen, wanted)
    assert chosen.attrs["where"].startswith("class == 'GALAXY'")
    assert run.table(where="l0 > 0").index.tolist() == whole.index[whole["l0"] > 0].tolist()
    assert len(run.table(where="z > 9")) == 0


def test_rows_are_chosen_by_a_mask_of_the_run(run: pipeline.Run) -> None:
    mask = np.arange(18) % 5 == 2
    assert run.table(where=mask).index.tolist() == [2, 7, 12, 17]
    with pytest.raises(pipeline.ConfigError, match=r"where is .*shape \(3,\).*expected a mask of bool of the run's 18"):
        run.table(where=[True, False, True])


def test_a_lazy_table_is_the_same(run: pipeline.Run) -> None:
    lazy = run.table(columns="target,l0,quality_words", where="l0 > 0", lazy=True)
    assert lazy.npartitions == 3
    eager = run.table(columns="target,l0,quality_words", where="l0 > 0")
    pd.testing.assert_frame_equal(lazy.compute(), eager, check_dtype=False)
    assert lazy["l0"].max().compute() == eager["l0"].max()


def test_its_attributes_say_what_it_is_of(run: pipeline.Run) -> None:
    said = run.table().attrs
    assert said["model"] == "toy"
    assert said["model_sha256"] == "ab" * 32
    assert said["fingerprint"] == run.plan.encode_fingerprint("toy")
    assert "2211.07890" in said["cite"] or "ace0ff" in said["cite"]
    assert said["license"]
    assert "numpy" in said["package_versions"]
    assert said["units"]["ra"] == "degree"
    assert said["split"] == "unknown: the checkpoint cannot be read"
    assert set(run.table()["sample"]) == {"unknown"}


def test_rows_that_are_not_done_are_left_out_and_counted(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, without=[("encode toy", 1), ("encode toy", 4)])
    table = pipeline.open_run(tmp_path).table()
    assert table.index.tolist() == [0, 1, 2, 3, *range(8, 16)]
    assert table.attrs["rows_not_done"] == "6"
    assert len(pipeline.open_run(tmp_path).table(lazy=True)) == 12


def test_a_run_of_which_nothing_is_done_has_an_empty_table(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, without=[("encode toy", chunk) for chunk in range(5)])
    run = pipeline.open_run(tmp_path)
    assert len(run.table()) == 0
    assert list(run.table()) == [*COORDINATES, *OUTPUTS]
    assert len(run.table(lazy=True)) == 0


def test_one_of_several_models_is_named(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, models=[model_config("one"), model_config("two", variables=["latents"])])
    run = pipeline.open_run(tmp_path)
    with pytest.raises(pipeline.ConfigError, match="several models: one, two; name one"):
        run.table()
    assert "chi2_n" not in run.table("two")
    assert run.table("two").attrs["model"] == "two"


def test_chi2_without_pixels_is_none() -> None:
    found = reduced(np.array([6, np.nan, 3], np.float32), np.array([2, 0, 0], np.int32))
    np.testing.assert_array_equal(found, np.array([3, np.nan, np.nan], np.float32))


def test_bits_are_written_as_words() -> None:
    assert words(np.array([0, 3, 0, 2**31], np.uint32)).tolist() == [
        "GOOD",
        "NOT_PROCESSED|NO_FILE",
        "GOOD",
        "0x80000000",
    ]
    assert words(np.empty(0, np.uint32)).tolist() == []


def test_outputs_of_other_plans_are_columns_too(make_run: MakeRun, tmp_path: Path) -> None:
    """Whatever is added to the table of outputs, if it has no wavelength; vectors have a column for each number."""
    from pipeline.results.tables.columns import columns_of
    from pipeline.store.root import read_plan

    make_run(tmp_path)
    plan = read_plan(str(tmp_path))
    model = model_config(variables=["latents", "restframe", "latents_fit", "latents_cov"], redshift="blind")
    found = {column.name: column for column in columns_of(plan, model)}
    assert {"z_fit", "z_fit_err", "z_fit_warning", "z_fit_class"} <= set(found)
    assert found["latents_cov"].labels == tuple(f"latents_cov_{i}" for i in range(6))
    assert found["latents_fit"].labels == ("latents_fit_0", "latents_fit_1", "latents_fit_2")
    assert found["z_fit_class"].null == -1
    assert "restframe" not in found


def test_single_rows_are_those_of_the_table(run: pipeline.Run) -> None:
    table, rows = run.results(), np.array([17, 3, 3, 9])
    names = ["target", "z", "l1", "latents", "chi2_n", "quality_words", "norm", "region_chi2_3700"]
    found, whole = table.at(rows, names), run.table()
    for name in set(names) - {"latents"}:
        np.testing.assert_array_equal(found[name], whole[name].to_numpy()[rows], name)
    np.testing.assert_array_equal(found["latents"], whole[["l0", "l1", "l2"]].to_numpy()[rows])
    with pytest.raises(ValueError, match=r"rows \[18\] are not in the table of 18 rows"):
        table.at(np.array([18]), ["target"])


def test_the_rows_of_a_block_are_known_without_reading_its_columns(run: pipeline.Run) -> None:
    table, whole = run.results(where="z > 0.1"), run.table()
    rows = np.concatenate([table.rows(*bounds) for bounds in table.bounds])
    assert rows.tolist() == whole.index[whole["z"] > 0.1].tolist()
