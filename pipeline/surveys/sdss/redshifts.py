"""Which column of an SDSS catalog is the redshift: `z` beside u, g, r and i is a magnitude."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RefusedError
from pipeline.surveys.choosing import Offer, are_same, base_of, chosen_text
from pipeline.surveys.values import read_numbers

MAGNITUDES = frozenset("ugri")
"""SDSS's filters, as joins with photometry name their magnitudes; z is the fifth."""

HIGHEST = 7.0
"""No sample of SDSS has redshifts with a median above it; magnitudes have."""

LOW = 1.5
"""A second `z` with a median below it is a redshift."""

_REMEDY = "name the column of redshifts with --column z=NAME"


def choose_z(offer: Offer) -> tuple[str, tuple[str, ...]]:
    """Return the column of redshifts, and what was decided in words.

    In this order: the user's; the only `z` of a table without magnitudes; redshift, zspec and the like; of several `z`
    those that are redshifts by their medians over the first rows; `z` beside magnitudes if its median says so. Raises
    RefusedError where none is a redshift, or several are.
    """
    theirs = offer.candidates["z"]
    medians = {name: _median(offer.first[name]) for name in theirs}
    named = [name for name in theirs if base_of(name) == "z"]
    others = [name for name in theirs if name not in named]
    beside = MAGNITUDES & {base_of(name) for name in offer.names}
    if "z" in offer.given or (len(named) == 1 and not beside):
        chosen = theirs[0]
    elif others:
        chosen = others[0]
    elif len(named) > 1:
        chosen = _of_several(named, medians, offer)
    else:
        chosen = named[0]
    remedy = "choose another column, or leave --column z out" if "z" in offer.given else _REMEDY
    if medians[chosen] > HIGHEST:
        what = f", a magnitude as {', '.join(sorted(beside))}" if beside and chosen in named else ""
        problem = f"column {chosen} of {offer.url} holds no redshifts: its median is {medians[chosen]:.4g}{what}"
        raise RefusedError("CATALOG", problem, remedy)
    rivals = [name for name in theirs if name != chosen]
    said = chosen_text("z", chosen, rivals)
    if not rivals and beside and chosen in named:
        median = "it has no value" if np.isnan(medians[chosen]) else f"its median is {medians[chosen]:.4g}"
        said += f", beside columns {', '.join(sorted(beside))}: {median}"
    return chosen, (said,)


def _of_several(named: Sequence[str], medians: dict[str, float], offer: Offer) -> str:
    """Choose among columns that a join gave one name."""
    if all(are_same(offer.first[named[0]], offer.first[name]) for name in named[1:]):
        return named[0]
    low = [name for name in named if medians[name] < LOW]
    possible = low or [name for name in named if medians[name] <= HIGHEST]
    if len(possible) == 1:
        return possible[0]
    if low:
        return next(name for name in named[1:] if name in low)
    shown = ", ".join(f"{name} (median {medians[name]:.4g})" for name in named)
    what = "several columns may be the redshift" if possible else "no column holds redshifts"
    raise RefusedError("CATALOG", f"{what} of {offer.url}: {shown}", _REMEDY)


def _median(column: NDArray[np.generic]) -> float:
    """Return the median of what is a redshift or a magnitude, not the -1 or -9999 of a missing one; NaN of nothing."""
    if column.ndim != 1:
        return float("nan")
    values = read_numbers(column)[0]
    present = values[np.isfinite(values) & (values > -1)]
    return float(np.median(present)) if len(present) else float("nan")
