"""What a page of the explorer shows: axes, color, filters, selection, one spectrum. No browser is needed for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.explorer.columns import NONE, OTHERS, Columns, Groups
from pipeline.explorer.embedding import UMAP, Embedding
from pipeline.explorer.raster import COUNT, Points, Range, ends
from pipeline.results.spectrum import COORDINATES
from pipeline.results.tables.columns import SAMPLE, flat

SHOWN = ("target", "class", "z", "z_fit", "sn_median", "chi2_n", "log_prob_percentile", "quality_words")
"""Columns of the tables of a page, where a run has them."""

PCA = ("PCA 1", "PCA 2")
"""Axes that are made of the latents: their two directions of largest variance."""


Filter = Range | list[str]
"""A range of a column of numbers, both ends included, or some words of a column of words."""


@dataclass(frozen=True)
class View:
    """What is chosen. x, y, color: names of columns. filters: by column. zoom: what of the map is seen, None: all."""

    x: str = PCA[0]
    y: str = PCA[1]
    color: str = COUNT
    filters: dict[str, Filter] = field(default_factory=dict)
    zoom: tuple[Range, Range] | None = None

    def filtered(self, name: str, chosen: Filter | None) -> View:
        """Return the view with another filter of a column, None for none."""
        others = {key: each for key, each in self.filters.items() if key != name}
        return replace(self, filters={**others, name: chosen} if chosen else others)

    def condition(self) -> str:
        """Return the filters as `--where` and `run.table(where=...)` take them; "" for none."""
        return " and ".join(
            f"{name} in {each!r}" if isinstance(each, list) else f"{name} >= {each[0]:.7g} and {name} <= {each[1]:.7g}"
            for name, each in self.filters.items()
        )


class Map:
    """A run's spectra as points."""

    def __init__(self, columns: Columns, embedding: Embedding | None = None) -> None:
        self.columns = columns
        self.embedding = embedding
        self._axes: dict[str, NDArray[np.float32]] = {}
        if embedding is not None:
            self._axes |= {name: _padded(embedding.place[:, i], columns.n) for i, name in enumerate(UMAP)}

    @property
    def axes(self) -> list[str]:
        """Names that an axis may have."""
        return [*(UMAP if self.embedding else ()), *(PCA if self._latents else ()), *self.columns.numbers]

    @property
    def colors(self) -> list[str]:
        """Names that may give the color."""
        return [COUNT, *self.columns.words, *self.columns.numbers]

    @property
    def _latents(self) -> list[str]:
        whole = next((each for each in self.columns.table.available if each.name == "latents"), None)
        return [] if whole is None else list(whole.labels)

    def first_view(self) -> View:
        """Return what is shown at first."""
        axes = self.axes
        if len(axes) < 2:
            raise ConfigError("explore", ", ".join(axes), "a run that stores latents, or two other numbers")
        return View(axes[0], axes[1], "class" if "class" in self.columns.words else COUNT)

    def axis(self, name: str) -> NDArray[np.float32]:
        """Return the numbers along an axis, shape (n_spectra,)."""
        if name not in PCA and name not in UMAP:
            return self.columns.number(name)
        if name not in self._axes and name in UMAP:
            raise ConfigError("axis", name, "a run with a stored map", "explore --make-map makes one")
        if name not in self._axes:
            self._axes |= dict(zip(PCA, principal([self.columns.number(each) for each in self._latents]), strict=True))
        return self._axes[name]

    def points(self, view: View) -> Points:
        """Return what a view draws. Raises ConfigError for columns that there are not."""
        color: NDArray[np.float32] | Groups | None
        if view.color == COUNT:
            color = None
        elif view.color in self.columns.words:
            color = self.columns.groups(view.color)
        else:
            color = self.columns.number(view.color)
        return Points(self.axis(view.x), self.axis(view.y), color, self.shown(view))

    def shown(self, view: View) -> NDArray[np.bool_]:
        """Return which spectra pass the filters, shape (n_spectra,); those that are not done do not."""
        shown = self.columns.done
        for name, chosen in view.filters.items():
            if isinstance(chosen, list):
                groups = self.columns.groups(name)
                shown &= np.isin(groups.number, [groups.names.index(each) for each in chosen if each in groups.names])
            else:
                values = self.axis(name)
                shown &= (values >= np.float32(chosen[0])) & (values <= np.float32(chosen[1]))
        return shown

    def words(self, name: str) -> list[str]:
        """Return the words of a column that a filter may choose, the most frequent ones first."""
        return [each for each in self.columns.groups(name).names if each not in (OTHERS, NONE)]

    def histogram(self, name: str, bins: int = 60) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return how many spectra lie in each bin of a column, and the edges; without the farthest thousandths."""
        values = self.axis(name)
        values = values[np.isfinite(values)]
        if not values.size:
            return np.zeros(bins, np.int64), np.linspace(0, 1, bins + 1)
        low, high = ends(values)
        return np.histogram(values, bins, (low, high if high > low else low + 1))

    def targets(self, rows: NDArray[np.intp]) -> list[str]:
        """Return the keys of spectra."""
        return [str(each) for each in self.columns.table.at(rows, ["target"])["target"]] if len(rows) else []

    def coordinates(self, rows: list[int]) -> dict[str, NDArray[Any]]:
        """Return of spectra what `read_spectra` takes as known."""
        table = self.columns.table
        return table.at(np.array(rows), [each.name for each in table.available if each.name in COORDINATES])

    def row(self, row: int) -> pd.DataFrame:
        """Return all columns of one spectrum with their meanings, a line each, but the covariance of latents."""
        table = self.columns.table
        shown = [each for each in flat(table.available) if each.of != "latents_cov" and each.name != SAMPLE]
        names = [each.name for each in shown]
        values = table.at(np.array([row]), names)
        words = [(str(values[each.name][0]), each.units, each.description) for each in shown]
        return pd.DataFrame(words, pd.Index(names, name="column"), ["value", "unit", "meaning"])

    def table(self, rows: NDArray[np.intp], most: int = 200) -> pd.DataFrame:
        """Return what a table of a selection shows: at most `most` of the rows, indexed by the row in the run."""
        kept = rows[:most]
        known = {each.name: each.dtype for each in self.columns.table.available}
        names = [name for name in SHOWN if name in known]
        values = self.columns.table.at(kept, names) if len(kept) else {name: np.empty(0) for name in names}
        texts = {name: np.asarray(values[name], object) for name in names if known[name] == "str"}
        return pd.DataFrame({**values, **texts}, index=pd.Index(kept, name="row"))


def principal(latents: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the first two principal components of columns, each shape (N,), float32; NaN where one is not finite.

    Signs are chosen such that the largest weight of each component is positive.
    """
    finite = np.isfinite(np.sum(latents, axis=0))
    values = np.stack([each[finite] for each in latents]) if finite.any() else np.zeros((len(latents), 1), np.float32)
    mean = values.mean(axis=1, dtype=np.float64, keepdims=True)
    covariance = np.atleast_2d(np.cov(values)) if values.shape[1] > 1 else np.eye(len(latents))
    _, vectors = np.linalg.eigh(covariance)
    found = []
    for number in (1, 2):
        component = np.full(len(finite), np.nan, np.float32)
        if number <= len(latents):
            weights = vectors[:, -number]
            weights = weights * np.sign(weights[np.abs(weights).argmax()])
            component[finite] = (weights @ (values - mean)).astype(np.float32)[: int(finite.sum())]
        found.append(component)
    return found[0], found[1]


def _padded(values: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Return values for the rows of a run that may have grown since: NaN for those that came later."""
    return np.concatenate([values[:n], np.full(max(n - len(values), 0), np.nan, np.float32)])


def reproduce(root: str, model: str, view: View, targets: list[str]) -> str:
    """Return the lines of Python that give a selection again; its ids are a file beside them where they are many."""
    lines = ["import pipeline", "", f"run = pipeline.open_run({root!r})"]
    if len(targets) <= 20:
        lines.append(f"rows = run.find({targets!r})")
    else:
        lines[:0] = ["from pathlib import Path", ""]
        lines += ["ids = Path('selected.txt').read_text().split()  # the download Ids", "rows = run.find(ids)"]
    lines += [f"encodings = run.encodings({model!r}).isel(spectrum=rows)", f"table = run.table({model!r}).loc[rows]"]
    if condition := view.condition():
        lines.append(f"# they were chosen among: run.table({model!r}, where={condition!r})")
    return "\n".join(lines)
