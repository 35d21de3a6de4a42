"""Weighted means of restframe spectra over groups of spectra, of what each of them covers: stacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.results.coverage import COVERAGE, covered, require_coverage
from pipeline.results.damage import damage_named
from pipeline.results.tables.columns import by_name, flat
from pipeline.store.arrays import encodings_url, read_region

if TYPE_CHECKING:
    from pipeline.results.tables.table import ResultsTable

ROWS = 512
"""Spectra that a task adds up at once."""

AT_ONCE = 8
"""Partial sums that are added by one task."""


@dataclass(frozen=True)
class Sums:
    """Sums over the spectra of K groups, shape (K, R): weights, weighted flux and squared flux, and how many there are.

    spectra: shape (K,), the spectra of each group.
    """

    weight: NDArray[np.float64]
    flux: NDArray[np.float64]
    square: NDArray[np.float64]
    count: NDArray[np.int64]
    spectra: NDArray[np.int64]

    @classmethod
    def none(cls, groups: int, bins: int) -> Sums:
        """Return the sums of no spectra."""
        weight, flux, square = np.zeros((3, groups, bins))
        return cls(weight, flux, square, np.zeros((groups, bins), np.int64), np.zeros(groups, np.int64))

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.weight + other.weight,
            self.flux + other.flux,
            self.square + other.square,
            self.count + other.count,
            self.spectra + other.spectra,
        )


def stack(
    table: ResultsTable, by: str, bins: int | Sequence[float] | None, weights: str | None, wave_rest: NDArray[Any]
) -> xr.Dataset:
    """Return the mean restframe spectra of groups of a table's spectra; see `Run.stack`."""
    from dask.delayed import delayed

    variables = set(table.model.variables)
    require_coverage(variables, table.model.name)
    known = [each.name for each in flat(table.available)]
    for key, name in {"by": by, **({} if weights is None else {"weights": weights})}.items():
        if name not in known:
            raise ConfigError(key, name, "a column of the table, one value for each spectrum, such as 'z' or 'l0'")
    frame = table.frame_of([by] if weights is None else [by, weights])
    groups = _groups(frame[by].to_numpy(), by, bins)
    weight = np.ones(len(frame)) if weights is None else _weights(frame[weights].to_numpy(), weights)
    group = np.full(table.plan.n_spectra, -1, np.int32)
    rows = frame.index.to_numpy()
    group[rows] = np.where(weight > 0, groups.of(frame[by].to_numpy()), -1)
    all_weights = np.zeros(table.plan.n_spectra, np.float32)
    all_weights[rows] = weight
    count = len(groups.labels)
    partial, added = delayed(_partial), delayed(_added)
    parts = []
    for shard in table.plan.shards():
        own = slice(shard.start, shard.stop)
        if (group[own] >= 0).any():
            parts.append(partial(table.root, table.model.name, shard.start, group[own], all_weights[own], count))
    while len(parts) > 1:
        parts = [added(parts[i : i + AT_ONCE]) for i in range(0, len(parts), AT_ONCE)]
    total: Sums = parts[0].compute() if parts else Sums.none(count, len(wave_rest))
    return _dataset(total, groups, wave_rest, table, by, weights)


@dataclass(frozen=True)
class _Groups:
    """Groups of spectra. labels: of each. of: values -> groups, -1 for none. edges: of groups of numbers."""

    labels: list[str]
    of: Callable[[NDArray[Any]], NDArray[np.integer[Any]]]
    edges: NDArray[np.float64] | None = None


