"""The figure of a learning curve: losses by epoch, of training and validation, and the terms that they are made of."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_FROM = 5
"""Ratio of the highest to the lowest value from which a panel is logarithmic; below, it would have hardly a label."""

_COLORS = ("#34495e", "#d1384b", "#3a8f5c", "#c98a1b", "#7b5ea7", "#2b8ca3", "#8a5a44", "#8a94a0")
_SPLITS = {"train": "-", "valid": "--"}


def draw(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the figure of a log's records as a PNG file.

    records: in the order of epochs, each with "epoch", from 1, and "train" and "valid", {instrument: mean loss}, and
    with "train_terms" and "valid_terms", {"instrument term": mean}, if it has any. Terms have a panel where there are
    several of an instrument.
    """
    several = any(len(_terms(each)) > len(each.get("train", {})) for each in records)
    figure = Figure(figsize=(11 if several else 6.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    _panel(panels[0], records, ("train", "valid"), "mean loss per spectrum")
    if several:
        _panel(panels[1], records, ("train_terms", "valid_terms"), "terms of the loss, weighted")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _terms(record: Mapping[str, Any]) -> Mapping[str, float]:
    terms: Mapping[str, float] = record.get("train_terms", {})
    return terms


def _panel(panel: Axes, records: Sequence[Mapping[str, Any]], keys: tuple[str, str], label: str) -> None:
    """Draw a line per name and split; those of one name share a color."""
    names = list(dict.fromkeys(name for record in records for key in keys for name in record.get(key, {})))
    drawn: list[float] = []
    for i, name in enumerate(names):
        for key, (split, style) in zip(keys, _SPLITS.items(), strict=True):
            points = [(record["epoch"], record[key][name]) for record in records if name in record.get(key, {})]
            if not points:
                continue
            epochs, losses = zip(*points, strict=True)
            drawn += losses
            mark = "o" if len(points) == 1 else ""
            color = _COLORS[i % len(_COLORS)]
            panel.plot(epochs, losses, linestyle=style, marker=mark, color=color, label=f"{name}, {split}")
    if drawn and 0 < LOG_FROM * min(drawn) < max(drawn):
        panel.set_yscale("log")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("epoch")
    panel.set_ylabel(label)
    panel.grid(alpha=0.25, which="both", linewidth=0.5)
    if names:
        panel.legend(frameon=False, fontsize="small")
