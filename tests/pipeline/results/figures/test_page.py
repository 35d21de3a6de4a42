"""Several spectra on a page: what is drawn, and that no text touches another."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import pipeline
from pipeline.cli.main import main
from pipeline.results.figures.page import View, draw_page, smoothed, windows_of
from pipeline.results.plot import draw
from pipeline.results.spectrum import Spectrum, read_spectra, read_spectrum
from tests.pipeline.conftest import MakeRun, model_config

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    make_run(tmp_path / "run", models=[model_config("toy"), model_config("other", sha256="cd" * 32)])
    return pipeline.open_run(tmp_path / "run")


@pytest.fixture
def spectra(run: pipeline.Run) -> list[Spectrum]:
    found = read_spectra(run, [0, 2, 9], "toy")
    positive = [replace(each, ivar=np.abs(each.ivar), sigma=np.abs(each.ivar) ** -0.5) for each in found]
    return [replace(each, observed=np.ones(3921, np.bool_)) for each in positive]


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def touching(figure: Figure) -> list[tuple[str, str]]:
    """Give the pairs of texts of a figure that overlap."""
    figure.canvas.draw()
    shown = list(figure.texts)
    for axes in figure.axes:
        shown += axes.texts
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=False)
            shown += [label for place, label in ticks if low <= place <= high]
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in shown if text.get_text().strip()]
    return [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.width > 0 < two.width and one.overlaps(two)]


ALL_BITS = 2**21 - 1
LONG = {
    "target": "v6_1_3/15000-59146-27021597780",
    "model": "a-very-long-name-of-a-model-that-somebody-has-trained-on-all-that-there-is",
    "quality": ALL_BITS,
}


@pytest.mark.parametrize("width", [5.0, 8.27, 13.333])
@pytest.mark.parametrize("changes", [{}, LONG], ids=["short", "long"])
def test_no_text_touches_another_at_any_size(spectra: list[Spectrum], width: float, changes: dict[str, object]) -> None:
    rows = [[replace(each, **changes)] for each in spectra]
    figure = draw_page(rows, View(width=width))
    assert touching(figure) == []
    assert [round(float(size), 2) for size in figure.get_size_inches()][0] == round(width, 2)


def test_the_heading_of_one_spectrum_touches_nothing(spectra: list[Spectrum]) -> None:
    figure = draw(replace(spectra[0], **LONG))  # type: ignore[arg-type]
    headings = {text.get_text() for text in figure.texts}
    assert [pair for pair in touching(figure) if headings & set(pair)] == []


def test_a_page_names_models_and_has_a_row_for_each_spectrum(run: pipeline.Run, tmp_path: Path) -> None:
    figure = run.plot(["300-51600-1", (300, 51600, 3)], tmp_path / "x.png", model=["toy", "other"], smooth=2)
    assert len(figure.axes) == 4
    text = " ".join(words_of(figure))
    assert text.count("26/300-51600-3") == 2
    assert "toy" in text
    assert "other" in text
    assert matplotlib.image.imread(tmp_path / "x.png").shape[1] == 1999


def test_windows_zoom_on_lines_and_wavelengths(run: pipeline.Run) -> None:
    figure = run.plot("300-51600-1", model="toy", window=(4000, 4200), lines=["Halpha", "[OIII]"])
    assert [axes.get_xlim() for axes in figure.axes] == [
        (4000, 4200),
        pytest.approx((6489.86, 6645.27)),
        pytest.approx((4900.30, 5068.24)),
    ]
    assert windows_of(None, ["Ha", "H alpha", "ha"])[0] == windows_of(None, ["hα".replace("α", "alpha")])[0]
    with pytest.raises(pipeline.ConfigError, match="lines is 'Xx', expected some of Lyalpha"):
        windows_of(None, ["Xx"])
    with pytest.raises(pipeline.ConfigError, match="the lower one first"):
        run.plot("300-51600-1", model="toy", window=(5000, 4000))


def test_smoothing_is_a_weighted_mean(spectra: list[Spectrum]) -> None:
    flat = replace(spectra[0], flux=np.full(3921, 2.0))
    np.testing.assert_allclose(smoothed(flat, 3), 2.0)
    weights = np.where(np.arange(3921) == 100, 0, 1.0)
    spike = replace(flat, flux=np.where(np.arange(3921) == 100, 1e9, 1.0), ivar=weights)
    found = smoothed(spike, 2)
    assert np.isnan(found[100])
    np.testing.assert_allclose(np.delete(found, 100), 1.0)
    np.testing.assert_array_equal(smoothed(spike, 0), np.where(weights > 0, spike.flux, np.nan))


def test_a_run_without_encodings_shows_spectra_alone(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, models=())
    run = pipeline.open_run(tmp_path)
    assert "no model has encoded it yet" in words_of(run.plot(["300-51600-1", "300-51600-2"]))
    assert "no model has encoded it yet" in words_of(run.plot("300-51600-1"))
    assert read_spectrum(run, 0).model == ""


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"smooth": -1}, "0 to 100 pixels"),
        ({"width": 1}, "3 to 40 inches"),
        ({"attention": True, "smooth": 2}, "attention is shown of one whole spectrum"),
        ({"output": "x.doc"}, "a file ending in one of"),
        ({"model": "none"}, "one of the plan's models"),
    ],
)
def test_what_cannot_be_drawn_is_refused(run: pipeline.Run, asked: dict[str, object], message: str) -> None:
    with pytest.raises(pipeline.ConfigError, match=message):
        run.plot("300-51600-1", **{"model": "toy", **asked})  # type: ignore[arg-type]
    with pytest.raises(pipeline.ConfigError, match="1 to 24 spectra on a page"):
        run.plot([], model="toy")


def test_the_command_draws_several(run: pipeline.Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = str(tmp_path / "x.svg")
    ids = ["--id", "300-51600-1,300-51600-3", "--model", "toy,other", "--lines", "Ha,NaD", "--observed-only"]
    assert main(["plot", run.root, *ids, "--output", output]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert "300-51600-3" in Path(output).read_text() or Path(output).stat().st_size > 10_000
    assert main(["plot", run.root, "--row", "1", "--model", "toy", "--window", "4000", "--output", output]) == 1
    assert "two restframe wavelengths, such as 4800:5050" in capsys.readouterr().err
