"""Contact sheets: many spectra, small, each with its name, what is said of it, and where its worst run is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.ticker import AutoMinorLocator, MaxNLocator
from numpy.typing import NDArray

from pipeline.results.figures import style, texts
from pipeline.results.spectrum import Spectrum, read_spectra
from pipeline.results.tables.files import require_output, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.results.data import RunData

COLUMNS, ROWS = 2, 6
"""Spectra beside and below each other on a page."""

_WIDTH, _EACH, _FOOT = 13.333, 1.95, 0.42  # inches: of the page, of a row, and below the last one
_LEFT, _GAP, _RIGHT = 0.85, 0.72, 0.15
_ABOVE, _BELOW = 0.58, 0.3  # of a panel, for its texts and its numbers
_HALF_RUN = 10  # pixels
_DPI = 110
_CAPTION = "#7a1f2b"
_LEGEND = (("observed", style.DATA), ("reconstruction", style.MODEL), ("worst run of 20 pixels", "#4f94c8"))


def write_sheet(
    run: RunData, rows: NDArray[np.intp], output: str, model: str, captions: Sequence[str], marks: Sequence[float]
) -> None:
    """Write the contact sheet of rows of a run: .pdf of pages, or .png; see `draw_sheet`.

    Raises ConfigError for a file that cannot be written.
    """
    ending = output[-4:].lower()
    per_page = COLUMNS * ROWS if ending == ".pdf" else len(rows)
    require_output(output)
    with whole(output) as path, style.settings():
        pages = _pages(run, rows, model, captions, marks, per_page)
        if ending == ".pdf":
            _write_pdf(pages, path)
        else:
            next(pages).savefig(path, dpi=_DPI)


def draw_sheet(spectra: Sequence[Spectrum], captions: Sequence[str], marks: Sequence[float]) -> Figure:
    """Draw spectra with their reconstructions, two beside each other.

    captions: what is said of each. marks: the middle of the worst run of each, observed Angstrom, NaN for none.
    """
    lines = -(-len(spectra) // COLUMNS)
    height = lines * _EACH + _FOOT
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    width = (_WIDTH - _LEFT - _RIGHT - _GAP * (COLUMNS - 1)) / COLUMNS
    for i, (spectrum, caption, mark) in enumerate(zip(spectra, captions, marks, strict=True)):
        line, column = divmod(i, COLUMNS)
        left = _LEFT + column * (width + _GAP)
        top = height - line * _EACH
        panel = (left, top - _EACH + _BELOW, width, _EACH - _ABOVE - _BELOW)
        _write_texts(figure, (left / _WIDTH, width, top), spectrum, caption)
        box = (panel[0] / _WIDTH, panel[1] / height, panel[2] / _WIDTH, panel[3] / height)
        _draw(figure.add_axes(box), spectrum, mark)
    label = r"observed wavelength  [$\mathrm{\AA}$, vacuum]"
    figure.text(1 - _RIGHT / _WIDTH, 0.12 / height, label, ha="right", fontsize=10, color=style.INK)
    place = _LEFT / _WIDTH
    for name, color in _LEGEND if np.isfinite(marks).any() else _LEGEND[:2]:
        text = figure.text(place, 0.12 / height, name, fontsize=9.5, color=color, weight="bold")
        place += text.get_window_extent().width / figure.bbox.width + 0.012
    figure.text(0.12 / _WIDTH, 0.5, style.FLUX_LABEL, rotation=90, va="center", fontsize=10, color=style.INK)
    return figure


def _pages(
    run: RunData,
    rows: NDArray[np.intp],
    model: str,
    captions: Sequence[str],
    marks: Sequence[float],
    per_page: int,
) -> Iterator[Figure]:
    for start in range(0, len(rows), per_page):
        own = slice(start, start + per_page)
        yield draw_sheet(read_spectra(run, rows[own].tolist(), model), captions[own], marks[own])


def _write_pdf(pages: Iterator[Figure], path: Path) -> None:
    # without the time of writing, so that the same run gives the same bytes
    with PdfPages(path, metadata={"CreationDate": None}) as file:
        for page in pages:
            file.savefig(page)


def _write_texts(figure: Figure, place: tuple[float, float, float], spectrum: Spectrum, caption: str) -> None:
    """Write whose spectrum it is, and below it what is said of it. place: left end (a part), width and top, inches."""
    left, width, top = place
    height = figure.get_figheight()
    z = f"z = {spectrum.z:.4f}" if np.isfinite(spectrum.z) else "z unknown"
    sn = f"    S/N = {spectrum.sn_median:.1f}" if np.isfinite(spectrum.sn_median) else ""
    title = figure.text(
        left, (top - 0.24) / height, texts.title(spectrum), fontsize=10.5, color=style.INK, weight="bold"
    )
    right = left + width / _WIDTH
    facts = figure.text(right, (top - 0.24) / height, z + sn, fontsize=9.5, color=style.INK, ha="right")
    texts.fit(title, figure.dpi * width - facts.get_window_extent().width - 10, 5)
    said = figure.text(left, (top - 0.285) / height, caption, fontsize=8.5, color=_CAPTION, va="top")
    texts.fit(said, 0.95 * figure.dpi * width, 7.2, height=0.27 * figure.dpi)


def _draw(axes: Axes, spectrum: Spectrum, mark: float) -> None:
    """Draw a spectrum, its reconstruction, and its worst run."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_minor_locator(AutoMinorLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    wave, shown = spectrum.wavelength, spectrum.observed
    flux = np.where(spectrum.masked, np.nan, spectrum.flux)
    model = np.where(shown, spectrum.reconstruction, np.nan)
    if np.isfinite(mark):
        middle = int(np.argmin(np.abs(wave - mark)))
        low, high = wave[max(middle - _HALF_RUN, 0)], wave[min(middle + _HALF_RUN, len(wave) - 1)]
        axes.axvspan(low, high, color=style.NOISE, alpha=0.75, lw=0, zorder=0)
    axes.step(wave, flux, where="mid", color=style.DATA, lw=0.5)
    axes.plot(wave, model, color=style.MODEL, lw=0.7)
    axes.set_ylim(*_limits(flux, model))
    seen = wave[shown] if shown.any() else wave
    axes.set_xlim(seen[0] - 20, seen[-1] + 20)
    if not np.isfinite(model).any():
        axes.text(0.01, 0.94, texts.reason(spectrum), transform=axes.transAxes, va="top", fontsize=8, color=style.MODEL)


def _limits(flux: NDArray[np.floating], model: NDArray[np.floating]) -> tuple[float, float]:
    """Return the range of flux to show: nearly all pixels, and the whole model."""
    flux, model = flux[np.isfinite(flux)], model[np.isfinite(model)]
    low, high = np.percentile(flux, (0.3, 99.7)) if len(flux) else (0.0, 1.0)
    if len(model):
        low, high = min(low, model.min()), max(high, model.max())
    margin = 0.08 * (high - low) or 1.0
    return float(low - margin), float(high + margin)
