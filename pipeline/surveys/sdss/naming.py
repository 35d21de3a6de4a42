"""What names the spectra of a block of an SDSS catalog: numbers of their own, their SPECOBJID, or their key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import RefusedError
from pipeline.surveys.block import Block
from pipeline.surveys.sdss.ids import read_exact, read_run2d, read_specobjid
from pipeline.surveys.sdss.keys import FIBERS, MJDS, is_specobjid, read_keys
from pipeline.surveys.sdss.specobjid import ROUND, Outcome, SpecObjIds, take_apart
from pipeline.surveys.values import as_strings, read_numbers, read_text, read_whole

FIELD, CATALOGID = "field", "catalogid"
"""What SDSS-V's catalogs (DR18 and later) name a spectrum by, in the places of plate and fiberid."""

_NUMBERS = ("plate", "mjd", "fiberid")


@dataclass(frozen=True)
class RowIds:
    """What names the spectra of a block, shape (N,) each: -1, and "" for run2d, where it is missing.

    suggested: whether run2d is that of the SPECOBJID. is_dr7, is_round: whether the SPECOBJID is of DR7 or before, or
    has lost its last digits; both are replaced. lacking: which rows have no name, by what they lack, in words.
    """

    plate: NDArray[np.int64]
    mjd: NDArray[np.int64]
    fiber_or_catalogid: NDArray[np.int64]
    is_sdss_v: NDArray[np.bool_]
    run2d: pa.DictionaryArray
    suggested: NDArray[np.bool_]
    is_dr7: NDArray[np.bool_]
    is_round: NDArray[np.bool_]
    lacking: dict[str, NDArray[np.bool_]]


def ids_of(block: Block) -> RowIds:
    """Read what names the spectra of a block. Raises ConfigError for what names another spectrum, or none."""
    found = _of_sdss_v(block) if CATALOGID in block.names else _of_plates(block)
    is_named = (found.plate >= 0) & (found.mjd >= 0) & (found.fiber_or_catalogid >= 0)
    odd = is_named & ((found.mjd < MJDS[0]) | (found.mjd > MJDS[1]))
    _refuse_by_row(block, odd, lambda row: f"mjd {found.mjd[row]} is no night of the surveys ({MJDS[0]} to {MJDS[1]})")
    beyond = is_named & ~found.is_sdss_v & (found.fiber_or_catalogid > FIBERS[1])
    _refuse_by_row(block, beyond, lambda row: f"fiberid {found.fiber_or_catalogid[row]} is no fiber (1 to {FIBERS[1]})")
    return found


def _of_sdss_v(block: Block) -> RowIds:
    _refuse_epochs(block)
    column, none = block.column(CATALOGID), np.zeros(block.size, np.bool_)
    catalogid = block.ids("fiberid") if column is None else read_whole(column, block.names[CATALOGID])
    plate, mjd = block.ids("plate"), block.ids("mjd")
    lacking = _lacking(block, {"plate": plate, "mjd": mjd, "fiberid": catalogid})
    return RowIds(plate, mjd, catalogid, ~none, _run2d(block), none, none, none, lacking)


def _of_plates(block: Block) -> RowIds:
    """Read the numbers of rows, else those of their SPECOBJID, else of their key."""
    own = {ours: block.ids(ours) for ours in _NUMBERS}
    own = {ours: np.where(values > 0, values, -1) for ours, values in own.items()}
    run2d, is_whole = as_strings(_run2d(block)), _are_whole(own)
    given = _specobjids(block)
    parts = take_apart(given, **own)
    is_round = is_whole & (parts.outcome != Outcome.DR8) & _have_lost_digits(given, own)
    is_other = (parts.outcome > Outcome.NO_ID) & ~is_round
    is_other &= (parts.outcome != Outcome.SDSS_V) | ~is_whole | (run2d == "")
    _refuse_by_row(block, is_other, parts.problem)
    numbers = _filled(block, own, parts)
    suggested = (run2d == "") & (parts.run2d != "")
    run2d = np.where(suggested, parts.run2d, run2d)
    is_sdss_v = np.zeros(block.size, np.bool_)
    if "target" in block.names:
        run2d, is_sdss_v = _with_keys(block, numbers, run2d)
    return RowIds(
        plate=numbers["plate"],
        mjd=numbers["mjd"],
        fiber_or_catalogid=numbers["fiberid"],
        is_sdss_v=is_sdss_v,
        run2d=pa.array(run2d, pa.string()).dictionary_encode(),
        suggested=suggested,
        is_dr7=parts.outcome == Outcome.DR7,
        is_round=is_round,
        lacking=_lacking(block, numbers, parts),
    )


def _specobjids(block: Block) -> NDArray[np.uint64]:
    """Read the SPECOBJIDs of rows, 0 where missing: those of their column, or those that stand in place of keys."""
    column, keys = block.column("specobjid"), block.column("target")
    if column is not None or keys is None:
        return np.zeros(block.size, np.uint64) if column is None else read_exact(column)
    words = as_strings(read_text(keys))
    return read_exact(np.array([word if is_specobjid(word) else "" for word in words.tolist()], np.str_))


