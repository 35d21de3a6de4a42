"""Pictures of millions of points: how many there are in each pixel, or what a column is there on average."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import datashader
import numpy as np
import pandas as pd
from datashader import transfer_functions
from matplotlib.path import Path
from numpy.typing import NDArray

from pipeline.explorer.columns import Groups, Numbers

Range = tuple[float, float]

NUMBER_COLORS = (
    *("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"),
)
"""From low to high, which the color-blind see alike: cividis (Nunez et al. 2018, doi:10.1371/journal.pone.0199239)."""

GROUP_COLORS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#f0e442", "#7b4173", "#999999"),
    *("#637939", "#843c39"),
)
"""Of groups; the first eight but the seventh are those of Okabe and Ito (2008)."""

COUNT = "number of spectra"


def shades(*, dark: bool) -> list[str]:
    """Return the colors of numbers, from low to high, that are seen on a page."""
    return list(NUMBER_COLORS[3:] if dark else NUMBER_COLORS)


_SHARE = (2.0, 98.0)  # percentiles between which colors change


@dataclass(frozen=True)
class Points:
    """What is drawn.

    x, y: shape (N,), NaN where there is nothing to draw. color: a column of numbers, or groups; None for the number of
    points. shown: shape (N,), bool, of the points that pass the filters.
    """

    x: Numbers
    y: Numbers
    color: Numbers | Groups | None
    shown: NDArray[np.bool_]

    @cached_property
    def drawn(self) -> NDArray[np.bool_]:
        """Which points have a place on the map and pass the filters."""
        return np.asarray(self.shown & np.isfinite(self.x) & np.isfinite(self.y))

    @cached_property
    def extent(self) -> tuple[Range, Range]:
        """The ranges that hold all points but the farthest thousandths, with a margin; both 0 to 1 for none."""
        drawn = self.drawn
        return _range(self.x[drawn]), _range(self.y[drawn])

    def span(self) -> Range | None:
        """Return between which numbers colors change; None where they are not those of numbers."""
        if self.color is None or isinstance(self.color, Groups):
            return None
        values = self.color[self.drawn & np.isfinite(self.color)]
        if not values.size:
            return None
        low, high = np.percentile(values, _SHARE)
        return float(low), float(high if high > low else low + 1)


def _range(values: Numbers) -> Range:
    if not values.size:
        return 0.0, 1.0
    low, high = ends(values)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def ends(values: Numbers) -> Range:
    """Return the range of numbers without the farthest thousandths; of few numbers, all of it."""
    return float(np.percentile(values, 0.1, method="lower")), float(np.percentile(values, 99.9, method="higher"))


class Raster:
    """Points that are drawn again and again, at any zoom. What is the same for all of it is made once.

    dark: whether the page is, where the darkest colors of numbers cannot be seen.
    """

    def __init__(self, points: Points, *, dark: bool = False) -> None:
        drawn = points.drawn
        self.points = points
        self._span = points.span()
        self._shades = shades(dark=dark)
        columns = {"x": points.x[drawn], "y": points.y[drawn]}
        if isinstance(points.color, Groups):
            self._colors = dict(zip(points.color.names, GROUP_COLORS, strict=False))
            own = points.color.number[drawn]
            columns["color"] = pd.Categorical.from_codes(own, categories=list(points.color.names))
        elif points.color is not None:
            columns["color"] = points.color[drawn]
        self._frame = pd.DataFrame(columns)

    def picture(self, x_range: Range, y_range: Range, width: int, height: int) -> NDArray[np.uint8]:
        """Return what lies in the ranges, shape (height, width, 4): red, green, blue, opacity; the lowest row first."""
        canvas = datashader.Canvas(width, height, x_range, y_range)
        if not len(self._frame):
            return np.zeros((height, width, 4), np.uint8)
        if isinstance(self.points.color, Groups):
            found = canvas.points(self._frame, "x", "y", datashader.by("color", datashader.count()))
            shaded = transfer_functions.shade(found, color_key=self._colors, how="eq_hist", min_alpha=200)
        elif self.points.color is not None:
            found = canvas.points(self._frame, "x", "y", datashader.mean("color"))
            shaded = transfer_functions.shade(found, cmap=self._shades, how="linear", span=self._span)
        else:
            found = canvas.points(self._frame, "x", "y", datashader.count())
            shaded = transfer_functions.shade(found, cmap=self._shades, how="eq_hist")
        packed = np.ascontiguousarray(shaded.to_numpy()).astype(np.uint32)
        crowd = np.count_nonzero(packed >> 24) / packed.size  # of pixels that are not transparent
        if crowd < 0.02:  # single points are hard to see, and to hit
            shaded = transfer_functions.spread(shaded, px=2 if crowd < 0.005 else 1)
            packed = np.ascontiguousarray(shaded.to_numpy()).astype(np.uint32)
        return packed.view(np.uint8).reshape(height, width, 4)


def nearest_to(points: Points, x: float, y: float, scale: Range, most: float) -> int | None:
    """Return the row of the drawn point that is nearest to a place, None where none is near.

    scale: units of x and y per pixel. most: pixels.
    """
    drawn = np.flatnonzero(points.drawn)
    apart = np.hypot((points.x[drawn] - x) / scale[0], (points.y[drawn] - y) / scale[1])
    if not apart.size or float(apart.min()) > most:
        return None
    return int(drawn[int(apart.argmin())])


def inside_box(points: Points, x_range: Range, y_range: Range) -> NDArray[np.intp]:
    """Return the rows of the drawn points in a box."""
    within = (points.x >= x_range[0]) & (points.x <= x_range[1]) & (points.y >= y_range[0]) & (points.y <= y_range[1])
    return np.flatnonzero(within & points.drawn)


def inside_lasso(points: Points, outline: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the rows of the drawn points inside a polygon, shape (K, 2)."""
    if len(outline) < 3:
        return np.empty(0, np.intp)
    low, high = outline.min(axis=0), outline.max(axis=0)
    near = inside_box(points, (low[0], high[0]), (low[1], high[1]))
    places = np.column_stack([points.x[near], points.y[near]])
    found: NDArray[np.intp] = near[Path(outline).contains_points(places)]
    return found
