"""The spectra whose latents are most like those of one spectrum, or like some latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, RefusedError
from pipeline.results.latents.found import IDENTITY, Found, made, read, require_number
from pipeline.results.latents.neighbors import metric_of, nearest

if TYPE_CHECKING:
    from pipeline.results.latents.index import LatentIndex
    from pipeline.results.tables.table import ResultsTable

DISTANCE = made("distance", "distance of the latents, in the units that the table says")

NAMES = (*IDENTITY, "log_prob", "chi2_n", "quality", "quality_words")


def find_similar(
    table: ResultsTable,
    n: int,
    index: LatentIndex,
    row: int | None,
    latents: Sequence[float] | NDArray[Any] | None,
) -> Found:
    """Return the n spectra nearest to a row of the run, or to latents, the nearest first; see `Run.similar`."""
    require_number(n)
    if row is None:
        query, metric = index.whiten(_checked(latents, index.values.shape[1])), None
    else:
        query = index.values[row]
        if not np.isfinite(query).all():
            target = str(table.at(np.array([row]), ["target"])["target"][0])
            problem = f"{target} has no finite latents of {table.model.name}"
            raise RefusedError("id", problem, "see its quality, or finish the run")
        metric = _own_metric(table, row, index)
    own = None if row is None else np.array([row])
    rows, distance = nearest(index.values, query[None], n, leave_out=own, metric=metric)
    if not rows.size:
        problem = f"no other spectrum has finite latents of {table.model.name}"
        raise RefusedError("similar", problem, "finish the run, or take a larger one")
    columns, values = read(table, rows[0], NAMES)
    values[DISTANCE.name] = distance[0].astype(np.float32)
    units = "whitened latents" if metric is None else "errors of the latents of the query (latents_cov)"
    said = {"distance_in": units, "rows_not_done": str(index.not_done), "rows_not_finite": str(index.not_finite)}
    return Found(table, rows[0], [columns[0], DISTANCE, *columns[1:]], values, said)


def _checked(latents: Sequence[float] | NDArray[Any] | None, size: int) -> NDArray[np.float64]:
    try:
        found = np.asarray(latents, np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (size,) or not np.isfinite(found).all():
        raise ConfigError("latents", latents, f"{size} finite numbers, the latents of a spectrum")
    return found


def _own_metric(table: ResultsTable, row: int, index: LatentIndex) -> NDArray[np.float64] | None:
    """Return the metric of a spectrum's own errors, None where the run has none of it."""
    if "latents_cov" not in table.model.variables:
        return None
    packed = table.at(np.array([row]), ["latents_cov"])["latents_cov"][0]
    size = index.values.shape[1]
    covariance = np.zeros((size, size))
    covariance[np.tril_indices(size)] = packed
    return metric_of(covariance + np.tril(covariance, -1).T, index.whitening)
