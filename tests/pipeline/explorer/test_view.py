"""What a page shows follows from what is chosen, and can be had again by the lines that it gives."""

from __future__ import annotations

import numpy as np
import pytest

import pipeline
from pipeline.errors import ConfigError
from pipeline.explorer.columns import Columns
from pipeline.explorer.view import PCA, Map, View, principal, reproduce
from tests.pipeline.explorer.conftest import NOT_DONE

pytestmark = pytest.mark.slow


@pytest.fixture
def chart(run: pipeline.Run) -> Map:
    return Map(Columns(run.results("toy")))


def test_it_begins_with_the_principal_components_by_class(chart: Map) -> None:
    assert chart.first_view() == View("PCA 1", "PCA 2", "class")


def test_principal_components_are_those_of_the_singular_value_decomposition(chart: Map) -> None:
    latents = np.stack([chart.columns.number(name) for name in ("l0", "l1", "l2")], axis=1).astype(np.float64)
    finite = np.isfinite(latents).all(axis=1)
    centered = latents[finite] - latents[finite].mean(axis=0)
    _, _, vectors = np.linalg.svd(centered, full_matrices=False)
    for number, name in enumerate(PCA):
        found = chart.axis(name)
        assert np.isnan(found[~finite]).all()
        np.testing.assert_allclose(np.abs(found[finite]), np.abs(centered @ vectors[number]), atol=1e-4)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_latents_for_components_are_no_fault(n: int) -> None:
    first, second = principal([np.zeros(n, np.float32)] * 3)
    assert first.shape == second.shape == (n,)


def test_filters_leave_the_rows_that_the_condition_does(run: pipeline.Run, chart: Map) -> None:
    view = chart.first_view().filtered("z", (0.1, 0.3)).filtered("l0", (2, 4))
    shown = chart.shown(view)
    assert np.flatnonzero(shown).tolist() == run.table("toy", where=view.condition()).index.tolist()
    assert not shown[NOT_DONE].any()
    assert view.filtered("l0", None).filtered("z", None).condition() == ""


def test_a_histogram_counts_each_spectrum_once(chart: Map) -> None:
    counts, edges = chart.histogram("z")
    assert counts.sum() == 14
    assert len(edges) == len(counts) + 1


def test_a_table_shows_words_and_numbers_of_the_rows(run: pipeline.Run, chart: Map) -> None:
    shown = chart.table(np.array([17, 2]))
    expected = run.table("toy").loc[[17, 2]]
    assert shown["target"].tolist() == expected["target"].tolist()
    assert shown["z"].tolist() == expected["z"].tolist()
    assert chart.table(np.empty(0, np.intp)).empty


@pytest.mark.parametrize("n", [2, 14])
def test_the_lines_give_the_selection_again(
    run: pipeline.Run, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    rows = run.table("toy").index.to_numpy()[:n]
    targets = run.table("toy").loc[rows, "target"].tolist()
    monkeypatch.chdir(tmp_path_factory.mktemp("lines"))
    lines = reproduce(run.root, "toy", View().filtered("z", (0, 1)), targets if n < 5 else targets * 2)
    namespace: dict[str, object] = {}
    if n >= 5:
        from pathlib import Path

        Path("selected.txt").write_text("\n".join(targets))
    exec(lines, namespace)
    assert namespace["table"].index.tolist() == rows.tolist()  # type: ignore[attr-defined]
    assert namespace["encodings"].sizes["spectrum"] == n  # type: ignore[attr-defined]


def test_a_map_that_was_not_made_is_named(chart: Map) -> None:
    with pytest.raises(ConfigError, match="explore --make-map"):
        chart.axis("UMAP 1")


def test_all_columns_of_a_spectrum_have_a_meaning(run: pipeline.Run, chart: Map) -> None:
    row = chart.row(5)
    assert row.loc["target", "value"] == run.table("toy").loc[5, "target"]
    assert row.loc["ra"].tolist() == [str(run.targets()["ra"][5]), "degree", "right ascension (J2000)"]
    assert {"l0", "l1", "l2", "chi2_n", "quality_words"} <= set(row.index)
    assert (row["meaning"] != "").all()
