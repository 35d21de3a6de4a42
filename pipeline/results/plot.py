"""Figures and tables for people: one spectrum as a figure, a run as a few lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import AutoMinorLocator, MaxNLocator

from pipeline.errors import RefusedError
from pipeline.planning.redshift import CATALOG
from pipeline.results.coverage import runs_of
from pipeline.results.figures import style, texts
from pipeline.results.figures.lines import ABSORPTION_LINES, EMISSION_LINES, Lines
from pipeline.results.figures.page import View, draw_page
from pipeline.results.spectrum import Spectrum, read_spectra
from pipeline.spectra.quality import Quality

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from pipeline.results.data import RunData
    from pipeline.results.figures.attention import Attention
    from pipeline.results.figures.redshift import Scanned

_INK, _DATA, _NOISE, _MODEL, _MASK, _GUIDE = style.INK, style.DATA, style.NOISE, style.MODEL, style.MASK, style.GUIDE
_LEFT, _WIDTH = 0.075, 0.91  # of all panels, in parts of the figure
_ATTENTION_HEIGHT = 1.6  # inches, which its panel adds to the figure
_SCAN_HEIGHT = 2.2
_RESIDUAL_LIMIT = 5.0  # sigma


def plot_spectrum(run: RunData, row: int, output: str, model: str | None = None, attention: bool = False) -> None:
    """Draw one spectrum: observed with noise and masked pixels, reconstruction, residual, labeled restframe.

    row: index along `spectrum` (see Run.find). output: a file whose ending says the format (png, pdf, svg, ...).
    model: name of the encoding, default the plan's only one. attention: adds where the encoder looks, for which the
    checkpoint is loaded. A spectrum without an encoding is drawn with the reason. Raises ConfigError for a format that
    cannot be written, and for a model without attention.
    """
    plot_spectra(run, [row], output, models=[model], attention=attention)


def plot_spectra(
    run: RunData,
    rows: Sequence[int],
    output: str | None = None,
    *,
    models: Sequence[str | None] = (None,),
    view: View = View(),  # noqa: B008 - frozen
    attention: bool = False,
) -> Figure:
    """Draw spectra by one or several models, and write the figure where an output is given; see `Run.plot`.

    One spectrum by one model, without windows, smoothing and another width, is a figure of its own, with residual and
    restframe. attention: of that one alone.
    """
    file = None if output is None else style.file_of(output)
    is_one = len(rows) == len(models) == 1 and not view.windows and not view.smooth and view.width == View().width
    if attention and not is_one:
        raise RefusedError("attention", "attention is shown of one whole spectrum by one model", "leave it out")
    looks = scanned = None
    if attention:
        from pipeline.results.figures.attention import read_attention  # torch: not for every figure

        looks = read_attention(run, rows[0], models[0])
    if is_one and run.plan.models and run.model(models[0]).redshift != CATALOG:
        from pipeline.results.figures.redshift import read_scan

        scanned = read_scan(run, rows[0], models[0])
    by_model = [read_spectra(run, rows, model) for model in models]
    with style.settings():
        if is_one:
            figure = draw(by_model[0][0], looks, scanned, observed_only=view.observed_only)
        else:
            figure = draw_page([list(each) for each in zip(*by_model, strict=True)], view)
    if file is not None:
        style.save(figure, file)
    return figure


def draw(
    spectrum: Spectrum,
    attention: Attention | None = None,
    scanned: Scanned | None = None,
    *,
    observed_only: bool = False,
) -> Figure:
    """Make the figure of a spectrum, 16:9, to be read from the last row.

    Higher with where the encoder looks, and with how the redshift was found.
    observed_only: leaves out the restframe where the spectrum does not cover it.
    """
    added = 0.0 if attention is None else _ATTENTION_HEIGHT
    below = 0.0 if scanned is None else _SCAN_HEIGHT
    height = 7.5 + added + below
    figure = style.Picture(figsize=(13.333, height), facecolor="white")
    FigureCanvasAgg(figure)

    def panel(bottom: float, size: float) -> Axes:
        return figure.add_axes((_LEFT, (bottom + below) / height, _WIDTH, size / height))

    texts.heading(figure, (_LEFT, _LEFT + _WIDTH, 1 - 0.31 / height), spectrum, (20, 15))
    observed, residual, restframe = panel(4.2 + added, 2.4), panel(3.41 + added, 0.71), panel(0.64, 1.65)
    looks = None if attention is None else panel(3.41, added - 0.08)
    lowest = residual if looks is None else looks
    for axes in (observed, residual, restframe) if looks is None else (observed, residual, restframe, looks):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_minor_locator(AutoMinorLocator(5))
        axes.tick_params(labelbottom=axes in (lowest, restframe))
    _draw_observed(observed, spectrum)
    _draw_residual(residual, spectrum)
    _draw_restframe(restframe, spectrum, observed_only)
    if looks is not None and attention is not None:
        _draw_attention(looks, spectrum, attention)
    if scanned is not None:
        from pipeline.results.figures.redshift import draw_scan

        draw_scan(panel(0.64 - below, below - 0.85), scanned)
    lowest.set_xlabel(r"observed wavelength  [$\mathrm{\AA}$, vacuum]", labelpad=2)
    figure.align_ylabels()
    return figure


def _shade_masked(axes: Axes, spectrum: Spectrum) -> None:
    masked = spectrum.observed & ~np.isfinite(spectrum.sigma)
    half = spectrum.wavelength * 0.5e-4 * np.log(10)
    for number, (first, last) in enumerate(zip(*runs_of(masked), strict=True)):
        axes.axvspan(
            spectrum.wavelength[first] - half[first],
            spectrum.wavelength[last] + half[last],
            color=_MASK,
            lw=0,
            zorder=0,
            label="masked, unobserved" if number == 0 else None,
        )


def _limits(spectrum: Spectrum) -> tuple[float, float]:
    """Range of flux to show: nearly all valid pixels and the whole reconstruction."""
    valid = spectrum.observed & np.isfinite(spectrum.sigma)
    flux = spectrum.flux[valid if valid.any() else spectrum.observed]
    flux = flux[np.isfinite(flux)]
    reconstruction = spectrum.reconstruction[valid & np.isfinite(spectrum.reconstruction)]
    low, high = np.percentile(flux, (0.5, 99.5)) if len(flux) else (0.0, 1.0)
    if len(reconstruction):
        low, high = min(low, reconstruction.min()), max(high, reconstruction.max())
    margin = 0.12 * (high - low) or 1.0
    return min(float(low - margin), 0.0), float(high + 1.6 * margin)


def _draw_observed(axes: Axes, spectrum: Spectrum) -> None:
    shown, wavelength = spectrum.observed, spectrum.wavelength
    _shade_masked(axes, spectrum)
    flux = np.where(shown, spectrum.flux, np.nan)
    valid = np.where(np.isfinite(spectrum.sigma), flux, np.nan)
    sigma = np.where(np.isfinite(spectrum.sigma), spectrum.sigma, np.nan)
    axes.fill_between(wavelength, valid - sigma, valid + sigma, color=_NOISE, lw=0, label=r"$\pm 1\sigma$", step="mid")
    axes.step(wavelength, flux, where="mid", color=_GUIDE, lw=0.5, alpha=0.6)
    axes.step(wavelength, valid, where="mid", color=_DATA, lw=0.7, label="observed")
    reconstruction = np.where(shown, spectrum.reconstruction, np.nan)
    if np.isfinite(reconstruction).any():
        axes.plot(
            wavelength, reconstruction, color=_MODEL, lw=1.5, label="reconstruction", path_effects=style.halo(1.5)
        )
    axes.set_ylim(*_limits(spectrum))
    _set_observed_range(axes, spectrum)
    axes.set_ylabel(style.FLUX_LABEL, y=0.56)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if shown.any():
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 0.985), ncols=4, frameon=False, fontsize=11.5, handlelength=1.6
        )
    if spectrum.unusable or not np.isfinite(reconstruction).any():
        _say_why(axes, spectrum)


def _say_why(axes: Axes, spectrum: Spectrum) -> None:
    reason = texts.reason(spectrum)
    box = {"facecolor": "white", "edgecolor": _MODEL, "boxstyle": "round,pad=0.4", "alpha": 0.9}
    text = axes.text(0.012, 0.95, reason, transform=axes.transAxes, va="top", fontsize=15, color=_MODEL, bbox=box)
    texts.fit(text, 0.45 * axes.bbox.width, 9)  # the legend is on the right


def _set_observed_range(axes: Axes, spectrum: Spectrum) -> None:
    shown = spectrum.wavelength[spectrum.observed] if spectrum.observed.any() else spectrum.wavelength
    axes.set_xlim(shown[0] - 20, shown[-1] + 20)


def _draw_residual(axes: Axes, spectrum: Spectrum) -> None:
    _shade_masked(axes, spectrum)
    for level, width in ((0, 1.0), (-3, 0.6), (3, 0.6)):
        axes.axhline(level, color=_GUIDE, lw=width, ls="-" if level == 0 else (0, (4, 4)), zorder=1)
    residual = np.clip(spectrum.residual, -_RESIDUAL_LIMIT, _RESIDUAL_LIMIT)
    axes.step(spectrum.wavelength, residual, where="mid", color=_DATA, lw=0.6)
    axes.set_ylim(-_RESIDUAL_LIMIT * 1.05, _RESIDUAL_LIMIT * 1.05)
    axes.set_yticks([-3, 0, 3])
    _set_observed_range(axes, spectrum)
    axes.set_ylabel("residual\n" + r"[$\sigma$]", fontsize=12)


def _draw_attention(axes: Axes, spectrum: Spectrum, attention: Attention) -> None:
    """Draw the attention, averaged over channels, and how much the latents change with the flux of each pixel."""
    _shade_masked(axes, spectrum)
    mean = attention.weights.mean(axis=0) * len(attention.wavelength)
    highest = 1.05 * float(mean.max())
    label = f"attention, mean of {len(attention.weights)} channels"
    weights = axes.fill_between(attention.wavelength, mean, step="mid", color=_NOISE, lw=0, alpha=0.8, label=label)
    axes.axhline(1, color=_GUIDE, lw=0.8, ls=(0, (4, 4)))
    change = np.sqrt(np.mean(attention.sensitivity**2, axis=0))
    label = "change of the latents with each pixel's flux (scaled)"
    seen = float(change[spectrum.observed].max(initial=0.0)) or 1.0  # what is not observed may weigh more
    (line,) = axes.plot(spectrum.wavelength, change * highest / seen, color=_MODEL, lw=0.6, label=label)
    axes.set_ylim(0, 1.3 * highest)  # room for the legend
    axes.set_ylabel("attention\n[1 = even]", fontsize=12)
    axes.legend(
        handles=[weights, line], loc="upper right", ncols=2, frameon=False, fontsize=12, handlelength=1.6, borderpad=0.1
    )
    _set_observed_range(axes, spectrum)


def _draw_restframe(axes: Axes, spectrum: Spectrum, observed_only: bool = False) -> None:
    axes.set_xlabel(r"restframe wavelength  [$\mathrm{\AA}$, vacuum]", labelpad=2)
    axes.set_ylabel("flux / norm")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    wavelength, restframe = spectrum.wave_rest, spectrum.restframe
    if not len(restframe):
        axes.set_yticks([])
        axes.set_xticks([])
        axes.set_xlabel("")
        axes.text(
            0.5, 0.5, "no restframe", transform=axes.transAxes, ha="center", va="center", color=_GUIDE, fontsize=16
        )
        return
    inside = spectrum.covered
    there = restframe[inside] if inside.any() else restframe
    low, high = min(float(np.nanmin(there)), 0.0), float(np.nanmax(there))
    high = high if high > low else low + 1.0
    axes.set_ylim(low - 0.3 * (high - low), high + 0.08 * (high - low))  # room for names below
    axes.set_xlim(wavelength[0], wavelength[-1])
    if not observed_only:
        axes.plot(wavelength, restframe, color=_MODEL, lw=0.9, alpha=0.45)
    axes.plot(wavelength, np.where(inside, restframe, np.nan), color=_MODEL, lw=1.4)
    for first, last in zip(*runs_of(~inside), strict=True):
        axes.axvspan(wavelength[first], wavelength[last], color=_MASK, lw=0, zorder=0)
    _name_lines(axes, EMISSION_LINES, base=1.03, step=0.145, span=(0.5, 1.0))
    _name_lines(axes, ABSORPTION_LINES, base=0.03, step=0.145, span=(0.16, 0.5))


def _name_lines(axes: Axes, lines: Lines, *, base: float, step: float, span: tuple[float, float]) -> None:
    """Mark lines; their names stand in a row, and a step higher where they would touch.

    base, step: height of the row and of the step; span: of the marks; all in parts of the axes' height.
    """
    low, high = axes.get_xlim()
    transform = axes.get_xaxis_transform()
    ends: dict[int, float] = {}  # per row, where its last name ends, in pixels
    for name, wavelengths in lines:
        inside = [wavelength for wavelength in wavelengths if low < wavelength < high]
        if not inside:
            continue
        for wavelength in inside:
            axes.axvline(wavelength, *span, color=_GUIDE, lw=0.8, ls=(0, (2, 3)), zorder=0.5)
        text = axes.text(float(np.mean(inside)), base, name, transform=transform, ha="center", fontsize=12, color=_INK)
        extent = text.get_window_extent()
        row = next(row for row in range(len(lines)) if ends.get(row, 0.0) < extent.x0 - 4)
        ends[row] = extent.x1
        text.set_y(base + row * step)


def summary_table(run: RunData, rows: Sequence[int] = (), model: str | None = None) -> str:
    """Describe the encodings of a run in a few lines of text, and some of its spectra one by one.

    rows: indices along `spectrum` that get their own line. model: default the plan's only one.
    """
    encodings = run.encodings(model)
    names = [
        n for n in ("z", "sn_median", "chi2", "n_pixels", "quality", "target", "class") if n in encodings.variables
    ]
    table = encodings[names].compute()
    for name, unknown in (("sn_median", np.nan), ("class", "")):  # not every survey has them
        if name not in table:
            table[name] = ("spectrum", np.full(table.sizes["spectrum"], unknown))
    quality = table["quality"].to_numpy()
    encoded = (quality & int(run.plan.unusable)) == 0
    lines = [f"spectra       {len(quality)}, {int(encoded.sum())} with latents"]
    for label, values in (("redshift", table["z"]), ("S/N", table["sn_median"]), ("chi2/n", _reduced(table))):
        finite = values.to_numpy()[encoded & np.isfinite(values.to_numpy())]
        if len(finite):
            low, middle, high = np.percentile(finite, (16, 50, 84))
            lines.append(f"{label:13} median {middle:.3g}, central 68 % {low:.3g} to {high:.3g}")
    remarks = [f"{(bit.name or '').lower()} {int((quality & bit.value != 0).sum())}" for bit in Quality]
    kept = [text for text in remarks if not text.endswith(" 0")]
    lines.append(f"quality       no remark {int((quality == 0).sum())}" + "".join(f", {text}" for text in kept))
    if rows:
        lines += ["", f"{'target':24} {'class':8} {'z':>8} {'S/N':>6} {'chi2/n':>7}  quality"]
    for row in rows:
        one = table.isel(spectrum=row)
        lines.append(
            f"{one['target'].item():24} {one['class'].item():8} {float(one['z']):8.4f} {float(one['sn_median']):6.1f} "
            f"{float(_reduced(one)):7.2f}  {texts.remarks(int(one['quality']))}"
        )
    return "\n".join(lines)


def _reduced(table: xr.Dataset) -> xr.DataArray:
    """Sum of squared residuals over sigma per pixel; NaN where the run kept no chi2."""
    if "chi2" not in table or "n_pixels" not in table:
        return table["z"] * np.nan
    return table["chi2"] / table["n_pixels"].where(table["n_pixels"] > 0)
