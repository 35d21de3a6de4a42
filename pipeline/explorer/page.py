"""The page: a map of the run's spectra, a histogram that filters, one spectrum, a selection."""

from __future__ import annotations

import io
from html import escape
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
import param
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.explorer.columns import Groups
from pipeline.explorer.drawing import spectrum_figures
from pipeline.explorer.embedding import UMAP
from pipeline.explorer.raster import COUNT, GROUP_COLORS, NUMBER_COLORS, Raster, inside_box, inside_lasso, nearest_to
from pipeline.explorer.view import Map, View, reproduce
from pipeline.results.run import Run

SIZE = (760, 540)  # pixels of the map's picture
NEAR = 15.0  # pixels within which a click means a point
NEIGHBORS = 6
_NONE = "none"


class Explorer(param.Parameterized):  # type: ignore[misc]
    """What a page shows, and what happens when a widget, the map or the URL changes it."""

    x = param.Selector(objects=[""])
    y = param.Selector(objects=[""])
    color = param.Selector(objects=[COUNT])
    filtered = param.Selector(objects=[_NONE], label="filter by")
    filters = param.Dict({})
    row = param.Integer(None, allow_None=True)

    def __init__(self, run: Run, model: str, chart: Map) -> None:
        self.run, self.model, self.map = run, model, chart
        first = self.map.first_view()
        self.param.x.objects = self.param.y.objects = self.map.axes
        self.param.color.objects = self.map.colors
        self.param.filtered.objects = [_NONE, *self.map.columns.numbers]
        super().__init__(x=first.x, y=first.y, color=first.color, filtered=_NONE)
        self.selected: NDArray[np.intp] = np.empty(0, np.intp)
        self.neighbors: NDArray[np.intp] = np.empty(0, np.intp)
        self._raster = Raster(self.map.points(self.view))
        self._ranges = hv.streams.RangeXY()
        self._size = SIZE
        self._marks = hv.streams.Counter()
        self._parts()

    @property
    def view(self) -> View:
        """What is chosen now."""
        return View(self.x, self.y, self.color, dict(self.filters))

    # --- the map

    def _picture(self, x_range: Any, y_range: Any, width: Any, height: Any, scale: float) -> hv.RGB:  # noqa: ANN401
        extent = self._raster.points.extent
        x_range, y_range = x_range or extent[0], y_range or extent[1]
        self._size = (int(width or SIZE[0]), int(height or SIZE[1]))
        picture = self._raster.picture(x_range, y_range, *self._size)
        bounds = (x_range[0], y_range[0], x_range[1], y_range[1])
        axes = [hv.Dimension("x", label=self.x), hv.Dimension("y", label=self.y)]
        return hv.RGB(picture[::-1], bounds=bounds, kdims=axes)

    def _marked(self, counter: int = 0) -> hv.Overlay:
        points = self._raster.points
        some = self.selected[:20000]
        rows = [] if self.row is None else [self.row]
        dims = ["x", "y"]
        return (
            hv.Points((points.x[some], points.y[some]), dims).opts(color="black", size=2, alpha=0.5)
            * hv.Points((points.x[self.neighbors], points.y[self.neighbors]), dims).opts(
                fill_color=None, line_color="#d55e00", size=11, line_width=2
            )
            * hv.Points((points.x[rows], points.y[rows]), dims).opts(marker="x", color="#d55e00", size=16, line_width=3)
        )

    def _draw_map(self) -> hv.core.spaces.DynamicMap:
        self._ranges = hv.streams.RangeXY()
        picture = hv.DynamicMap(self._picture, streams=[self._ranges, hv.streams.PlotSize()])
        tap = hv.streams.Tap(source=picture)
        tap.add_subscriber(self._tapped)
        box = hv.streams.BoundsXY(source=picture)
        box.add_subscriber(self._boxed)
        lasso = hv.streams.Lasso(source=picture)
        lasso.add_subscriber(self._lassoed)
        self._marks = hv.streams.Counter()
        marks = hv.DynamicMap(self._marked, streams=[self._marks])
        tools = ["box_select", "lasso_select"]
        extent = self._raster.points.extent
        return (picture * marks).opts(
            hv.opts.RGB(tools=tools, active_tools=["pan", "wheel_zoom"], responsive=True, height=SIZE[1],
                        default_tools=["pan", "wheel_zoom", "box_zoom", "reset", "save"],
                        xlim=extent[0], ylim=extent[1], xlabel=self.x, ylabel=self.y),
        )  # fmt: skip

    @param.depends("x", "y", "color", "filters", watch=True)  # type: ignore[untyped-decorator]
    def _changed(self) -> None:
        self._raster = Raster(self.map.points(self.view))
        self._map.object = self._draw_map()
        self._legend.object = self._legend_of()
        self._count.object = self._count_of()

    def _tapped(self, x: float | None, y: float | None) -> None:
        if x is None or y is None:
            return
        extent = self._raster.points.extent
        x_range, y_range = self._ranges.x_range or extent[0], self._ranges.y_range or extent[1]
        scale = ((x_range[1] - x_range[0]) / self._size[0], (y_range[1] - y_range[0]) / self._size[1])
        row = nearest_to(self._raster.points, x, y, scale, NEAR)
        if row is not None:
            self._say("")
            self.row = row

    def _boxed(self, bounds: tuple[float, float, float, float] | None) -> None:
        if bounds is not None:
            self._select(inside_box(self._raster.points, (bounds[0], bounds[2]), (bounds[1], bounds[3])))

    def _lassoed(self, geometry: NDArray[np.float64] | None) -> None:
        if geometry is not None and len(geometry):
            self._select(inside_lasso(self._raster.points, np.asarray(geometry, np.float64)))

    def _select(self, rows: NDArray[np.intp]) -> None:
        self.selected = rows
        table = self.map.table(rows)
        self._table.value = table
        more = f", the first {len(table)} of them below" if len(rows) > len(table) else ""
        self._selection_said.object = f"**{len(rows):,} spectra selected**{more}"
        targets = self._targets(rows[:21])
        self._code.object = f"```python\n{reproduce(self.run.root, self.model, self.view, targets)}\n```"
        self._marks.event(counter=self._marks.counter + 1)

    def _targets(self, rows: NDArray[np.intp]) -> list[str]:
        if not len(rows):
            return []
        return [str(each) for each in self.map.columns.table.at(rows, ["target"])["target"]]

    # --- one spectrum

    @param.depends("row", watch=True)  # type: ignore[untyped-decorator]
    def _opened(self) -> None:
        if self.row is None:
            return
        try:
            row = self.map.table(np.array([self.row]))
            self._spectrum.objects = [
                pn.pane.Markdown(_in_words(row.iloc[0].to_dict())),
                pn.pane.Bokeh(spectrum_figures(self.run, self.row, self.model)),
            ]
            found = self.run.similar(self._targets(np.array([self.row]))[0], n=NEIGHBORS, model=self.model)
            self.neighbors = found.index.to_numpy()
            self._neighbors.value = found[[name for name in ("target", "distance", "class", "z") if name in found]]
        except (ConfigError, OSError) as error:
            self._say(str(error))
        self._marks.event(counter=self._marks.counter + 1)

    def _searched(self, text: str) -> None:
        text = text.strip()
        self._say("")
        if not text:
            return
        try:
            numbers = [float(each) for each in text.replace(",", " ").split()]
        except ValueError:
            numbers = []
        try:
            if len(numbers) == 2:
                rows = self.run.find(position=(numbers[0], numbers[1]), radius=5.0)
                if not len(rows):
                    raise ConfigError("position", text, "a place with a spectrum within 5 arcsec")
                self.row = int(rows[0])
            else:
                self.row = int(self.run.find(text))
        except ConfigError as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        self._message.object = escape(text)
        self._message.visible = bool(text)

    # --- filters

    @param.depends("filtered", watch=True)  # type: ignore[untyped-decorator]
    def _histogram(self) -> None:
        if self.filtered == _NONE:
            self._filter.objects = []
            return
        counts, edges = self.map.histogram(self.filtered)
        bars = hv.Histogram((edges, counts), kdims=[self.filtered]).opts(
            height=150, responsive=True, color="#575d6d", line_color=None, tools=["xbox_select"],
            default_tools=[], toolbar=None, yaxis=None, shared_axes=False,
        )  # fmt: skip
        bounds = hv.streams.BoundsX(source=bars)
        bounds.add_subscriber(self._bounded)
        self._filter.objects = [pn.pane.HoloViews(bars, sizing_mode="stretch_width", linked_axes=False)]

    def _bounded(self, boundsx: tuple[float, float] | None) -> None:
        if boundsx is not None:
            self.filters = self.view.filtered(self.filtered, (float(boundsx[0]), float(boundsx[1]))).filters

    def _cleared(self, _: object) -> None:
        self.filters = {}

    # --- parts of the page

    def _legend_of(self) -> str:
        color = self._raster.points.color
        if color is None:
            return _gradient("few", "many spectra in a pixel")
        if isinstance(color, Groups):
            chips = (
                f'<span style="white-space:nowrap"><span style="background:{shade};display:inline-block;width:12px;'
                f'height:12px;border-radius:3px;margin:0 4px 0 10px"></span>{escape(name)}</span>'
                for name, shade in zip(color.names, GROUP_COLORS, strict=False)
            )
            return f"<b>{self.color}</b> " + " ".join(chips)
        span = self._raster.points.span()
        return _gradient(f"{span[0]:.4g}", f"{span[1]:.4g}", self.color) if span else f"<b>{self.color}</b>: no values"

    def _count_of(self) -> str:
        drawn, n = int(self._raster.points.drawn.sum()), self.map.columns.n
        not_done = n - int(self.map.columns.done.sum())
        said = f"**{drawn:,}** of {n:,} spectra shown"
        if not_done:
            said += f"; {not_done:,} are not done yet"
        if self.map.embedding is not None and {self.x, self.y} & set(UMAP):
            placed = int((self._raster.points.drawn[: len(self.map.embedding.exact)] & ~self.map.embedding.exact).sum())
            said += f"; {placed:,} places are approximate: the mean of the five nearest spectra of the map"
        if self.filters:
            said += f"  \nfilter: `{self.view.condition()}`"
        return said

    def _parts(self) -> None:
        self._map = pn.pane.HoloViews(self._draw_map(), sizing_mode="stretch_width", height=SIZE[1], linked_axes=False)
        self._legend = pn.pane.HTML(self._legend_of(), sizing_mode="stretch_width")
        self._count = pn.pane.Markdown(self._count_of())
        self._message = pn.pane.Alert("", alert_type="warning", visible=False, sizing_mode="stretch_width")
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        self._search = pn.widgets.TextInput(name="find", placeholder="id, or ra dec in degrees", **wide)
        self._search.param.watch(lambda event: self._searched(event.new), "value")
        self._filter = pn.Column(sizing_mode="stretch_width")
        self._clear = pn.widgets.Button(name="clear filters")
        self._clear.on_click(self._cleared)
        self._spectrum = pn.Column(pn.pane.Markdown("Click on the map, or find a spectrum."), **wide)
        self._neighbors, self._table, self._outliers = (self._list() for _ in range(3))
        self._list_outliers = pn.widgets.Button(name="list the 50 rarest that are shown")
        self._list_outliers.on_click(self._outlying)
        self._selection_said = pn.pane.Markdown("Select with the box or the lasso of the map's tools.")
        self._code = pn.pane.Markdown("")
        download = pn.widgets.FileDownload
        self._ids = download(callback=self._ids_of, filename="selected.txt", label="Ids")
        self._parquet = download(callback=self._parquet_of, filename="selected.parquet", label="Table (Parquet)")

    def _list(self) -> pn.widgets.Tabulator:
        """Return an empty table of spectra, a click on which opens one."""
        made = pn.widgets.Tabulator(
            self.map.table(np.empty(0, np.intp)), disabled=True, height=230, sizing_mode="stretch_width"
        )
        made.on_click(lambda event: setattr(self, "row", int(made.value.index[event.row])))
        return made

    def _ids_of(self) -> io.BytesIO:
        return io.BytesIO("\n".join(self._targets(self.selected)).encode())

    def _parquet_of(self) -> io.BytesIO:
        mask = np.zeros(self.map.columns.n, np.bool_)
        mask[self.selected] = True
        stream = io.BytesIO()
        self.run.table(self.model, where=mask).to_parquet(stream)
        stream.seek(0)
        return stream

    def _outlying(self, _: object) -> None:
        try:
            found = self.run.outliers(50, model=self.model, where=self._raster.points.drawn)
            names = [name for name in ("target", "class", "z", "reason") if name in found]
            self._outliers.value = found[names]
        except ConfigError as error:
            self._say(str(error))

    def page(self) -> pn.viewable.Viewable:
        """Return the page, and tie it to the URL."""
        location = pn.state.location
        if location is not None:
            location.sync(self, {"x": "x", "y": "y", "color": "color", "filters": "filters", "row": "row"})
        controls = pn.Column(
            self._search,
            pn.Param(self, parameters=["x", "y", "color", "filtered"], show_name=False, sizing_mode="stretch_width"),
            self._filter,
            self._clear,
            self._count,
        )
        selection = pn.Column(
            self._selection_said, pn.Row(self._ids, self._parquet), self._table, self._code, sizing_mode="stretch_width"
        )
        tabs = pn.Tabs(
            ("Spectrum", pn.Column(self._spectrum, sizing_mode="stretch_width")),
            ("Neighbors", self._neighbors),
            ("Selection", selection),
            ("Outliers", pn.Column(self._list_outliers, self._outliers, sizing_mode="stretch_width")),
            sizing_mode="stretch_width",
        )
        template = pn.template.BootstrapTemplate(title=f"{self.run.root}: {self.model}", sidebar=[controls])
        template.main.append(pn.FlexBox(
            pn.Column(self._message, self._legend, self._map, min_width=320, sizing_mode="stretch_width"),
            pn.Column(tabs, min_width=320, sizing_mode="stretch_width"),
        ))  # fmt: skip
        return template


def _in_words(row: dict[str, Any]) -> str:
    """Return a spectrum's row as a line of text, its key first."""
    shown = [f"{name} {value:.5g}" if isinstance(value, float) else f"{value}" for name, value in row.items()]
    return f"**{escape(shown[0])}** {escape(', '.join(shown[1:]))}"


def _gradient(low: str, high: str, name: str = "") -> str:
    stops = ", ".join(NUMBER_COLORS)
    style = f"display:inline-block;width:160px;height:12px;background:linear-gradient(to right, {stops})"
    bar = f'<span style="{style}"></span>'
    return f"<b>{name}</b> {low} {bar} {high}"
