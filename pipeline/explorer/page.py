"""The page: a map of the run's spectra, a histogram that filters, one spectrum, lists of spectra, a selection."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec

import numpy as np
import panel as pn
import param
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.explorer import legend
from pipeline.explorer.address import from_address, to_address
from pipeline.explorer.browser import HELP, Browser, Message, say_when_lost
from pipeline.explorer.chart import Chart, histogram
from pipeline.explorer.drawing import Ink, small_figures, spectrum_figures
from pipeline.explorer.raster import COUNT, Range, Raster
from pipeline.explorer.search import find_spectrum
from pipeline.explorer.view import Filter, Map, View, reproduce
from pipeline.results.latents.index import LatentIndex, index_beside
from pipeline.results.latents.outliers import find_outliers
from pipeline.results.latents.similar import find_similar
from pipeline.results.run import Run

NEIGHBORS = 6
OUTLIERS = 50
_NOTHING = "none"
_SOON = 100  # milliseconds
_ZOOM_KEPT = 400  # milliseconds without a move, until the address has the zoom
_BESIDE = {"flex": "1 1 420px"}  # on a narrow screen below each other
_SMALL = ":host .tabulator { font-size: 12px } .tabulator-row:hover { background: rgba(128, 128, 128, 0.3) !important }"
_ARROW = (  # seen on dark pages, too
    ':host select.bk-input { background: no-repeat right 6px center / 18px url("data:image/svg+xml,%3Csvg '
    "xmlns='http://www.w3.org/2000/svg' viewBox='0 0 20 20'%3E%3Cpath d='M5 7h10l-5 6z' fill='gray'/%3E%3C/svg%3E\") }"
)
_NO_ROWS: NDArray[np.intp] = np.empty(0, np.intp)

Rows = NDArray[np.intp]
P = ParamSpec("P")


def reporting(method: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """Make a method show its errors as a message on the page."""

    @wraps(method)
    def reporting_method(page: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:  # noqa: ANN401 - mypy wants it so
        try:
            method(page, *args, **kwargs)
        except (ConfigError, OSError) as error:
            page.say(str(error))
        except Exception as error:
            logging.getLogger(__name__).exception("the explorer failed")
            page.say(f"this failed by a fault of the explorer, which the terminal shows: {error!r}")

    return reporting_method


class Explorer(param.Parameterized):  # type: ignore[misc]
    """What a page shows, and what happens when a widget, the map or the address changes it."""

    x = param.Selector(objects=[""])
    y = param.Selector(objects=[""])
    color = param.Selector(objects=[COUNT])
    filtered = param.Selector(objects=[_NOTHING], label="filter by")
    filters = param.Dict({})
    row = param.Integer(None, allow_None=True)

    def __init__(self, run: Run, model: str, chart: Map) -> None:
        self.run, self.model, self.map = run, model, chart
        self._dark = pn.config.theme == "dark"
        self._ink = Ink.of(dark=self._dark)
        self._first = chart.first_view()
        self._zoom: tuple[Range, Range] | None = None
        self._zoom_kept: Any = None
        self._restoring = False
        self._index: LatentIndex | None = None
        self.param.x.objects = self.param.y.objects = self.map.axes
        self.param.color.objects = self.map.colors
        self.param.filtered.objects = [_NOTHING, *self.map.columns.words, *self.map.columns.numbers]
        super().__init__(x=self._first.x, y=self._first.y, color=self._first.color, filtered=_NOTHING)
        self._chart = Chart(clicked=self._clicked, selected=self._select, zoomed=self._zoomed, dark=self._dark)
        self._parts()

    @property
    def view(self) -> View:
        """What is chosen now."""
        return View(self.x, self.y, self.color, dict(self.filters), self._zoom)

    @property
    def index(self) -> LatentIndex:
        """The latents that are searched for neighbors; never made in the run."""
        if self._index is None:
            self._index = index_beside(self.map.columns.table)
        return self._index

    @property
    def selected(self) -> Rows:
        """Rows of the selection, in the order of the list that they were selected from."""
        return self._chart.marks.selected

    def say(self, text: str) -> None:
        """Show a message, "" for none."""
        self._message.say(text)

    # --- the map

    @param.depends("x", "y", "color", "filters", watch=True)  # type: ignore[untyped-decorator]
    @reporting
    def _changed(self) -> None:
        if self._restoring:
            return
        self.say("")
        if (self.x, self.y) != self._chart.axes:
            self._zoom = None
        self._draw()
        self._keep_address()

    def _draw(self) -> None:
        points = self.map.points(self.view)
        self._chart.draw(Raster(points, dark=self._dark), (self.x, self.y), self._zoom)
        self._legend.object = legend.legend(points, self.view, dark=self._dark)
        self._count.object = legend.count(self.map, points, self.view)

    def _clicked(self, row: int) -> None:
        self.row = row

    def _zoomed(self, seen: tuple[Range, Range]) -> None:
        before, self._zoom = self._zoom, None if seen == self._chart.whole else seen
        document = pn.state.curdoc
        if document is None or self._zoom == before:
            return
        if self._zoom_kept is not None:
            document.remove_timeout_callback(self._zoom_kept)
        self._zoom_kept = document.add_timeout_callback(self._zoom_settled, _ZOOM_KEPT)

    def _zoom_settled(self) -> None:
        self._zoom_kept = None
        self._keep_address()

    # --- the address

    def _keep_address(self) -> None:
        location = pn.state.location
        if location is not None:
            location.search = to_address(self.view, self.row, location.search)

    @reporting
    def _restore(self, query: str) -> None:
        """Show what an address says."""
        view, row, problems = from_address(query, self.map, self._first)
        self._zoom, self._restoring = view.zoom, True
        try:
            self.param.update(x=view.x, y=view.y, color=view.color, filters=view.filters)
        finally:
            self._restoring = False
        self._draw()
        self.filtered = next(iter(view.filters), _NOTHING)
        if row is not None:
            self.row = row
        if problems:
            self.say("The address: " + "; ".join(problems))

    # --- one spectrum

    @param.depends("row", watch=True)  # type: ignore[untyped-decorator]
    @reporting
    def _opened(self) -> None:
        if self.row is None:
            return
        self.say("")
        self._keep_address()
        self._chart.marks.row, self._chart.marks.neighbors = self.row, _NO_ROWS
        row = self.map.table(np.array([self.row])).iloc[0].to_dict()
        parts: list[Any] = [pn.pane.Markdown(legend.in_words(row, self._walked.value.index.tolist(), self.row))]
        try:
            figures = spectrum_figures(self.run, self.row, self.model, self.map.coordinates([self.row]), self._ink)
            parts.append(pn.pane.Bokeh(figures, sizing_mode="stretch_width"))
        finally:  # its row and its neighbors are there where its spectrum is not
            self._spectrum.objects = parts
            self._chart.mark()
            self._later(partial(self._find_more, self.row))

    def _later(self, what: Callable[[], None]) -> None:
        """Do something when the browser has got what has changed so far."""
        if (document := pn.state.curdoc) is None:
            what()
        else:
            document.add_timeout_callback(what, _SOON)

    @reporting
    def _find_more(self, row: int) -> None:
        if row != self.row:  # another one has been opened meanwhile
            return
        self._row.object = self.map.row(row)
        if "latents" not in self.map.columns.table.model.variables:
            return
        found = find_similar(self.map.columns.table, NEIGHBORS, self.index, row, None)
        self._chart.marks.neighbors = found.rows
        frame = found.frame()
        self._neighbors.value = frame[[name for name in ("target", "distance", "class", "z") if name in frame]]
        self._draw_neighbors()
        self._chart.mark()

    @reporting
    def _draw_neighbors(self, _: object = None) -> None:
        """Draw neighbors as small figures, where somebody looks at them."""
        if self._tabs.active == 0 and len(self._neighbors.value):
            rows = self._neighbors.value.index.tolist()
            figures = small_figures(self.run, rows, self.model, self.map.coordinates(rows), self._ink)
            self._small.objects = [pn.pane.Bokeh(each) for each in figures]

    @reporting
    def _searched(self, text: str) -> None:
        self.say("")
        if text.strip():
            self.row = find_spectrum(self.run, text.strip())

    # --- filters

    @param.depends("filtered", watch=True)  # type: ignore[untyped-decorator]
    @reporting
    def _chosen_filter(self) -> None:
        name = self.filtered
        if name == _NOTHING:
            self._filter.objects = []
        elif name in self.map.columns.words:
            known, now = self.map.words(name), self.filters.get(name, [])
            boxes = pn.widgets.CheckBoxGroup(options=known, value=[word for word in known if word in now])
            boxes.param.watch(lambda event: self._filter_by(name, event.new), "value")
            self._filter.objects = [boxes]
        else:
            self._filter.objects = [histogram(*self.map.histogram(name), name, partial(self._filter_by, name))]

    @reporting
    def _filter_by(self, name: str, chosen: Filter) -> None:
        self.filters = self.view.filtered(name, chosen).filters

    def _cleared(self, _: object) -> None:
        self.filters = {}
        self.param.trigger("filtered")

    # --- lists

    def _show(self, listed: pn.widgets.Tabulator, frame: Any) -> None:  # noqa: ANN401 - of pandas
        listed.value, listed.selection = frame, []
        self._walked = listed if len(frame) else self._outliers

    @reporting
    def _select(self, rows: Rows) -> None:
        self.say("")
        self._chart.marks.selected = rows
        table = self.map.table(rows)
        self._show(self._table, table)
        more = f", the first {len(table)} of them below" if len(rows) > len(table) else ""
        self._selection_said.object = f"**{len(rows):,} spectra selected**{more}"
        self._ids.disabled = self._parquet.disabled = not len(rows)
        code = reproduce(self.run.root, self.model, self.view, self.map.targets(rows[:21])) if len(rows) else ""
        self._code.object = f"```python\n{code}\n```" if code else ""
        if len(rows):
            self._tabs.active = 1
        self._chart.mark()

    def _ids_of(self) -> io.BytesIO:
        return io.BytesIO("".join(f"{target}\n" for target in self.map.targets(self.selected)).encode())

    def _parquet_of(self) -> io.BytesIO:
        mask = np.zeros(self.map.columns.n, np.bool_)
        mask[self.selected] = True
        stream = io.BytesIO()
        try:
            self.run.table(self.model, where=mask).loc[self.selected].to_parquet(stream)
        except (ConfigError, OSError) as error:
            self.say(str(error))
            raise  # no file then: see server.quiet
        stream.seek(0)
        return stream

    @reporting
    def _list_outliers(self, _: object) -> None:
        self.say("")
        assert self._chart.raster is not None
        table = self.run.results(self.model, where=self._chart.raster.points.drawn)
        frame = find_outliers(table, OUTLIERS, lambda: self.index).frame()
        self._show(self._outliers, frame[[name for name in ("target", "reason", "class", "z") if name in frame]])

    def _select_listed(self, _: object) -> None:
        rows = self._outliers.value.index.to_numpy(np.intp)
        chosen = self._outliers.selection
        self._select(rows[sorted(chosen)] if chosen else rows)

    def _step(self, by: int) -> None:
        """Open the next spectrum of the list that was used last."""
        rows = self._walked.value.index.tolist()
        if not rows:
            self.say("n and p walk through the outliers or the selection: list or select some spectra first.")
            return
        place = rows.index(self.row) + by if self.row in rows else 0
        self.row = int(rows[place % len(rows)])

    # --- parts of the page

    @reporting
    def _pressed(self, key: str) -> None:
        """Do what a key stands for, see `browser.HELP`."""
        self.say("")
        moves = {"ArrowLeft": (-0.2, 0.0), "ArrowRight": (0.2, 0.0), "ArrowUp": (0.0, 0.2), "ArrowDown": (0.0, -0.2)}
        if key in moves:
            self._chart.move(*moves[key])
        elif key in "+-":
            self._chart.move(scale=0.7 if key == "+" else 1 / 0.7)
        elif key == "0":
            self._chart.look(None)
        elif key in "np":
            self._step(1 if key == "n" else -1)
        elif key in "123":
            self._tabs.active = int(key) - 1
        elif key == "Escape":
            self._select(_NO_ROWS)

    def _parts(self) -> None:
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        self._legend, self._count = pn.pane.HTML("", **wide), pn.pane.Markdown("")
        self._message = Message()
        self._search = pn.widgets.TextInput(label="find", placeholder="id, or ra dec", **wide)
        self._search.param.watch(lambda event: self._searched(event.new), "value")
        self._filter = pn.Column(**wide)
        self._spectrum = pn.Column(pn.pane.Markdown("Click on the map, or find a spectrum."), **wide)
        self._row = pn.pane.DataFrame(None, **wide)
        self._neighbors, self._table, self._outliers = (self._list(boxes=number == 2) for number in range(3))
        self._walked, self._small = self._outliers, pn.FlexBox()
        self._selection_said = pn.pane.Markdown("Select with the box or the lasso of the map's tools.")
        self._code = pn.pane.Markdown("")
        download = pn.widgets.FileDownload
        self._ids = download(callback=self._ids_of, filename="selected.txt", label="Ids", disabled=True)
        self._parquet = download(
            callback=self._parquet_of, filename="selected.parquet", label="Table (Parquet)", disabled=True
        )
        rarest = pn.widgets.Button(label=f"list the {OUTLIERS} rarest that are shown", on_click=self._list_outliers)
        listed = pn.widgets.Button(label="select those that are checked, or all", on_click=self._select_listed)
        self._tabs = pn.Tabs(
            ("Neighbors", pn.Column(self._neighbors, self._small, **wide)),
            ("Selection", pn.Column(self._selection_said, pn.Row(self._ids, self._parquet), self._table, self._code,
                                    **wide)),
            ("Outliers", pn.Column(pn.FlexBox(rarest, listed), self._outliers, **wide)),
            **wide,
        )  # fmt: skip
        self._tabs.param.watch(self._draw_neighbors, "active")

    def _list(self, *, boxes: bool) -> pn.widgets.Tabulator:
        """Return an empty table of spectra, a click on which opens one. boxes: to check some of them."""
        made = pn.widgets.Tabulator(
            self.map.table(_NO_ROWS), disabled=True, height=230, sizing_mode="stretch_width",
            layout="fit_data_stretch", show_index=False, stylesheets=[_SMALL], widths={"reason": 260},
            formatters={"reason": {"type": "textarea"}},
            selectable="checkbox" if boxes else False, theme="midnight" if self._dark else "simple",
        )  # fmt: skip
        made.on_click(lambda event: self._listed(made, int(made.value.index[event.row])))
        return made

    def _listed(self, listed: pn.widgets.Tabulator, row: int) -> None:
        if listed is not self._neighbors:  # which are others for each spectrum
            self._walked = listed
        self.row = row

    def page(self) -> pn.viewable.Viewable:
        """Return the page, and tie it to the address."""
        location, document = pn.state.location, pn.state.curdoc
        if document is not None:
            say_when_lost(document)
        self._restore("" if location is None else location.search)
        widgets = {name: {"stylesheets": [_ARROW]} for name in ("x", "y", "color", "filtered")}
        clear = pn.widgets.Button(label="clear filters", on_click=self._cleared)
        controls = pn.Column(
            self._search,
            pn.Param(self, parameters=list(widgets), widgets=widgets, show_name=False, sizing_mode="stretch_width"),
            self._filter, clear, self._count, pn.pane.Markdown(HELP), Browser(self._pressed),
        )  # fmt: skip
        whole = pn.Card(self._row, title="all columns", collapsed=True, sizing_mode="stretch_width")
        template = pn.template.BootstrapTemplate(title=f"{self.run.root}: {self.model}", sidebar=[controls])
        template.main.append(pn.FlexBox(
            self._message,
            pn.Column(self._legend, self._chart.pane, self._tabs, styles=_BESIDE, min_width=320),
            pn.Column(self._spectrum, whole, styles=_BESIDE, min_width=320),
        ))  # fmt: skip
        return template
