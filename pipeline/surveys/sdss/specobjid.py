"""SPECOBJIDs taken apart: of 64 bits, by the layout of DR8 and later releases or by that of DR7 and before.

    bits from    63        50         38          24         10          0
    DR8+         plate 14 | fiber 12 | MJD-50000 14 | run2d 14 | 0 (10)         run2d v5_m_p as 100 m + p
    bits from    63        48         32         22        16            0
    DR7          plate 16 | MJD 16   | fiber 10 | type 6  | 0 (16)              type: of the target

Sources: sdss_specobjid of idlutils; cas.sdss.org/dr7/en/help/docs/algorithm.asp?key=objID.

No number is a spectrum's id by both: a DR7 id read as a later one has at most plate 877, where its run2d number is a
multiple of 64, which no reduction of such a plate has; a later one read as DR7's has four times its plate, and an MJD
above 51000 only with a fiber above 796, which are BOSS's, and so a plate above 14000. Should a reduction come that
breaks this, the ids that both layouts allow are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.surveys.sdss.ids import compose_specobjid
from pipeline.surveys.sdss.keys import FIBERS, MJDS
from pipeline.surveys.sdss.reductions import FIRST_BOSS_PLATE, FIRST_SEGUE2_PLATE, KNOWN

DR7_UNTIL = 54700
"""The nights of DR7 and before end earlier; those of SEGUE-2 begin here."""

_LEGACY_FIBERS = 640
ROUND = 10**9
"""Ids that are multiples of it were rounded, but for one of two million."""
_SDSS_V_FROM = 10000  # sdss_specobjid adds 10000 for v6
_OWN = ("plate", "mjd", "fiberid")


class Outcome(IntEnum):
    """What has become of an id."""

    DR8 = 0
    """Taken apart by the layout of DR8 and later."""
    DR7 = 1
    """Taken apart by DR7's layout; to be composed again."""
    MISSING = 2
    NO_ID = 3
    """By neither layout the id of a spectrum."""
    SDSS_V = 4
    """Of SDSS-V, whose files are named by catalogids, which its ids do not hold."""
    DISAGREES = 5
    """The id of another spectrum than the row's own numbers name."""
    AMBIGUOUS = 6


@dataclass(frozen=True)
class SpecObjIds:
    """SPECOBJIDs taken apart, shape (N,) each.

    ids: as given, uint64. outcome: int8, an `Outcome`. plate, mjd, fiberid: int32, 0 where the outcome is neither DR8
    nor DR7. run2d: "" there, and for DR7's, which hold none.
    """

    ids: NDArray[np.uint64]
    outcome: NDArray[np.int8]
    run2d: NDArray[np.str_]
    plate: NDArray[np.int32]
    mjd: NDArray[np.int32]
    fiberid: NDArray[np.int32]
    own: Mapping[str, NDArray[np.int64]]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which rows have a spectrum's id."""
        return np.asarray(self.outcome <= Outcome.DR7)

    def problem(self, row: int) -> str:
        """Say in words why a row's id cannot be used, "" where it can."""
        value = int(self.ids[row])
        later, before = _by_dr8(self.ids[row : row + 1]), _by_dr7(self.ids[row : row + 1])
        match Outcome(self.outcome[row]):
            case Outcome.MISSING:
                return "no SPECOBJID"
            case Outcome.NO_ID:
                return (
                    f"SPECOBJID {value} is no spectrum's: it says {later.words()}, run2d number {later.number[0]} by "
                    f"the layout of DR8 and later, and {before.words()} by DR7's"
                )
            case Outcome.SDSS_V:
                return f"SPECOBJID {value} is SDSS-V's, and does not hold the catalogid that its files are named by"
            case Outcome.DISAGREES:
                meant = later if later.is_consistent()[0] else before
                known = {name: int(values[row]) for name, values in self.own.items() if values[row] > 0}
                row_says = ", ".join(f"{name} {value}" for name, value in known.items())
                return f"SPECOBJID {value} is of {meant.words()}, but the row says {row_says}"
            case Outcome.AMBIGUOUS:
                return f"SPECOBJID {value} may be {later.words()} by DR8's layout, or {before.words()} by DR7's"
        return ""


