"""A map is the same for the same latents, places others among their nearest, and belongs to one checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pipeline
from pipeline import storage
from pipeline.errors import RefusedError
from pipeline.explorer import embedding as module
from pipeline.explorer.columns import Columns
from pipeline.explorer.embedding import Embedding, chosen, make_map, map_url, read_map, store_map
from pipeline.explorer.view import UMAP, Map
from pipeline.results.latents.index import LatentIndex

pytestmark = pytest.mark.slow

KEYS = pd.Series([f"26/{n}-51600-1" for n in range(400)])


def index(n: int = 400) -> LatentIndex:
    values = np.random.default_rng(1).normal(size=(n, 4)).astype(np.float32)
    values[5] = np.nan
    return LatentIndex(values, np.zeros(4), np.eye(4), 0, 1)


def test_those_of_a_map_are_chosen_by_their_ids_alone() -> None:
    finite = np.ones(400, np.bool_)
    rows = chosen(KEYS, finite, 50)
    assert len(rows) == 50
    backwards = chosen(KEYS[::-1].reset_index(drop=True), finite, 50)
    assert set(KEYS[rows]) == set(KEYS[::-1].reset_index(drop=True)[backwards])
    assert chosen(KEYS, finite, 400).tolist() == list(range(400))


@pytest.mark.timeout(600)
def test_others_lie_at_the_mean_of_their_nearest_and_the_same_latents_give_the_same_map() -> None:
    said: list[str] = []
    own = index()
    made = make_map(own, KEYS, "ab" * 32, said.append, most=300)
    assert np.flatnonzero(~np.isfinite(made.place).all(axis=1)).tolist() == [5]
    assert made.exact.sum() == 300
    other = int(np.flatnonzero(~made.exact & np.isfinite(made.place).all(axis=1))[0])
    distance = np.linalg.norm(own.values - own.values[other], axis=1)
    distance[~made.exact] = np.inf
    expected = made.place[np.argsort(distance)[: module.NEIGHBORS]].mean(axis=0)
    np.testing.assert_allclose(made.place[other], expected, rtol=1e-5)
    again = make_map(own, KEYS, "ab" * 32, said.append, most=300)
    assert again.to_bytes() == made.to_bytes()
    assert said[0] == "map of 300 spectra"
    assert said[-1] == "99 of 99 others placed"


@pytest.mark.timeout(600)
def test_a_run_keeps_its_map_while_it_grows(run: pipeline.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEIGHBORS", 3)
    assert read_map(run.results("toy")) is None
    url = store_map(run, "toy", lambda text: None)
    found = read_map(run.results("toy"))
    assert found is not None
    assert Path(url).exists()
    grown = Embedding(found.place[:15], found.exact[:15], found.made_of)  # as if the last spectra had come since
    chart = Map(Columns(run.results("toy")), grown)
    assert chart.axes[:2] == list(UMAP)
    assert np.isnan(chart.axis(UMAP[0])[15:]).all()


@pytest.mark.parametrize("change", ["cut", "version", "checkpoint"])
def test_a_map_that_is_damaged_or_of_another_checkpoint_is_refused(run: pipeline.Run, change: str) -> None:
    table = run.results("toy")
    place = np.zeros((18, 2), np.float32)
    own = Embedding(place, np.ones(18, np.bool_), "cd" * 32 if change == "checkpoint" else "ab" * 32)
    data = own.to_bytes()
    if change == "version":
        import io

        stream = io.BytesIO()
        np.savez(stream, version=0)
        data = stream.getvalue()
    storage.write_bytes(map_url(table), data[:50] if change == "cut" else data)
    with pytest.raises(RefusedError, match="explore --make-map"):
        read_map(table)


def test_too_few_spectra_for_a_map_are_refused() -> None:
    with pytest.raises(RefusedError, match="only 7 spectra have latents"):
        make_map(index(8), KEYS[:8], "", lambda text: None)