def _are_whole(numbers: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
    return np.asarray(np.all([values >= 0 for values in numbers.values()], axis=0))


def _have_lost_digits(ids: NDArray[np.uint64], numbers: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Tell ids that end in zeros where the numbers of the row give digits: spreadsheets keep 15 of them, or three."""
    plate, mjd, fiberid = (np.maximum(numbers[ours], 0).astype(np.uint64) for ours in _NUMBERS)
    day = np.where(mjd >= 50000, mjd - np.uint64(50000), np.uint64(0))
    without_run2d = plate << np.uint64(50) | fiberid << np.uint64(38) | day << np.uint64(24)
    lost = ids % np.uint64(ROUND) == 0
    away = np.where(ids > without_run2d, ids - without_run2d, without_run2d - ids)
    for zeros in range(3, 18):
        lost |= (ids % np.uint64(10**zeros) == 0) & (away <= np.uint64(max(10**zeros, 2**24)))
    return np.asarray(lost & (ids != 0))


def _filled(block: Block, own: Mapping[str, NDArray[np.int64]], parts: SpecObjIds) -> dict[str, NDArray[np.int64]]:
    """Complete the numbers of rows by their SPECOBJIDs, and say so."""
    filled = parts.usable & ~_are_whole(own)
    name = block.names.get("specobjid", "SPECOBJID")
    block.remark(f"named by their {name}, which PLATE, MJD and FIBERID are taken from", filled)
    what = f"with a {name} of DR7 or before: composed again from PLATE, MJD, FIBERID and RUN2D"
    block.remark(what, parts.outcome == Outcome.DR7)
    numbers = {}
    for ours, values in own.items():
        theirs: NDArray[np.int32] = getattr(parts, ours)
        numbers[ours] = np.where(filled & (values < 0), theirs.astype(np.int64), values)
    return numbers


def _with_keys(
    block: Block, numbers: dict[str, NDArray[np.int64]], run2d: NDArray[np.str_]
) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Complete numbers and reductions by the keys of rows; also say which of them are SDSS-V's. Raises RefusedError."""
    column = block.column("target")
    keys = read_keys(as_strings(read_text(np.full(block.size, "") if column is None else column)))
    is_named = _are_whole(numbers)
    has_key = np.asarray(pc.not_equal(keys.text, "").to_numpy(zero_copy_only=False))
    _refuse_by_row(block, has_key & ~keys.usable & ~is_named, keys.problem)
    plate, mjd = keys.plate.astype(np.int64), keys.mjd.astype(np.int64)
    theirs = {"plate": plate, "mjd": mjd, "fiberid": keys.fiber_or_catalogid}
    other = np.any([(values >= 0) & (values != theirs[ours]) for ours, values in numbers.items()], axis=0)
    _refuse_by_row(block, keys.usable & other, lambda row: f"{keys.text[row]} is not what the row's ids say")
    for ours, values in numbers.items():
        numbers[ours] = np.where(keys.usable & (values < 0), theirs[ours], values)
    return np.where((run2d == "") & keys.usable, keys.run2d, run2d), keys.is_sdss_v & ~is_named


def _refuse_by_row(block: Block, wrong: NDArray[np.bool_], problem: Callable[[int], str]) -> None:
    if wrong.any():
        count = int(wrong.sum())
        more = f"; so are {count - 1} more of its rows" if count > 1 else ""
        text = f"{problem(int(np.flatnonzero(wrong)[0]))}, in {block.url}{more}"
        raise RefusedError("CATALOG", text, "correct the rows, or select others with --where")


def _run2d(block: Block) -> pa.DictionaryArray:
    column = block.column("run2d")
    return read_run2d(np.full(block.size, "") if column is None else column)


def _lacking(
    block: Block, numbers: Mapping[str, NDArray[np.int64]], parts: SpecObjIds | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Return which rows lack what: ids by the catalog's name of their column, else why their SPECOBJID is none."""
    found = {ours: values < 0 for ours, values in numbers.items()}
    known = {ours: block.names[ours] for ours in found if ours in block.names}
    if known or parts is None or "specobjid" not in block.names:
        shown = {ours: known.get(ours, ours.upper()) for ours in found}
        if not known and "target" in block.names:
            found, shown = {"target": ~_are_whole(numbers)}, {"target": block.names["target"]}
        return {shown[ours]: rows for ours, rows in found.items() if rows.any()}
    name, nameless = block.names["specobjid"], ~_are_whole(numbers)
    ids = read_specobjid(block.columns[name], np.zeros(block.size, np.uint64))
    is_none = parts.outcome == Outcome.NO_ID
    first = int(np.flatnonzero(is_none)[0]) if is_none.any() else 0
    is_cut = ids.unreadable & ~is_none
    kinds = {
        f"{name} with all its digits, as 3.72E+18 has not: export it as text": is_cut,
        f"{name} of 64 bits": ids.beyond,
        f"{name} of a spectrum ({parts.problem(first)}; spreadsheets cut digits: export it as text)": is_none,
        name: ~is_cut & ~ids.beyond & ~is_none,
    }
    return {what: rows & nameless for what, rows in kinds.items() if (rows & nameless).any()}


def _refuse_epochs(block: Block) -> None:
    """Refuse coadds over several epochs, whose FIELD is a word such as allFPS: their files are elsewhere."""
    column = block.column("plate")
    unreadable = None if column is None else read_numbers(column)[1]
    if column is None or unreadable is None or not unreadable.any():
        return
    word = as_strings(read_text(column[unreadable][:1]))[0]
    problem = (
        f"{block.names['plate']} is {word} in {int(unreadable.sum())} of the rows of {block.url}: "
        "epoch coadds of SDSS-V are not read"
    )
    raise RefusedError(
        "CATALOG", problem, "take the catalog of the daily coadds, spAll, or select its rows with --where"
    )