def _groups(values: NDArray[Any], by: str, bins: int | Sequence[float] | None) -> _Groups:
    """Return the groups of a column's values: its words, or the bins of its numbers."""
    if values.dtype.kind not in "iuf":
        if bins is not None:
            raise ConfigError("bins", bins, f"no bins: {by} is text, and each of its words is a group")
        labels = sorted(set(map(str, values)))
        place = {label: number for number, label in enumerate(labels)}
        return _Groups(labels, lambda found: np.array([place[str(value)] for value in found], np.int32))
    edges = _edges(values, bins)
    labels = [f"{low:.6g} to {high:.6g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]

    def of(found: NDArray[Any]) -> NDArray[np.integer[Any]]:
        own = edges.astype(found.dtype) if found.dtype.kind == "f" else edges  # in float32, 0.4 is not 0.4
        group = np.searchsorted(own, found, side="right") - 1
        group[found == own[-1]] = len(labels) - 1
        return np.where((group >= 0) & (group < len(labels)) & np.isfinite(found), group, -1)

    return _Groups(labels, of, edges)


def _edges(values: NDArray[Any], bins: int | Sequence[float] | None) -> NDArray[np.float64]:
    """Return the edges of bins: as given, or such that each of so many holds as many spectra."""
    if bins is None or isinstance(bins, Integral):
        number = 1 if bins is None else int(bins)
        finite = values[np.isfinite(values)].astype(np.float64)
        if number < 1 or not len(finite):
            raise ConfigError("bins", bins, "at least 1, of a column that has numbers")
        return np.unique(np.quantile(finite, np.linspace(0, 1, number + 1)))
    try:
        edges = np.asarray(bins, np.float64)
    except (TypeError, ValueError):
        edges = np.empty(0)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ConfigError("bins", bins, "a number of bins, or their edges in ascending order")
    return edges


def _weights(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Return the weights of spectra; those without a positive one are left out."""
    if values.dtype.kind not in "iuf":
        raise ConfigError("weights", name, "a column of numbers")
    found = values.astype(np.float64)
    return np.where(np.isfinite(found) & (found > 0), found, 0)


def _partial(
    root: str, model: str, start: int, group: NDArray[np.int32], weight: NDArray[np.float32], groups: int
) -> Sums:
    """Add up the spectra of one chunk. group: of each spectrum, -1 for none."""
    with damage_named(root):
        stored = read_region(encodings_url(root, model), ["restframe", *COVERAGE], start, start + len(group))
    total = Sums.none(groups, stored["restframe"].shape[1])
    for begin in range(0, len(group), ROWS):
        rows = begin + np.flatnonzero(group[begin : begin + ROWS] >= 0)
        if not len(rows):
            continue
        flux = stored["restframe"][rows].astype(np.float64)
        inside = covered(stored["rest_first"][rows], stored["rest_last"][rows], flux.shape[1]) & np.isfinite(flux)
        flux = np.where(inside, flux, 0)
        member = (group[rows] == np.arange(groups)[:, None]).astype(np.float64)
        weighted, there = member * weight[rows], inside.astype(np.float64)
        total += Sums(
            weighted @ there,
            weighted @ flux,
            weighted @ flux**2,
            (member @ there).astype(np.int64),
            member.sum(axis=1).astype(np.int64),
        )
    return total


def _added(parts: Sequence[Sums]) -> Sums:
    first, *others = parts
    for each in others:
        first = first + each
    return first


def _dataset(
    total: Sums, groups: _Groups, wave_rest: NDArray[Any], table: ResultsTable, by: str, weights: str | None
) -> xr.Dataset:
    some = total.weight > 0
    divisor = np.where(some, total.weight, 1)
    mean = np.where(some, total.flux / divisor, np.nan)
    variance = np.where(some, total.square / divisor - mean**2, np.nan)
    axes = ("group", "wavelength_rest")
    column = by_name(table.available)[by]
    found = xr.Dataset(
        {
            "restframe": (
                axes,
                mean,
                {"long_name": "weighted mean restframe in units of norm", "units": "1"},
            ),
            "scatter": (
                axes,
                np.sqrt(np.clip(variance, 0, None)),
                {"long_name": "weighted standard deviation of the restframes", "units": "1"},
            ),
            "count": (axes, total.count, {"long_name": "number of spectra that cover the bin", "units": "1"}),
            "spectra": (("group",), total.spectra, {"long_name": "number of spectra of the group", "units": "1"}),
        },
        {
            "wavelength_rest": ("wavelength_rest", wave_rest, {"units": "Angstrom", "medium": "vacuum"}),
            "group": ("group", groups.labels, {"long_name": f"groups by {by}"}),
            "model": table.model.name,
        },
        {**table.header, "by": by, "weights": weights or "equal"},
    )
    if groups.edges is not None:
        attributes = {"long_name": f"edges of the groups by {column.description}", "units": column.units or "1"}
        for name, edges in (("low", groups.edges[:-1]), ("high", groups.edges[1:])):
            found = found.assign_coords({name: ("group", edges, attributes)})
    return found
