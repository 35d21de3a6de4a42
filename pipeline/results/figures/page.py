"""Several spectra on a page, one below the other, by one model or by several side by side; whole or in windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import AutoMinorLocator, MaxNLocator
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.results.coverage import runs_of
from pipeline.results.figures import style, texts
from pipeline.results.figures.lines import ABSORPTION_LINES, EMISSION_LINES, plain
from pipeline.results.spectrum import Floats, Spectrum

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

MOST = 24
"""Spectra on a page."""

NARROW = 600.0
"""Restframe Angstrom of windows in which lines are named."""

AROUND = 60.0
"""Restframe Angstrom that a window shows on both sides of a line."""

_ABOVE, _BELOW = 0.6, 0.3  # inches above panels, for the heading, and below, for numbers

Window = tuple[float, float]


@dataclass(frozen=True)
class View:
    """How spectra are drawn.

    windows: lowest and highest restframe wavelength, Angstrom, of each panel; none: the whole spectrum. smooth: pixels,
    standard deviation of a Gaussian that the observed flux is smoothed with, weighted by its inverse variance; 0: not.
    observed_only: the model where the spectrum has pixels with weight alone. width: of the page, inches.
    """

    windows: tuple[Window, ...] = ()
    smooth: float = 0.0
    observed_only: bool = False
    width: float = 13.333

    def __post_init__(self) -> None:
        if not 0 <= self.smooth <= 100:
            raise ConfigError("smooth", self.smooth, "0 to 100 pixels")
        if not 3 <= self.width <= 40:
            raise ConfigError("width", self.width, "3 to 40 inches")
        for low, high in self.windows:
            if not 0 < low < high:
                raise ConfigError("window", (low, high), "two restframe wavelengths in Angstrom, the lower one first")


def windows_of(window: Window | None, lines: Sequence[str]) -> tuple[Window, ...]:
    """Return the windows that are asked for: one by its ends, others around lines by their names, such as "[O III]".

    Names are compared without spaces, brackets and case; "Ha" and "Halpha" are the same. Raises ConfigError.
    """
    found = [] if window is None else [(float(window[0]), float(window[1]))]
    known = {_plain(name): places for name, places in (*EMISSION_LINES, *ABSORPTION_LINES)}
    for line in lines:
        matches = [places for name, places in known.items() if name.startswith(_plain(line)) and _plain(line)]
        if not matches:
            names = ", ".join(plain(name) for name, _ in (*EMISSION_LINES, *ABSORPTION_LINES))
            raise ConfigError("lines", line, f"some of {names}")
        found.append((min(matches[0]) - AROUND, max(matches[0]) + AROUND))
    return tuple(found)


def draw_page(rows: Sequence[Sequence[Spectrum]], view: View) -> Figure:
    """Make the figure: a row for each spectrum, with a column for each model.

    rows: the same spectrum by each of the models. Raises ConfigError for none, and for more than 24.
    """
    if not rows or len(rows) > MOST:
        raise ConfigError("ids", len(rows), f"1 to {MOST} spectra on a page", "draw others on further pages")
    scale = min(view.width / 13.333, 1.0) ** 0.5
    each, foot = 1.15 * scale + 1.3, 0.62
    height = each * len(rows) + foot
    figure = style.Picture(figsize=(view.width, height), facecolor="white")
    FigureCanvasAgg(figure)
    columns = len(rows[0])
    left, gap = 0.82 / view.width, 0.6 / view.width
    width = (1 - left - 0.3 / view.width - gap * (columns - 1)) / columns
    sizes = (12.5 * scale, 11.0 * scale)
    for i, spectra in enumerate(rows):
        top = 1 - (each * i + 0.24) / height
        for j, spectrum in enumerate(spectra):
            begin = left + j * (width + gap)
            texts.heading(figure, (begin, begin + width, top), spectrum, sizes)
            box = (begin, 1 - (each * (i + 1) - _BELOW) / height, width, (each - _ABOVE - _BELOW) / height)
            _draw_panels(figure, box, spectrum, view, 9.5 * scale)
    whose = "restframe" if view.windows else "observed"
    size = 11.5 * scale
    figure.text(0.5, 0.38 / height, rf"{whose} wavelength  [$\mathrm{{\AA}}$, vacuum]", ha="center", fontsize=size)
    figure.text(0.09 / view.width, 0.5, style.FLUX_LABEL, rotation=90, va="center", fontsize=size)
    figure.legend(
        handles=_legend(with_noise=view.smooth == 0), loc="lower center", ncols=4, frameon=False, fontsize=0.85 * size,
        handlelength=1.4, columnspacing=1.2, borderpad=0.2, borderaxespad=0.1,
    )  # fmt: skip
    return figure


def _legend(*, with_noise: bool) -> list[Artist]:
    """Say what is drawn."""
    noise = [Patch(color=style.NOISE, lw=0, label=r"$\pm 1\sigma$")] if with_noise else []
    return [
        Line2D([], [], color=style.DATA, lw=0.9, label="observed" if with_noise else "observed, smoothed"),
        *noise,
        Line2D([], [], color=style.MODEL, lw=1.4, label="model"),
        Patch(color=style.MASK, lw=0, label="masked"),
    ]


def smoothed(spectrum: Spectrum, pixels: float) -> Floats:
    """Return the flux smoothed by a Gaussian of so many pixels, weighted by ivar, shape (L,); NaN where masked."""
    if pixels == 0:
        return np.where(spectrum.masked, np.nan, spectrum.flux)
    reach = int(np.ceil(4 * pixels))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / pixels) ** 2)
    weight = np.convolve(spectrum.ivar, kernel, mode="full")[reach:-reach]
    flux = np.convolve(np.where(spectrum.masked, 0, spectrum.flux * spectrum.ivar), kernel, mode="full")[reach:-reach]
    return np.where(spectrum.masked, np.nan, flux / np.where(weight > 0, weight, 1))


def _draw_panels(
    figure: Figure, box: tuple[float, float, float, float], spectrum: Spectrum, view: View, size: float
) -> None:
    """Draw a spectrum in its part of the figure: one panel, or one for each window."""
    left, bottom, width, height = box
    z = spectrum.z if np.isfinite(spectrum.z) else 0.0
    axis = spectrum.wavelength / (1 + z) if view.windows else spectrum.wavelength
    windows: Sequence[Window] = view.windows
    if not windows:
        shown = axis[spectrum.observed] if spectrum.observed.any() else axis
        windows = ((float(shown[0]) - 20, float(shown[-1]) + 20),)
    share = width / len(windows)
    for number, window in enumerate(windows):
        inner = share - (0.5 / view.width if number < len(windows) - 1 else 0)
        axes = figure.add_axes((left + number * share, bottom, inner, height))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=size)
        axes.xaxis.set_minor_locator(AutoMinorLocator(5))
        ticks = max(min(int(inner * view.width / (0.085 * size)), 14), 2)  # numbers of five digits
        axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        _draw_window(axes, spectrum, axis, window, view)
        if view.windows and window[1] - window[0] < NARROW:
            _name_lines(axes, window, 0.8 * size)
        if not np.isfinite(spectrum.reconstruction).any() and number == 0:
            said = texts.reason(spectrum)
            paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
            text = axes.text(0.01, 0.95, said, transform=axes.transAxes, va="top", fontsize=size, color=style.MODEL)
            texts.fit(text, axes.bbox.width * 0.97, 0.6 * size).set_bbox(paper)


def _draw_window(axes: Axes, spectrum: Spectrum, axis: Floats, window: Window, view: View) -> None:
    """Draw what of a spectrum lies in a window of an axis, shape (L,)."""
    low, high = window
    inside = (axis >= low) & (axis <= high)
    axes.set_xlim(low, high)
    flux = smoothed(spectrum, view.smooth)
    _shade(axes, axis, inside & (spectrum.masked | ~spectrum.observed))
    model = np.where(
        spectrum.observed & ~spectrum.masked if view.observed_only else inside, spectrum.reconstruction, np.nan
    )
    if view.smooth == 0:
        sigma = np.where(spectrum.masked, np.nan, spectrum.sigma)
        axes.fill_between(axis, flux - sigma, flux + sigma, color=style.NOISE, lw=0, step="mid")
    axes.step(
        axis, np.where(spectrum.observed, spectrum.flux, np.nan), where="mid", color=style.GUIDE, lw=0.4, alpha=0.5
    )
    axes.step(axis, flux, where="mid", color=style.DATA, lw=0.8)
    axes.plot(axis, model, color=style.MODEL, lw=1.4, path_effects=style.halo(1.4))
    axes.set_ylim(*_limits(flux[inside], model[inside]))
    if not np.isfinite(flux[inside]).any() and not np.isfinite(model[inside]).any():
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not observed", transform=axes.transAxes, ha="center", color=style.GUIDE, fontsize=10)


def _name_lines(axes: Axes, window: Window, size: float) -> None:
    """Mark the lines in a window, and name them where there is room."""
    end = -np.inf
    for name, places in sorted((*EMISSION_LINES, *ABSORPTION_LINES), key=lambda line: min(line[1])):
        inside = [place for place in places if window[0] < place < window[1]]
        for place in inside:
            axes.axvline(place, color=style.GUIDE, lw=0.7, ls=(0, (2, 3)), zorder=0.5)
        if inside and np.mean(inside) > end:
            text = axes.text(
                float(np.mean(inside)), 1.0, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                fontsize=size, color=style.INK,
            )  # fmt: skip
            half = 0.5 * text.get_window_extent().width / axes.bbox.width * (window[1] - window[0])
            end = float(np.mean(inside)) + 2.2 * half


def _shade(axes: Axes, axis: Floats, masked: NDArray[np.bool_]) -> None:
    """Shade pixels without weight."""
    first, last = runs_of(masked)
    half = 0.5e-4 * np.log(10)
    begin, end = axis[first] * (1 - half), axis[last] * (1 + half)
    spans = list(zip(begin.tolist(), (end - begin).tolist(), strict=True))
    axes.broken_barh(spans, (0, 1), transform=axes.get_xaxis_transform(), color=style.MASK, lw=0, zorder=0)


def _limits(flux: Floats, model: Floats) -> Window:
    """Return the range of flux to show: nearly all pixels, and the whole model."""
    flux, model = flux[np.isfinite(flux)], model[np.isfinite(model)]
    low, high = np.percentile(flux, (0.5, 99.5)) if len(flux) else (0.0, 1.0)
    if len(model):
        low, high = min(low, model.min()), max(high, model.max())
    margin = 0.1 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _plain(name: str) -> str:
    text = "".join(letter for letter in name.lower() if letter.isalnum())
    for greek, letter in (("alpha", "a"), ("beta", "b"), ("gamma", "g"), ("delta", "d")):
        text = text.replace(greek, letter)
    return text
