"""One spectrum for the browser: observed with its reconstruction, residual, restframe, chi2 along redshift."""

from __future__ import annotations

import numpy as np
from bokeh.layouts import column
from bokeh.models import BoxAnnotation, ColumnDataSource, HoverTool, Label, LayoutDOM, Span
from bokeh.plotting import figure

from pipeline.results.coverage import runs_of
from pipeline.results.data import RunData
from pipeline.results.figures.lines import ABSORPTION_LINES, EMISSION_LINES, plain
from pipeline.results.spectrum import FLUX_UNITS, Spectrum, read_spectrum

OBSERVED, MODEL, NOISE, LINE, HIDDEN = "#34495e", "#d55e00", "#9aa5b1", "#0072b2", "#b0b7bf"
FLUX = f"flux [{FLUX_UNITS}]"
_TOOLS = "xpan,xwheel_zoom,box_zoom,reset,save"


def spectrum_figures(run: RunData, row: int, model: str) -> LayoutDOM:
    """Return the figures of one row of a run, below each other."""
    spectrum = read_spectrum(run, row, model)
    observed = _observed(spectrum)
    parts = [observed, _residual(spectrum, observed)]
    if len(spectrum.restframe) and np.isfinite(spectrum.restframe).any():
        parts.append(_restframe(spectrum))
    scan = _scan(run, row, model)
    return column(*parts, *([scan] if scan is not None else []), sizing_mode="stretch_width")


def _figure(title: str, height: int, x: str, y: str) -> figure:
    made = figure(title=title, height=height, tools=_TOOLS, sizing_mode="stretch_width")
    made.xaxis.axis_label, made.yaxis.axis_label = x, y
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.min_border_right = 12
    return made


def _observed(spectrum: Spectrum) -> figure:
    title = f"{spectrum.target}   {spectrum.object_class}   z = {spectrum.z:.5f}   S/N {spectrum.sn_median:.1f}"
    made = _figure(title, 260, "", FLUX)
    used = np.isfinite(spectrum.sigma)
    flux = np.where(spectrum.observed, spectrum.flux, np.nan)
    shown = np.concatenate([spectrum.flux[used], spectrum.reconstruction[np.isfinite(spectrum.reconstruction)]])
    if shown.size:
        low, high = np.percentile(shown, (0.1, 99.9))
        made.y_range.start, made.y_range.end = min(0.0, low), high + 0.15 * (high - low)
    source = ColumnDataSource({"x": spectrum.wavelength, "flux": flux, "model": spectrum.reconstruction,
                               "low": spectrum.flux - np.where(used, spectrum.sigma, np.nan),
                               "high": spectrum.flux + np.where(used, spectrum.sigma, np.nan)})  # fmt: skip
    made.varea("x", "low", "high", source=source, color=NOISE, alpha=0.35, legend_label="noise")
    line = made.line("x", "flux", source=source, color=OBSERVED, line_width=0.8, legend_label="observed")
    made.line("x", "model", source=source, color=MODEL, line_width=1.3, legend_label="reconstruction")
    for first, last in zip(*runs_of(spectrum.observed & ~used), strict=True):
        made.add_layout(BoxAnnotation(left=spectrum.wavelength[first], right=spectrum.wavelength[last],
                                      fill_color=HIDDEN, fill_alpha=0.35, level="underlay"))  # fmt: skip
    made.add_tools(HoverTool(renderers=[line], tooltips=[("Å", "@x{0.0}"), ("flux", "@flux{0.00}")], mode="vline"))
    made.legend.location, made.legend.orientation = "top_right", "horizontal"
    made.legend.background_fill_alpha = 0.5
    return made


def _residual(spectrum: Spectrum, above: figure) -> figure:
    made = _figure("", 130, "observed wavelength [Å], vacuum", "residual / σ")
    made.x_range = above.x_range
    made.line(spectrum.wavelength, spectrum.residual, color=OBSERVED, line_width=0.8)
    made.add_layout(Span(location=0, dimension="width", line_color=MODEL))
    made.y_range.start, made.y_range.end = -6, 6
    return made


def _restframe(spectrum: Spectrum) -> figure:
    made = _figure("restframe", 230, "restframe wavelength [Å], vacuum", "flux / norm")
    inside = np.where(spectrum.covered, spectrum.restframe, np.nan)
    made.line(spectrum.wave_rest, spectrum.restframe, color=HIDDEN, line_width=1, legend_label="not observed: a guess")
    made.line(spectrum.wave_rest, inside, color=MODEL, line_width=1.2, legend_label="covered")
    top = float(np.nanpercentile(spectrum.restframe, 99.9)) * 1.25
    made.y_range.start, made.y_range.end = min(0.0, float(np.nanmin(spectrum.restframe))), top
    for label, wavelengths in (*EMISSION_LINES, *ABSORPTION_LINES):
        middle = float(np.mean(wavelengths))
        if spectrum.wave_rest[0] < middle < spectrum.wave_rest[-1]:
            made.add_layout(Span(location=middle, dimension="height", line_color=LINE, line_alpha=0.35, line_width=1))
            made.add_layout(Label(x=middle, y=top, text=plain(label), text_font_size="9px", angle=1.5708,
                                  text_align="right", text_baseline="bottom", text_color=LINE))  # fmt: skip
    made.legend.location, made.legend.background_fill_alpha = "bottom_right", 0.5
    return made


def _scan(run: RunData, row: int, model: str) -> figure | None:
    if run.model(model).redshift == "catalog":
        return None
    from pipeline.results.figures.redshift import read_scan

    scan = read_scan(run, row, model)
    if scan is None:
        return None
    made = _figure("chi2 along redshift", 200, "redshift", "chi2 - lowest")
    lowest = min(float(np.nanmin(curve.chi2)) for curve in scan.curves)
    for curve, color in zip(scan.curves, (MODEL, OBSERVED, NOISE), strict=False):
        made.line(curve.z, curve.chi2 - lowest, color=color, legend_label=curve.kind)
    for z, dash in ((scan.z, "solid"), (scan.second, "dashed")):
        if np.isfinite(z):
            made.add_layout(Span(location=z, dimension="height", line_color=LINE, line_dash=dash))
    return made
