"""Which columns of a catalog become ours: by aliases, where several would do by what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RefusedError
from pipeline.surveys.columns import Columns
from pipeline.surveys.values import as_strings, read_numbers, read_text

Candidates = dict[str, tuple[str, ...]]
"""Our names -> the columns of a catalog that may be it, the preferred first."""

JOINED = ("_1", "_2", "_3", "_x", "_y", ".1")
"""What joins put behind the names of columns that both tables have (TOPCAT, astropy, pandas, and `unique_names`)."""


@dataclass(frozen=True)
class Offer:
    """What a catalog offers.

    names: of all its columns. candidates: those that may become ours. given: ours that the user chose. first: the first
    rows of the candidates.
    """

    url: str
    names: Sequence[str]
    candidates: Candidates
    first: Columns
    given: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """Which columns become ours. names: ours -> the catalog's. said: what a user should know of it, a line each."""

    names: Mapping[str, str]
    said: tuple[str, ...] = field(default=())


def base_of(name: str) -> str:
    """Return a name in lower case, without what a join put behind it."""
    lower = name.lower()
    return next((lower.removesuffix(ending) for ending in JOINED if lower.endswith(ending)), lower)


def candidates_of(aliases: Mapping[str, Sequence[str]], available: Sequence[str]) -> Candidates:
    """Return the columns that may become ours: by their names in any case, then by those without a join's endings."""
    found = {}
    for ours, names in aliases.items():
        exact = [each for alias in names for each in available if each.lower() == alias]
        known = {name.lower() for name in exact}
        joined = [each for alias in names for each in available if each.lower() not in known and base_of(each) == alias]
        if exact or joined:
            found[ours] = tuple(dict.fromkeys([*exact, *joined]))
    return found


def choose_first(offer: Offer, ids: Sequence[str] = ()) -> Choice:
    """Choose the preferred candidate of each of ours.

    ids: ours that name a spectrum: two columns for one of them must hold the same. Raises RefusedError, naming both.
    """
    names, said = {}, []
    for ours, theirs in offer.candidates.items():
        chosen, *rivals = theirs
        names[ours] = chosen
        twins = [each for each in rivals if base_of(each) == base_of(chosen)]
        different = [each for each in twins if not are_same(offer.first[chosen], offer.first[each])]
        if ours in ids and different:
            kind = "differ only in case" if different[0].lower() == chosen.lower() else "hold different values"
            problem = f"the columns {chosen} and {different[0]} of {offer.url} {kind}"
            raise RefusedError("CATALOG", problem, f"choose one with --column {ours}=NAME")
        if ours in offer.given or different or (ours in ids and base_of(chosen) != ours):
            said.append(chosen_text(ours, chosen, different))
    return Choice(names, tuple(said))


def chosen_text(ours: str, chosen: str, rivals: Sequence[str] = ()) -> str:
    """Say which column was chosen, and which were not."""
    return f"{ours} from column {chosen}" + (f", not {', '.join(rivals)}" if rivals else "")


def are_same(left: NDArray[np.generic], right: NDArray[np.generic]) -> bool:
    """Whether two columns hold the same values, whatever their types are."""
    if left.ndim != 1 or right.ndim != 1:
        return False
    (a, odd_a), (b, odd_b) = read_numbers(left), read_numbers(right)
    if odd_a.any() or odd_b.any():
        return bool(np.array_equal(as_strings(read_text(left)), as_strings(read_text(right))))
    return bool(np.array_equal(a, b, equal_nan=True))
