"""The rarest spectra of a run, and why: ranked by the density of latents, or by what else there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RefusedError
from pipeline.results.latents import reasons
from pipeline.results.latents.found import IDENTITY, Found, made, read, require_number
from pipeline.results.latents.index import LatentIndex, StaleIndex
from pipeline.results.latents.neighbors import nearest
from pipeline.store.root import density_ledger

if TYPE_CHECKING:
    from pipeline.results.tables.table import ResultsTable

NEIGHBORS = 5
"""Neighbors whose mean distance is told: one alone may be the same object, observed again."""

DISTANCE = made("distance", "distance of the whitened latents from their mean")
NEIGHBOR_DISTANCE = made("neighbor_distance", f"mean distance of the whitened latents to the {NEIGHBORS} nearest")

DENSITY = ("log_prob", "log_prob_percentile")
RUNS = ("run_significance", "run_wavelength")

Scores = Callable[[int, int], NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class _Ranking:
    """What spectra are ranked by. name: of the column. scores: of the rows [start, stop), high for odd ones."""

    name: str
    scores: Scores


def find_outliers(table: ResultsTable, n: int, open_index: Callable[[], LatentIndex]) -> Found:
    """Return the n rarest spectra of a table, the rarest first; see `Run.outliers`."""
    require_number(n)
    known = {column.name for column in table.available}
    is_scored = "log_prob" in known and bool(density_ledger(table.root, table.plan, table.model.name).done())
    index, problem = _index(open_index)
    ranking = _ranking(table, known if is_scored else known - set(DENSITY), index)
    rows, left_out = _highest(table, ranking.scores, n)
    names = (*IDENTITY, *DENSITY, "chi2_n", "region_chi2", *RUNS, "quality", "quality_words")
    columns, values = read(table, rows, names)
    if index is not None:
        places = index.values[rows]
        found = nearest(index.values, places, NEIGHBORS, leave_out=rows)[1]
        columns += [DISTANCE, NEIGHBOR_DISTANCE]
        values[DISTANCE.name] = _lengths(places).astype(np.float32)
        values[NEIGHBOR_DISTANCE.name] = (found.mean(axis=1) if found.size else np.full(len(rows), np.nan)).astype(
            np.float32
        )
    if set(RUNS) <= set(values):
        further, own = reasons.run_columns(values)
        columns, values = [*columns, *further], {**values, **own}
    values[reasons.REASON.name] = np.array([reasons.in_words(values, i) for i in range(len(rows))], dtype=object)
    said = {"ranked_by": ranking.name, "left_out": str(left_out), "rows_not_done": str(table.n_left_out)}
    missing = _missing(known, problem, is_scored=is_scored)
    return Found(table, rows, [*columns, reasons.REASON], values, said | ({"missing": missing} if missing else {}))


def _index(open_index: Callable[[], LatentIndex]) -> tuple[LatentIndex | None, str]:
    """Return the index of the latents, or why there is none. Raises RefusedError for one that is out of date."""
    try:
        return open_index(), ""
    except StaleIndex:
        raise
    except RefusedError as error:
        return None, str(error)


def _ranking(table: ResultsTable, known: set[str], index: LatentIndex | None) -> _Ranking:
    """Return what tells odd spectra best of what there is: the density, then latents, the worst run, chi2.

    Chi2 alone is no good score: faint spectra fit anything.
    """

    def read_one(name: str) -> Scores:
        return lambda start, stop: table.read(start, stop, [name])[name].astype(np.float64)

    if "log_prob" in known:
        density = read_one("log_prob")
        return _Ranking("log_prob, lowest first", lambda start, stop: -density(start, stop))
    if index is not None:
        return _Ranking("distance, largest first", lambda start, stop: _lengths(index.values[start:stop]))
    if "run_significance" in known:
        runs = read_one("run_significance")
        return _Ranking("run_significance, farthest from 0 first", lambda start, stop: np.abs(runs(start, stop)))
    if "chi2_n" in known:
        return _Ranking("chi2_n, largest first", read_one("chi2_n"))
    problem = f"the run keeps nothing of {table.model.name} to rank spectra by"
    raise RefusedError("model", problem, "plan the model with the outputs latents, or chi2 and n_pixels")


def _highest(table: ResultsTable, scores: Scores, n: int) -> tuple[NDArray[np.intp], int]:
    """Return the rows of a table with the highest scores, the first of equal ones first, and how many have no score."""
    rows, best, left_out = np.empty(0, np.intp), np.empty(0), 0
    for start, stop in table.bounds:
        own = table.rows(start, stop)
        found = scores(start, stop)[own - start] if len(own) else np.empty(0)
        finite = np.isfinite(found)
        left_out += int((~finite).sum())
        least = best[-1] if len(best) == n else -np.inf
        own, found = own[finite & (found > least)], found[finite & (found > least)]
        rows, best = np.concatenate([rows, own]), np.concatenate([best, found])
        order = np.lexsort((rows, -best))[:n]
        rows, best = rows[order], best[order]
    if not len(rows):
        raise RefusedError("--where", "no spectrum that is done and has latents is chosen", "choose others")
    return rows, left_out


def _missing(known: set[str], problem: str, *, is_scored: bool) -> str:
    """Say which reasons there are not, and why."""
    parts = []
    if not set(DENSITY) <= known:
        parts.append(f"{', '.join(DENSITY)}: the run has no density of the latents")
    elif not is_scored:
        parts.append(f"{', '.join(DENSITY)}: the density has not been run yet")
    lacking = [name for name in ("chi2_n", "region_chi2", *RUNS) if name not in known]
    if lacking:
        parts.append(f"{', '.join(lacking)}: the run was planned without these outputs")
    if problem:
        parts.append(f"{DISTANCE.name}, {NEIGHBOR_DISTANCE.name}: {problem}")
    return "; ".join(parts)


def _lengths(values: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = values.astype(np.float64)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", wide, wide)))