def take_apart(
    ids: NDArray[np.uint64],
    plate: NDArray[np.integer] | None = None,
    mjd: NDArray[np.integer] | None = None,
    fiberid: NDArray[np.integer] | None = None,
) -> SpecObjIds:
    """Take SPECOBJIDs apart by the layout that gives a real spectrum and agrees with the row's own numbers.

    ids: shape (N,), as `read_specobjid` gives them; 0, and -1 as unsigned, are missing. plate, mjd, fiberid: the row's
    own, shape (N,), where the catalog has them; what is not positive is missing. A spectrum is real with a fiber from
    1 to 1000, an MJD from 51000 to 63000 and, by DR8's layout, a reduction that has served such a plate.
    """
    own = {
        name: np.asarray(values, np.int64)
        for name, values in zip(_OWN, (plate, mjd, fiberid), strict=True)
        if values is not None
    }
    later, before = _by_dr8(ids), _by_dr7(ids)
    real = [each.is_consistent() for each in (later, before)]
    fits = [is_real & each.agrees(own) for is_real, each in zip(real, (later, before), strict=True)]
    outcome = np.select(
        [(ids == 0) | (ids == 2**64 - 1), fits[0] & fits[1], fits[0], fits[1], real[0] | real[1], later.is_sdss_v()],
        [Outcome.MISSING, Outcome.AMBIGUOUS, Outcome.DR8, Outcome.DR7, Outcome.DISAGREES, Outcome.SDSS_V],
        Outcome.NO_ID,
    ).astype(np.int8)

    def chosen(from_later: NDArray[np.int64], from_before: NDArray[np.int64]) -> NDArray[np.int32]:
        either = np.where(outcome == Outcome.DR8, from_later, from_before)
        return np.where(outcome <= Outcome.DR7, either, 0).astype(np.int32)

    return SpecObjIds(
        ids,
        outcome,
        np.where(outcome == Outcome.DR8, _names_of(later.number), ""),
        chosen(later.plate, before.plate),
        chosen(later.mjd, before.mjd),
        chosen(later.fiberid, before.fiberid),
        own,
    )


@dataclass(frozen=True)
class _Reading:
    """What ids say by one layout, int64, shape (N,) each. number: run2d's, 0 for DR7's. rest: bits that must be 0.

    is_round: whether the id ends in so many zeros that a spreadsheet has rounded it.
    """

    plate: NDArray[np.int64]
    mjd: NDArray[np.int64]
    fiberid: NDArray[np.int64]
    number: NDArray[np.int64]
    rest: NDArray[np.int64]
    is_round: NDArray[np.bool_]
    is_dr7: bool

    def is_consistent(self) -> NDArray[np.bool_]:
        """Whether these are the numbers of a spectrum."""
        is_boss = self.plate >= FIRST_BOSS_PLATE
        real = (self.plate > 0) & (self.rest == 0) & _within(self.mjd, MJDS)
        if self.is_dr7:
            real &= (self.plate < FIRST_SEGUE2_PLATE) & (self.mjd < DR7_UNTIL) & ~self.is_round
            real &= _within(self.fiberid, (1, _LEGACY_FIBERS))
        else:
            has_served = np.where(is_boss, np.isin(self.number, _BOSS), np.isin(self.number, _LEGACY))
            real &= _within(self.fiberid, FIBERS) & has_served
        return np.asarray(real)

    def is_sdss_v(self) -> NDArray[np.bool_]:
        return np.asarray((self.number >= _SDSS_V_FROM) & (self.rest == 0) & _within(self.mjd, MJDS))

    def agrees(self, own: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Whether each of the row's own numbers is this one, or missing."""
        found = np.ones(len(self.plate), np.bool_)
        for name, values in own.items():
            found &= (values <= 0) | (values == getattr(self, name))
        return found

    def words(self) -> str:
        return f"{self.plate[0]}-{self.mjd[0]}-{self.fiberid[0]}"


def _by_dr8(ids: NDArray[np.uint64]) -> _Reading:
    mjd, is_round = _bits(ids, 24, 14) + 50000, ids % np.uint64(ROUND) == 0
    numbers = _bits(ids, 50, 14), mjd, _bits(ids, 38, 12), _bits(ids, 10, 14), _bits(ids, 0, 10)
    return _Reading(*numbers, is_round, is_dr7=False)


def _by_dr7(ids: NDArray[np.uint64]) -> _Reading:
    no_number, is_round = np.zeros(len(ids), np.int64), ids % np.uint64(ROUND) == 0
    numbers = _bits(ids, 48, 16), _bits(ids, 32, 16), _bits(ids, 22, 10), no_number, _bits(ids, 0, 16)
    return _Reading(*numbers, is_round, is_dr7=True)


def _bits(ids: NDArray[np.uint64], start: int, count: int) -> NDArray[np.int64]:
    return ((ids >> np.uint64(start)) & np.uint64(2**count - 1)).astype(np.int64)


def _within(values: NDArray[np.int64], limits: tuple[int, int]) -> NDArray[np.bool_]:
    return (values >= limits[0]) & (values <= limits[1])


def _number_of(run2d: str) -> int:
    """Return the number that stands for a reduction in ids: what composing one with nothing else leaves."""
    zero = np.zeros(1, np.int32)
    return int(compose_specobjid(np.array([run2d]), zero, zero + 50000, zero)[0]) >> 10


_NAMES = {_number_of(name): name for name in KNOWN}
_LEGACY = [number for number, name in _NAMES.items() if name.isdecimal()]
_BOSS = [number for number in _NAMES if number not in _LEGACY]


def _names_of(numbers: NDArray[np.int64]) -> NDArray[np.str_]:
    """Name reductions by their numbers, "" for one that is unknown."""
    known = np.array(sorted(_NAMES))
    names = np.array([_NAMES[number] for number in known.tolist()] + [""])
    places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    return np.asarray(names[np.where(known[places] == numbers, places, len(known))])
