"""Quality bits for analysts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.results.quality import NOT_GOOD, bits, counted
from pipeline.spectra.quality import MEANINGS, Quality
from tests.pipeline.conftest import MakeRun, model_config

VALUES = np.array([0, 3, Quality.OUT_OF_DOMAIN, Quality.FIBER_MASKED | Quality.TRUNCATED], np.uint32)


def test_bits_are_decoded_into_columns_of_truth() -> None:
    found = bits(VALUES)
    assert list(found) == [(bit.name or "").lower() for bit in Quality]
    assert found["no_file"].tolist() == [False, True, False, False]
    assert found.sum(axis=1).tolist() == [0, 2, 1, 2]


def test_bits_are_counted_with_their_meanings() -> None:
    found = counted({"spectra": VALUES, "model": np.zeros(4, np.uint32)}, Quality.UNUSABLE)
    assert found.loc["good", ["spectra", "model"]].tolist() == [1, 4]
    assert found.loc["no_file", "spectra"] == 1
    assert found.loc["no_file", "meaning"] == MEANINGS[Quality.NO_FILE]
    assert not found.loc["no_file", "latents"]
    assert found.loc["out_of_domain", "latents"]


def test_a_run_gives_both(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, models=[model_config("one"), model_config("two")], without=[("encode two", 1)])
    run = pipeline.open_run(tmp_path)
    assert run.models == ("one", "two")
    table = run.quality_table()
    assert list(table) == ["meaning", "latents", "spectra", "one", "two"]
    assert table.loc["not_processed", ["spectra", "one", "two"]].tolist() == [0, 0, 4]
    assert run.quality("two")["not_processed"].tolist() == [4 <= row < 8 for row in range(18)]


@pytest.mark.parametrize("bit", [bit for bit in Quality if bit & NOT_GOOD])
def test_bits_of_the_recommended_selection_are_known(bit: Quality) -> None:
    assert bit in MEANINGS


@pytest.mark.slow
def test_the_recommended_selection_keeps_clean_galaxies_and_few_others(real: pipeline.Run) -> None:
    table, good = real.table(), real.good()
    clean = ((table["class"] == "GALAXY") & (table["zwarning"] == 0) & (table["z"] < 0.5)).to_numpy()
    assert (int(clean.sum()), int((~clean).sum())) == (64, 53)
    assert (good & clean).sum() >= 60
    assert (good & ~clean).sum() <= 10
    assert set(table["sample"]) == {"training", "neither"}
    assert (table["sample"] == "training").sum() == 48


def test_rows_that_are_not_done_or_fit_badly_are_not_good(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, without=[("encode toy", 2)])
    run = pipeline.open_run(tmp_path)
    good = run.good()
    assert good.shape == (18,)
    assert not good[8:12].any()
    table = run.table(where=good)
    assert (table["chi2_n"] <= 6).all()
    assert table.attrs["where"] == "chosen rows"
