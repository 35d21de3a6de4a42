"""The query of a page's address: the view and the open spectrum. What is invalid in it is reported and ignored."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from pipeline.explorer.raster import Range
from pipeline.explorer.view import Filter, Map, View

KEPT = ("token", "theme")
"""Parameters that are not part of the view and stay in the address."""


def to_address(view: View, row: int | None, before: str = "") -> str:
    """Return the query of an address that opens a view again, with what `before`, another query, has of `KEPT`."""
    said = dict(parse_qsl(before.removeprefix("?")))
    found = {name: said[name] for name in KEPT if name in said}
    found |= {"x": view.x, "y": view.y, "color": view.color}
    if view.filters:
        found["filters"] = json.dumps(view.filters, separators=(",", ":"))
    if view.zoom is not None:
        found["zoom"] = ",".join(f"{each:.5g}" for span in view.zoom for each in span)
    if row is not None:
        found["row"] = str(row)
    return "?" + urlencode(found)


def from_address(query: str, chart: Map, first: View) -> tuple[View, int | None, list[str]]:
    """Return the view and the row that a query says, and what of it makes no sense, in words.

    first: the view of which everything is taken that the query does not say.
    """
    said = dict(parse_qsl(query.removeprefix("?")))
    view, problems = first, list[str]()
    for name, known in (("x", chart.axes), ("y", chart.axes), ("color", chart.colors)):
        if said.get(name, known[0]) not in known:
            problems.append(f"{name}={said.pop(name)}: this run has no such column")
    view = replace(view, x=said.get("x", view.x), y=said.get("y", view.y), color=said.get("color", view.color))
    if "filters" in said:
        filters, wrong = _filters(said["filters"], chart)
        view, problems = replace(view, filters=filters), problems + wrong
    if "zoom" in said:
        zoom = _zoom(said["zoom"])
        view = replace(view, zoom=zoom)
        problems += [] if zoom else [f"zoom={said['zoom']}: expected four numbers, from and to in x and in y"]
    row, n = said.get("row"), chart.columns.n
    if row is not None and not (row.isascii() and row.isdigit() and int(row) < n):
        return view, None, [*problems, f"row={row}: expected a whole number from 0 to {n - 1}"]
    return view, None if row is None else int(row), problems


def _filters(text: str, chart: Map) -> tuple[dict[str, Filter], list[str]]:
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        return {}, [f'filters={text}: expected something like {{"z":[0.1,0.2],"class":["QSO"]}}']
    found, problems = dict[str, Filter](), list[str]()
    for name, value in given.items():
        span = _range(value) if name in chart.columns.numbers else None
        if span is not None:
            found[name] = span
        elif name in chart.columns.words and value and isinstance(value, list) and set(map(type, value)) == {str}:
            found[name] = list(value)
        else:
            wanted = "a range of a column of numbers, or words of a column of words"
            problems.append(f"filters: {name} = {json.dumps(value)}: expected {wanted}")
    return found, problems


def _zoom(text: str) -> tuple[Range, Range] | None:
    parts = text.split(",")
    x, y = _range(parts[:2]), _range(parts[2:])
    return None if x is None or y is None or x[0] == x[1] or y[0] == y[1] else (x, y)


def _range(value: Any) -> Range | None:  # noqa: ANN401 - what JSON has
    """Return two finite numbers, the lower one first; None for anything else."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    try:
        low, high = (float(each) for each in value)
    except (TypeError, ValueError):
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low <= high else None
