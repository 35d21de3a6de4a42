"""Words of the page: what the colors mean, how many points there are, what a spectrum is."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from pipeline.explorer.columns import Groups
from pipeline.explorer.embedding import UMAP
from pipeline.explorer.raster import GROUP_COLORS, Points, shades
from pipeline.explorer.view import Map, View


def legend(points: Points, view: View, *, dark: bool) -> str:
    """Return what the colors of the points mean, as HTML."""
    name = f"<b>{escape(view.color)}</b> "
    if points.color is None:
        return _gradient("few", "many spectra in a pixel", dark=dark)
    if isinstance(points.color, Groups):
        chips = (
            f'<span style="white-space:nowrap"><span style="background:{shade};display:inline-block;width:12px;'
            f'height:12px;border-radius:3px;margin:0 4px 0 10px"></span>{escape(word)}</span>'
            for word, shade in zip(points.color.names, GROUP_COLORS, strict=False)
        )
        return name + " ".join(chips)
    span = points.span()
    return name + (_gradient(f"{span[0]:.4g}", f"{span[1]:.4g}", dark=dark) if span else "has no values here")


def _gradient(low: str, high: str, *, dark: bool) -> str:
    style = (
        "display:inline-block;width:160px;height:12px;"
        f"background:linear-gradient(to right, {', '.join(shades(dark=dark))})"
    )
    return f'{low} <span style="{style}"></span> {high}'


def count(chart: Map, points: Points, view: View) -> str:
    """Return how many spectra are shown and why others are not, as Markdown."""
    drawn, n = points.drawn, chart.columns.n
    not_done = n - int(chart.columns.done.sum())
    said = f"**{int(drawn.sum()):,}** of {n:,} spectra shown"
    if not_done:
        said += f"; {not_done:,} are not done yet: open the page again to see what has been done since"
    if chart.embedding is not None and {view.x, view.y} & set(UMAP):
        exact = chart.embedding.exact
        said += (
            f"; {int(np.count_nonzero(drawn[: len(exact)] & ~exact[: len(drawn)])):,} places are approximate: the mean "
            "of the five nearest spectra of the map"
        )
    if not drawn.any():
        said += "; none has a place on the map and passes all filters"
    if view.filters:
        said += f"  \nfilter: `{view.condition()}`"
    return said


def in_words(row: dict[str, Any], walked: list[int], number: int) -> str:
    """Return a spectrum's row as a line of Markdown, its key first, and its place in the list that is walked through.

    walked: numbers of the rows of this list. number: of this row.
    """
    shown = [f"{name} {value:.5g}" if isinstance(value, float) else f"{value}" for name, value in row.items()]
    place = f" ({walked.index(number) + 1} of the {len(walked)} listed)" if number in walked else ""
    return f"**{escape(shown[0])}** {escape(', '.join(shown[1:]))}{place}"
