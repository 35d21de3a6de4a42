"""What the page does when something is chosen, without a browser: the widgets are there all the same."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pipeline
from pipeline.explorer.columns import Columns
from pipeline.explorer.page import Explorer
from pipeline.explorer.server import load_extensions
from pipeline.explorer.view import Map
from tests.pipeline.explorer.conftest import NOT_DONE

pytestmark = pytest.mark.slow


@pytest.fixture
def page(run: pipeline.Run, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Explorer:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    load_extensions()
    opened = Explorer(run, "toy", Map(Columns(run.results("toy"))))
    opened.page()
    return opened


def message(page: Explorer) -> str:
    return str(page._message[0].object) if page._message.visible else ""


def files(run: pipeline.Run) -> set[str]:
    return {str(path) for path in Path(run.root).rglob("*")}


def test_it_counts_what_is_shown_and_what_is_not_done(page: Explorer) -> None:
    assert page._count.object.startswith("**12** of 18 spectra shown; 4 are not done yet")
    page.filters = {"z": (0.1, 0.2)}
    assert "filter: `z >= 0.1 and z <= 0.2`" in page._count.object
    page.filters = {"z": (7.0, 8.0)}
    assert "none has a place on the map and passes all filters" in page._count.object


def test_a_spectrum_and_its_neighbors_are_found_and_nothing_is_written(run: pipeline.Run, page: Explorer) -> None:
    before = files(run)
    page._searched(str(run.table("toy")["target"].iloc[2]))
    assert page.row == 2
    assert message(page) == ""
    assert len(page._spectrum.objects) == 2
    assert len(page._small.objects) == 6
    assert files(run) == before
    expected = run.similar(run.table("toy")["target"][2], n=6).index.tolist()
    assert page._neighbors.value.index.tolist() == expected


def test_what_is_not_found_is_said(page: Explorer) -> None:
    page._searched("1-1-1")
    assert "no target of this run has the id" in message(page)
    page._searched("0 90")
    assert "within 5 arcsec" in message(page)
    page._searched("400 0")
    assert (
        message(page)
        == "there is no position 400 0; ra is from 0 to 360 degrees, or from 0h to 24h; dec is from -90 to 90"
    )
    page._searched("  ")
    assert message(page) == ""


def test_a_spectrum_without_latents_is_shown_and_the_neighbors_are_refused(page: Explorer) -> None:
    page.row = 0
    assert "has no finite latents" in message(page)
    assert len(page._spectrum.objects) == 2


def test_a_selection_is_listed_and_can_be_had_as_files(run: pipeline.Run, page: Explorer) -> None:
    assert page._ids.disabled
    rows = [5, 17, 2]  # in an order that is not that of the run
    page._select(np.array(rows))
    targets = run.table("toy").loc[rows, "target"].tolist()
    assert page._ids_of().read().decode() == "".join(f"{target}\n" for target in targets)
    assert pd.read_parquet(io.BytesIO(page._parquet_of().read()))["target"].tolist() == targets
    assert targets[0] in page._code.object
    page._tabs.active = 0
    page._pressed("Escape")
    assert page._tabs.active == 0
    assert page._ids.disabled
    assert page._selection_said.object == "**0 spectra selected**"


def test_outliers_are_walked_through_by_keys_and_selected(page: Explorer) -> None:
    page._pressed("n")
    assert "list or select some spectra first" in message(page)
    page._list_outliers(None)
    assert message(page) == ""
    order = page._outliers.value.index.tolist()
    assert len(order) == 12
    for key, row in (("n", order[0]), ("n", order[1]), ("p", order[0]), ("p", order[-1])):
        page._pressed(key)
        assert page.row == row
        assert f"({order.index(row) + 1} of the 12 listed)" in page._spectrum.objects[0].object
    page._listed(page._neighbors, 5)  # neighbors are others for each spectrum
    page._pressed("Escape")
    page._pressed("n")
    assert page.row == order[(order.index(5) + 1) % 12]
    page._outliers.selection = [2, 0]
    page._select_listed(None)
    assert page.selected.tolist() == [order[0], order[2]]
    assert page._tabs.active == 1


def test_filters_of_words_and_of_numbers(page: Explorer) -> None:
    page.filtered = "class"
    boxes = page._filter.objects[0]
    boxes.value = boxes.options[:1]
    assert page.filters == {"class": boxes.options[:1]}
    shown = page._chart.raster.points.drawn  # type: ignore[union-attr]
    assert set(np.flatnonzero(shown)) <= set(range(18)) - set(NOT_DONE)
    page._cleared(None)
    assert page.filters == {}
    page.filtered = "z"
    assert len(page._filter.objects) == 1
    page.filtered = "none"
    assert page._filter.objects == []


def test_a_restored_view_is_the_one_of_the_address(page: Explorer) -> None:
    page._restore('?x=l0&y=z&color=z&filters={"z":[0,0.3]}&zoom=0,1,0,0.2&row=5')
    assert (page.x, page.y, page.color, page.row) == ("l0", "z", "z", 5)
    assert page._chart.seen == ((0.0, 1.0), (0.0, 0.2))
    assert page.filtered == "z"
    page._restore("?x=l9&row=5")
    assert message(page) == "The address: x=l9: this run has no such column"
    assert page.x == "PCA 1"


def test_what_fails_unexpectedly_is_said_too(page: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.explorer.page.find_outliers", lambda *_: 1 / 0)
    page._list_outliers(None)
    assert "by a fault of the explorer" in message(page)
