"""One spectrum for the browser: observed with its reconstruction, residual, restframe, chi2 along redshift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, HoverTool, LayoutDOM, Span
from bokeh.plotting import figure
from numpy.typing import NDArray

from pipeline.results.coverage import runs_of
from pipeline.results.data import RunData
from pipeline.results.figures.lines import ABSORPTION_LINES, EMISSION_LINES, plain
from pipeline.results.spectrum import FLUX_UNITS, Spectrum, read_spectra, read_spectrum

FLUX = f"flux [{FLUX_UNITS}]"
_TOOLS = "xpan,xwheel_zoom,box_zoom,reset,save"
Known = Mapping[str, NDArray[Any]]
"""Coordinates of the rows that are drawn, see `read_spectra`."""

_SMALL = 8  # pixels that are one in a small figure
_STEP = 0.2  # of the height of a figure, between names of lines


@dataclass(frozen=True)
class Ink:
    """Colors, on a light page or a dark one."""

    observed: str
    line: str
    hidden: str
    noise: str = "#9aa5b1"
    model: str = "#d55e00"

    @classmethod
    def of(cls, *, dark: bool) -> Self:
        """Return those of a page."""
        return cls("#d3dbe3", "#56b4e9", "#6f7a86") if dark else cls("#34495e", "#0072b2", "#b0b7bf")


def spectrum_figures(run: RunData, row: int, model: str, known: Known, ink: Ink) -> LayoutDOM:
    """Return the figures of one row of a run, below each other."""
    spectrum = read_spectrum(run, row, model, known)
    observed = _observed(spectrum, ink)
    parts = [observed, _residual(spectrum, observed, ink)]
    if len(spectrum.restframe) and np.isfinite(spectrum.restframe).any():
        parts.append(_restframe(spectrum, ink))
    scan = _scan(run, row, model, ink)
    return column(*parts, *([scan] if scan is not None else []), sizing_mode="stretch_width")


def small_figures(run: RunData, rows: list[int], model: str, known: Known, ink: Ink) -> list[figure]:
    """Return a small figure of each of some rows: observed, means of some pixels, and reconstruction."""
    return [_small(spectrum, ink) for spectrum in read_spectra(run, rows, model, known)]


def _small(spectrum: Spectrum, ink: Ink) -> figure:
    made = figure(
        width=240, height=150, tools="", toolbar_location=None, title=f"{spectrum.target}  z {spectrum.z:.4f}"
    )
    made.title.text_font_size = "11px"
    n = len(spectrum.wavelength) // _SMALL * _SMALL
    wavelength = spectrum.wavelength[:n].reshape(-1, _SMALL).mean(axis=1)
    observed = np.where(np.isfinite(spectrum.sigma), spectrum.flux, np.nan)
    for values, color in ((observed, ink.observed), (spectrum.reconstruction, ink.model)):
        parts = values[:n].reshape(-1, _SMALL)
        kept = np.isfinite(parts)
        means = np.where(kept, parts, 0).sum(axis=1) / np.where(kept.any(axis=1), kept.sum(axis=1), np.nan)
        made.line(wavelength, means, color=color, line_width=1)
    made.yaxis.visible = False
    return made


def _figure(title: str, height: int, x: str, y: str) -> figure:
    made = figure(title=title, height=height, tools=_TOOLS, sizing_mode="stretch_width")
    made.xaxis.axis_label, made.yaxis.axis_label = x, y
    made.axis.axis_label_text_font_size = made.axis.major_label_text_font_size = "11px"
    made.title.text_font_size = "12px"
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.min_border_right = 12
    return made


def _observed(spectrum: Spectrum, ink: Ink) -> figure:
    made = _figure("", 260, "", FLUX)
    used = np.isfinite(spectrum.sigma)
    flux = np.where(spectrum.observed, spectrum.flux, np.nan)
    shown = np.concatenate([spectrum.flux[used], spectrum.reconstruction[np.isfinite(spectrum.reconstruction)]])
    if shown.size:
        low, high = np.percentile(shown, (0.1, 99.9))
        made.y_range.start, made.y_range.end = min(0.0, low), high + 0.15 * (high - low)
    source = ColumnDataSource({"x": spectrum.wavelength, "flux": flux, "model": spectrum.reconstruction,
                               "low": spectrum.flux - np.where(used, spectrum.sigma, np.nan),
                               "high": spectrum.flux + np.where(used, spectrum.sigma, np.nan)})  # fmt: skip
    made.varea("x", "low", "high", source=source, color=ink.noise, alpha=0.35, legend_label="noise")
    line = made.line("x", "flux", source=source, color=ink.observed, line_width=0.8, legend_label="observed")
    made.line("x", "model", source=source, color=ink.model, line_width=1.3, legend_label="reconstruction")
    first, last = runs_of(spectrum.observed & ~used)
    made.vstrip(spectrum.wavelength[first], spectrum.wavelength[last], color=ink.hidden, alpha=0.35, level="underlay")
    made.add_tools(HoverTool(renderers=[line], tooltips=[("Å", "@x{0.0}"), ("flux", "@flux{0.00}")], mode="vline"))
    made.legend.location, made.legend.orientation = "top_right", "horizontal"
    made.legend.background_fill_alpha = 0.5
    return made


def _residual(spectrum: Spectrum, above: figure, ink: Ink) -> figure:
    made = _figure("", 130, "observed wavelength [Å], vacuum", "residual / σ")
    made.x_range = above.x_range
    made.line(spectrum.wavelength, spectrum.residual, color=ink.observed, line_width=0.8)
    made.add_layout(Span(location=0, dimension="width", line_color=ink.model))
    finite = spectrum.residual[np.isfinite(spectrum.residual)]
    most = max(6.0, 1.2 * float(np.percentile(np.abs(finite), 99.8))) if finite.size else 6.0
    made.y_range.start, made.y_range.end = -most, most
    return made


def _restframe(spectrum: Spectrum, ink: Ink) -> figure:
    made = _figure("restframe", 270, "restframe wavelength [Å], vacuum", "flux / norm")
    covered = np.where(spectrum.covered, spectrum.restframe, np.nan)
    made.line(spectrum.wave_rest, spectrum.restframe, color=ink.hidden, legend_label="not observed: a guess")
    made.line(spectrum.wave_rest, covered, color=ink.model, line_width=1.2, legend_label="covered")
    top = float(np.nanpercentile(spectrum.restframe, 99.9)) * 1.6
    made.y_range.start, made.y_range.end = min(0.0, float(np.nanmin(spectrum.restframe))), top
    places = {plain(label): float(np.mean(each)) for label, each in (*EMISSION_LINES, *ABSORPTION_LINES)}
    inside = {label: x for label, x in places.items() if spectrum.wave_rest[0] < x < spectrum.wave_rest[-1]}
    inside = dict(sorted(inside.items(), key=lambda each: each[1]))
    made.vspan(list(inside.values()), color=ink.line, alpha=0.35)
    heights = top * (1 - _STEP * (np.arange(len(inside)) % 2))  # names of lines that are close lie below each other
    made.text(
        list(inside.values()), heights, list(inside), text_font_size="9px", angle=np.pi / 2, text_align="right",
        text_baseline="bottom", text_color=ink.line,
    )  # fmt: skip
    made.legend.location, made.legend.background_fill_alpha = "bottom_right", 0.5
    return made


def _scan(run: RunData, row: int, model: str, ink: Ink) -> figure | None:
    if run.model(model).redshift == "catalog":
        return None
    from pipeline.results.figures.redshift import read_scan

    scan = read_scan(run, row, model)
    if scan is None:
        return None
    made = _figure("chi2 along redshift", 200, "redshift", "chi2 - lowest")
    lowest = min(float(np.nanmin(curve.chi2)) for curve in scan.curves)
    for curve, color in zip(scan.curves, (ink.model, ink.observed, ink.noise), strict=False):
        made.line(curve.z, curve.chi2 - lowest, color=color, legend_label=curve.kind)
    for z, dash in ((scan.z, "solid"), (scan.second, "dashed")):
        if np.isfinite(z):
            made.add_layout(Span(location=z, dimension="height", line_color=ink.line, line_dash=dash))
    return made
