"""Columns of SDSS catalogs -> ids, keys and the columns of targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import RefusedError
from pipeline.surveys.block import Block
from pipeline.surveys.choosing import Candidates, Choice, Offer, candidates_of, choose_first
from pipeline.surveys.columns import Columns
from pipeline.surveys.sdss.columns import COORDINATES
from pipeline.surveys.sdss.ids import compose_specobjid, plain_run2ds, read_exact, read_specobjid
from pipeline.surveys.sdss.naming import CATALOGID, FIELD, RowIds, ids_of
from pipeline.surveys.sdss.redshifts import choose_z
from pipeline.surveys.survey import Rows
from pipeline.surveys.values import read_numbers, read_text

FURTHER = (CATALOGID,)
"""What a user may name a column of, beside the coordinates."""

TEXTS = {"run2d": plain_run2ds, "class": read_text}
"""How text is read, for conditions."""

IDS = ("plate", "mjd", "fiberid", "run2d")
"""What a spectrum is named by."""

ALIASES = {
    **{name: tuple(alias for alias in each.aliases if alias != FIELD) for name, each in COORDINATES.items()},
    FIELD: (FIELD,),
    CATALOGID: (CATALOGID,),
}


def candidates(available: Sequence[str], given: Mapping[str, str]) -> Candidates:
    """Return the columns that may become ours.

    SDSS-V's FIELD and CATALOGID may stand in the places of PLATE and FIBERID.
    """
    found = candidates_of(ALIASES, available) | {ours: (theirs,) for ours, theirs in given.items()}
    is_plate = "plate" in found and "fiberid" in found
    if CATALOGID not in found or (is_plate and FIELD not in found and CATALOGID not in given):
        return {ours: theirs for ours, theirs in found.items() if ours not in (FIELD, CATALOGID)}
    stand_ins = {"plate": found.get(FIELD), "fiberid": found[CATALOGID]}
    return {**{ours: theirs for ours, theirs in stand_ins.items() if theirs}, **found}


def choose(offer: Offer) -> Choice:
    """Choose the columns that become ours, the redshift by `choose_z`."""
    theirs = offer.candidates
    others = {ours: each for ours, each in theirs.items() if ours not in ("z", FIELD, CATALOGID)}
    # classes that are numbers are photometry's
    words = tuple(each for each in theirs.get("class", ()) if not _are_numbers(offer.first[each]))
    others = {ours: words if ours == "class" else each for ours, each in others.items() if words or ours != "class"}
    is_sdss_v = _is_sdss_v(offer)
    if is_sdss_v and FIELD in theirs and "plate" not in offer.given:
        others["plate"] = theirs[FIELD]
    ids = tuple(ours for ours in IDS if not (is_sdss_v and ours in ("plate", "fiberid")))
    choice = choose_first(Offer(offer.url, offer.names, others, offer.first, offer.given), ids)
    names, said = dict(choice.names), choice.said
    if is_sdss_v:
        names["fiberid"] = names[CATALOGID] = theirs[CATALOGID][0]
    if "z" in theirs:
        names["z"], about = choose_z(offer)
        said = (*about, *said)
    return Choice(names, said)


def _are_numbers(column: NDArray[Any]) -> bool:
    values, unreadable = read_numbers(column)
    return not unreadable.any() and bool(np.isfinite(values).any())


def _is_sdss_v(offer: Offer) -> bool:
    """Tell catalogs of SDSS-V; some have PLATE and FIBERID as well, -1 in every row."""
    theirs = offer.candidates
    if CATALOGID not in theirs or "plate" not in theirs:
        return CATALOGID in theirs
    if CATALOGID in offer.given or theirs["fiberid"] == theirs[CATALOGID] or theirs["plate"] == theirs.get(FIELD):
        return True
    plates = offer.first[theirs["plate"][0]]
    return plates.ndim == 1 and not (read_numbers(plates)[0] > 0).any()


def to_rows(columns: Columns, names: Mapping[str, str], url: str) -> Rows:
    """Bring a block of a catalog to the names, types and fills of a target, `last` for the last part of its key.

    SDSS-V's field becomes the plate, its catalogid the last part of the key, fiberid is 0. Absent columns are filled:
    specobjid is composed from the ids (0 where the release has none), ra, dec, z_err and sn_median are NaN, zwarning is
    -1 (unknown), class "". So are values of these that cannot be read, which is remarked. Raises ConfigError for ids
    and redshifts that are none.
    """
    block = Block(columns, names, url)
    _require_single(block)
    ids = ids_of(block)
    plate, mjd = (np.maximum(values, 0).astype(np.int32) for values in (ids.plate, ids.mjd))
    fiberid = np.where(ids.is_sdss_v, 0, np.maximum(ids.fiber_or_catalogid, 0)).astype(np.int32)
    composed = np.where(ids.is_sdss_v, np.uint64(0), compose_specobjid(ids.run2d, plate, mjd, fiberid))
    classes = block.column("class")
    with np.errstate(over="ignore"):
        table = pa.table(
            {
                "specobjid": _specobjids(block, composed, ids),
                "plate": plate,
                "mjd": mjd,
                "fiberid": fiberid,
                "fiber_or_catalogid": ids.fiber_or_catalogid,
                "run2d": ids.run2d,
                "ra": block.numbers("ra"),
                "dec": block.numbers("dec"),
                "z": block.redshifts().astype(np.float32),
                "z_err": block.numbers("z_err").astype(np.float32),
                "zwarning": block.flags("zwarning"),
                "class": read_text(np.full(block.size, "") if classes is None else classes),
                "sn_median": block.numbers("sn_median").astype(np.float32),
            }
        )
    return Rows(table, ids.lacking, block.remarks, ids.suggested)


def _require_single(block: Block) -> None:
    for ours in (*IDS, "z"):
        if ours in block.names and block.column(ours) is None:
            problem = f"CATALOG column {block.names[ours]} of {block.url} does not hold one number or text per row"
            raise RefusedError("CATALOG", problem, "choose another catalog, or give the column a single value per row")


def _specobjids(block: Block, composed: NDArray[np.uint64], ids: RowIds) -> NDArray[np.uint64]:
    """Return the SPECOBJIDs given, or composed where there is none of DR8 and later; 0 where none can be composed."""
    column = block.column("specobjid")
    if column is None:
        return composed
    found = read_specobjid(column, composed)
    block.remark("with a SPECOBJID above 64 bits, stored as 0", found.beyond)
    instead = "stored as 0" if CATALOGID in block.names else "composed from PLATE, MJD, FIBERID and RUN2D instead"
    text = f"with a {block.names['specobjid']} that is no whole number, or has lost its digits as 3.72E+18: {instead}"
    is_round = ids.is_round & (found.ids != composed)
    block.remark(text, (found.unreadable & (read_exact(column) != composed)) | is_round)
    is_replaced = (ids.is_dr7 | is_round) & (composed != 0)
    is_of_another = (composed != 0) & ((found.ids ^ composed) >> np.uint64(24) == 0) & (found.ids != composed)
    block.remark(
        f"with a {block.names['specobjid']} of another reduction than RUN2D says", is_of_another & ~is_replaced
    )
    return np.where(is_replaced, composed, found.ids)


def compose_keys(table: pa.Table) -> pa.ChunkedArray:
    """Compose the targets' keys, run2d/plate-mjd-last."""
    numbers = [table[name].cast(pa.string()) for name in ("plate", "mjd", "fiber_or_catalogid")]
    key = pc.binary_join_element_wise(*numbers, "-")
    return pc.binary_join_element_wise(table["run2d"].cast(pa.string()), key, "/")
