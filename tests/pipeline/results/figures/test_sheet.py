"""Contact sheets."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

import pipeline
from pipeline.results.figures import style
from pipeline.results.figures.sheet import draw_sheet
from pipeline.results.latents.found import MOST_OF
from pipeline.results.spectrum import read_spectra
from tests.pipeline.conftest import MakeRun

pytestmark = pytest.mark.slow

LONG = "1:  " + "; ".join(["latents 8.1 sigma from the mean", "20 pixels -26.8 sigma at 8575 A"] * 6)


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> pipeline.Run:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_run(tmp_path / "run", n=30)
    return pipeline.open_run(tmp_path / "run")


def test_texts_touch_neither_each_other_nor_the_edge(run: pipeline.Run) -> None:
    spectra = read_spectra(run, list(range(7)))
    with style.settings():
        figure = draw_sheet(spectra, [LONG, *["2:  short"] * 6], [np.nan, *spectra[0].wavelength[::600][:6]])
        figure.draw_without_rendering()
    assert len(figure.axes) == 7
    boxes = [text.get_window_extent() for text in figure.texts]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
    panels = [axes.get_tightbbox() for axes in figure.axes]
    assert not [(a, b) for a in boxes for b in panels if b is not None and a.overlaps(b)]
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1


def test_the_worst_run_is_marked(run: pipeline.Run) -> None:
    (spectrum,) = read_spectra(run, [3])
    for mark, marks in ((float(spectrum.wavelength[700]), 1), (np.nan, 0)):
        (axes,) = draw_sheet([spectrum], ["1"], [mark]).axes
        assert len(axes.patches) == marks
    (axes,) = draw_sheet([spectrum], ["1"], [float(spectrum.wavelength[700])]).axes
    span = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (span.x0, span.x1) == pytest.approx((spectrum.wavelength[690], spectrum.wavelength[710]), rel=1e-6)


def test_a_picture_has_all_and_pages_have_twelve(run: pipeline.Run, tmp_path: Path) -> None:
    run.outliers(14, output=[tmp_path / "o.png", tmp_path / "o.pdf"])
    picture = matplotlib.image.imread(tmp_path / "o.png")
    assert picture.shape[0] == pytest.approx((7 * 1.95 + 0.42) * 110, abs=2)
    content = (tmp_path / "o.pdf").read_bytes()
    assert content.count(b"/Type /Page ") == 2
    run.outliers(14, output=tmp_path / "again.pdf")
    assert (tmp_path / "again.pdf").read_bytes() == content


def test_neighbors_begin_with_the_spectrum_itself(
    run: pipeline.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.results.figures import sheet

    drawn: list[list[str]] = []
    draw = sheet.draw_sheet
    monkeypatch.setattr(
        sheet,
        "draw_sheet",
        lambda spectra, *rest: drawn.append([each.target for each in spectra]) or draw(spectra, *rest),
    )
    found = run.similar("300-51600-9", n=3, output=tmp_path / "s.png")
    assert drawn == [["26/300-51600-9", *found["target"]]]


def test_too_many_for_a_picture_are_refused(run: pipeline.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST_OF, ".png", 5)
    with pytest.raises(pipeline.ConfigError, match=r"expected at most 5 spectra in a \.png; .* or a \.pdf"):
        run.outliers(6, output=[tmp_path / "o.csv", tmp_path / "o.png"])
    assert not (tmp_path / "o.csv").exists()
