"""The spectra whose latents are nearest: exact, by matrix products over an index, in its units or in others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 2**15
"""Rows of an index that are compared at once."""

AT_ONCE = 64
"""Spectra whose neighbors are found at once."""

Rows = NDArray[np.intp]


def nearest(
    values: NDArray[np.float32],
    queries: NDArray[np.float32],
    n: int,
    *,
    leave_out: Rows | None = None,
    metric: NDArray[np.float64] | None = None,
) -> tuple[Rows, NDArray[np.float64]]:
    """Return the rows nearest to each query, the nearest first, and their distances, both shape (K, n).

    values: shape (N, S), of an index; rows with NaN are never found. queries: shape (K, S), in the same units. n: where
    there are fewer rows, all of them. leave_out: shape (K,), a row for each query that is not found, such as its own.
    metric: shape (S, S), distances are those of values @ metric. Rows of equal distance are in the order of the run.
    The same as by float64 for every row: float32 only rules out what is farther beyond its errors.
    """
    found = [
        part
        for start in range(0, len(queries), AT_ONCE)
        for part in _nearest(
            values, queries[start : start + AT_ONCE], n, None if leave_out is None else leave_out[start:], metric
        )
    ]
    size = min((len(rows) for rows, _ in found), default=0)
    return np.array([rows[:size] for rows, _ in found]), np.array([distance[:size] for _, distance in found])


def metric_of(covariance: NDArray[np.floating[Any]], whitening: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the metric that measures whitened latents in units of a covariance of latents, both shape (S, S).

    None where the covariance is not finite, or none of anything.
    """
    whitened = whitening.T @ np.asarray(covariance, np.float64) @ whitening
    if not np.isfinite(whitened).all():
        return None
    try:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(whitened)).T)
    except np.linalg.LinAlgError:
        return None


@dataclass
class _Nearest:
    """The rows that may be among the n nearest to a query: squared distances are from `low` to `high`."""

    n: int
    rows: Rows
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    reach: float = np.inf  # the n-th smallest of `high`: what is farther is none of the n

    def add(self, rows: Rows, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Take in rows, and forget those that are too far."""
        self.rows = np.concatenate([self.rows, rows])
        self.low, self.high = np.concatenate([self.low, low]), np.concatenate([self.high, high])
        if len(self.rows) > self.n:
            self.reach = float(np.partition(self.high, self.n - 1)[self.n - 1])
            kept = self.low <= self.reach
            self.rows, self.low, self.high = self.rows[kept], self.low[kept], self.high[kept]


def _nearest(
    values: NDArray[np.float32],
    queries: NDArray[np.float32],
    n: int,
    leave_out: Rows | None,
    metric: NDArray[np.float64] | None,
) -> list[tuple[Rows, NDArray[np.float64]]]:
    """Return the rows nearest to each of a few queries, and their distances."""
    none, nothing = np.empty(0, np.intp), np.empty(0, np.float32)
    found = [_Nearest(n, none, nothing, nothing) for _ in queries]
    # about a single query, whose neighbors then have no large numbers that cancel
    origin = queries[0] if len(queries) == 1 else np.zeros_like(queries[0])
    places = _measured(queries - origin, metric)
    lengths = np.einsum("ij,ij->i", places, places)
    error = _error(values.shape[1], metric)
    least = np.float32(1 - error)  # of the squared lengths that a squared distance is made of
    for start in range(0, len(values), ROWS):
        block = _measured(values[start : start + ROWS] - origin, metric)
        own = np.einsum("ij,ij->i", block, block)
        low = (own * least)[None, :] if len(queries) == 1 else _added((-2 * places) @ block.T, own * least)
        for k, nearby in enumerate(found):
            # rows of NaN are nowhere: no comparison with them is true
            hits = np.flatnonzero(low[k] <= nearby.reach - least * lengths[k])
            if leave_out is not None:
                hits = hits[start + hits != leave_out[k]]
            if len(hits):
                lowest = low[k][hits] + least * lengths[k]
                nearby.add(start + hits, lowest, lowest + 2 * error * (own[hits] + lengths[k]))
    return [_exact(values, queries[k], nearby, metric) for k, nearby in enumerate(found)]


def _exact(
    values: NDArray[np.float32], query: NDArray[np.float32], nearby: _Nearest, metric: NDArray[np.float64] | None
) -> tuple[Rows, NDArray[np.float64]]:
    """Return the nearest rows by float64."""
    difference = values[nearby.rows].astype(np.float64) - query.astype(np.float64)
    measured = difference if metric is None else difference @ metric
    distance = np.sqrt(np.einsum("ij,ij->i", measured, measured))
    order = np.lexsort((nearby.rows, distance))[: nearby.n]
    return nearby.rows[order], distance[order]


def _measured(values: NDArray[np.float32], metric: NDArray[np.float64] | None) -> NDArray[np.float32]:
    return values if metric is None else values @ metric.astype(np.float32)


def _added(values: NDArray[np.float32], more: NDArray[np.float32]) -> NDArray[np.float32]:
    values += more  # in place: these are large
    return values


def _error(size: int, metric: NDArray[np.float64] | None) -> float:
    """Return how wrong a squared distance in float32 may be, in units of the squared lengths that it is made of."""
    stretch = 1.0 if metric is None else float(np.linalg.cond(metric))
    return 4 * (size + 4) * float(np.finfo(np.float32).eps) * stretch
