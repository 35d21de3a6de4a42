"""The map on the page: a picture that is redrawn at every zoom, marks on it, callbacks for clicks, boxes and lassos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import holoviews as hv
import numpy as np
import panel as pn
from numpy.typing import NDArray

from pipeline.explorer.raster import Range, Raster, inside_box, inside_lasso, nearest_to

SIZE = (760, 540)  # pixels of the picture
NEAR = 15.0  # pixels within which a click means a point
MARK = "#d55e00"
_MOST_MARKS = 20_000
_NONE = np.empty(0, np.intp)

Rows = NDArray[np.intp]
Seen = tuple[Range, Range]
T = TypeVar("T")


def locked(callback: Callable[[T], None]) -> Callable[[T], None]:
    """Make a callback run with the lock of the page, without which HoloViews calls it."""
    return lambda value: pn.state.execute(partial(callback, value), schedule=True)


@dataclass
class Marks:
    """Rows that are marked: a selection, the neighbors of a spectrum, the spectrum itself."""

    selected: Rows = field(default_factory=lambda: _NONE)
    neighbors: Rows = field(default_factory=lambda: _NONE)
    row: int | None = None


class Chart:
    """A map in a pane.

    clicked: called with the row of the point that is clicked on. selected: with the rows in a box or lasso. zoomed:
    with the ranges that are seen, whenever they change.
    """

    def __init__(
        self,
        *,
        clicked: Callable[[int], None],
        selected: Callable[[Rows], None],
        zoomed: Callable[[Seen], None],
        dark: bool,
    ) -> None:
        self._clicked, self._selected, self._zoomed = locked(clicked), locked(selected), zoomed
        self._ink = "white" if dark else "black"
        self.marks = Marks()
        self.raster: Raster | None = None
        self.axes = ("", "")
        self._size = SIZE
        self._figure: Any = None
        self._first: Seen = ((0.0, 1.0), (0.0, 1.0))
        self._new_streams()
        self.pane = pn.pane.HoloViews(None, sizing_mode="stretch_width", height=SIZE[1], linked_axes=False)

    @property
    def seen(self) -> Seen:
        """The ranges of x and y that are seen."""
        return self._ranges.x_range or self._first[0], self._ranges.y_range or self._first[1]

    @property
    def whole(self) -> Seen:
        """The ranges of x and y that hold all points."""
        return ((0.0, 1.0), (0.0, 1.0)) if self.raster is None else self.raster.points.extent

    def draw(self, raster: Raster, axes: tuple[str, str], seen: Seen | None) -> None:
        """Show points, and of them what is in these ranges, None for all."""
        same = self.raster is not None and axes == self.axes
        self.raster, self.axes = raster, axes
        if same and self._figure is not None:
            self.look(seen)
            return
        self._first = seen or self.whole
        self.pane.object = self._drawn()

    def mark(self) -> None:
        """Draw the marks again; of millions of points a picture is not made for it."""
        self._changes.event(counter=self._changes.counter + 1)

    def move(self, right: float = 0.0, up: float = 0.0, scale: float = 1.0) -> None:
        """Move what is seen, in shares of it, and make it larger by a factor, about its middle."""
        spans = []
        for (low, high), shift in zip(self.seen, (right, up), strict=True):
            middle, half = (low + high) / 2 + shift * (high - low), (high - low) / 2 * scale
            spans.append((middle - half, middle + half))
        self.look((spans[0], spans[1]))

    def look(self, seen: Seen | None) -> None:
        """Show these ranges, None for all points."""
        if self._figure is None:
            return
        x, y = seen or self.whole
        self._figure.x_range.update(start=x[0], end=x[1])
        self._figure.y_range.update(start=y[0], end=y[1])
        self._ranges.update(x_range=x, y_range=y)
        self._draws.event(counter=self._draws.counter + 1)  # HoloViews keeps the pictures of ranges that it has seen
        self.mark()
        self._zoomed(self.seen)

    def _new_streams(self) -> None:
        self._ranges, self._draws, self._changes = hv.streams.RangeXY(), hv.streams.Counter(), hv.streams.Counter()

    def _drawn(self) -> hv.core.spaces.DynamicMap:
        self._new_streams()
        picture = hv.DynamicMap(self._picture, streams=[self._ranges, hv.streams.PlotSize(), self._draws])
        self._ranges.add_subscriber(lambda x_range, y_range: self._zoomed(self.seen))
        for stream, callback in (
            (hv.streams.Tap, self._tapped),
            (hv.streams.BoundsXY, self._boxed),
            (hv.streams.Lasso, self._lassoed),
        ):
            stream(source=picture).add_subscriber(callback)
        marks = hv.DynamicMap(self._marked, streams=[self._changes])
        x, y = self.axes
        return (picture * marks).opts(
            hv.opts.RGB(tools=["box_select", "lasso_select"], active_tools=["pan", "wheel_zoom"], responsive=True,
                        default_tools=["pan", "wheel_zoom", "box_zoom", "reset", "save"], height=SIZE[1],
                        xlim=self._first[0], ylim=self._first[1], xlabel=x, ylabel=y, hooks=[self._keep]),
        )  # fmt: skip

    def _keep(self, plot: Any, element: Any) -> None:  # noqa: ANN401, ARG002 - as HoloViews calls it
        self._figure = plot.state

    def _picture(self, x_range: Any, y_range: Any, width: Any, height: Any, scale: float, counter: int) -> hv.RGB:  # noqa: ANN401, ARG002
        assert self.raster is not None
        (x0, x1), (y0, y1) = self.seen
        self._size = (int(width or SIZE[0]), int(height or SIZE[1]))
        picture = self.raster.picture((x0, x1), (y0, y1), *self._size)
        dimensions = [hv.Dimension(name, label=label) for name, label in zip("xy", self.axes, strict=True)]
        return hv.RGB(picture[::-1], bounds=(x0, y0, x1, y1), kdims=dimensions)

    def _marked(self, counter: int) -> hv.Overlay:  # noqa: ARG002 - it only says that marks have changed
        assert self.raster is not None
        points, marks = self.raster.points, self.marks
        own = np.array([] if marks.row is None else [marks.row], np.intp)

        def dots(rows: Rows) -> hv.Points:
            return hv.Points((points.x[rows], points.y[rows]), ["x", "y"])

        return (
            dots(marks.selected[:_MOST_MARKS]).opts(color=self._ink, size=3, alpha=0.8)
            * dots(marks.neighbors).opts(fill_color=None, line_color=MARK, size=11, line_width=2)
            * dots(own).opts(marker="x", color=self._ink, size=16, line_width=3)
        )

    def _tapped(self, x: float | None, y: float | None) -> None:
        if x is None or y is None or self.raster is None:
            return
        scale = tuple((high - low) / size for (low, high), size in zip(self.seen, self._size, strict=True))
        row = nearest_to(self.raster.points, x, y, (scale[0], scale[1]), NEAR)
        if row is not None:
            self._clicked(row)

    def _boxed(self, bounds: tuple[float, float, float, float] | None) -> None:
        if bounds is not None and self.raster is not None:
            self._selected(inside_box(self.raster.points, (bounds[0], bounds[2]), (bounds[1], bounds[3])))

    def _lassoed(self, geometry: NDArray[np.float64] | None) -> None:
        if geometry is not None and len(geometry) and self.raster is not None:
            self._selected(inside_lasso(self.raster.points, np.asarray(geometry, np.float64)))


def histogram(
    counts: NDArray[np.int64], edges: NDArray[np.float64], name: str, chosen: Callable[[Range], None]
) -> pn.pane.HoloViews:
    """Return a histogram in a pane. chosen: called with the range that is drawn over it."""
    bars = hv.Histogram((edges, counts), kdims=[hv.Dimension(name, label=f"{name}: drag over a range to filter")]).opts(
        height=150, responsive=True, color="#707e91", line_color=None, tools=["xbox_select"],
        active_tools=["xbox_select"], default_tools=[], toolbar=None, yaxis=None, shared_axes=False,
    )  # fmt: skip

    def bounded(boundsx: tuple[float, float] | None) -> None:
        if boundsx is not None:
            callback((float(boundsx[0]), float(boundsx[1])))

    callback = locked(chosen)
    hv.streams.BoundsX(source=bars).add_subscriber(bounded)
    return pn.pane.HoloViews(bars, sizing_mode="stretch_width", linked_axes=False)
