"""Columns of DESI catalogs -> ids, keys and the columns of targets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError
from pipeline.surveys.block import Block
from pipeline.surveys.choosing import Candidates, Choice, Offer, candidates_of, choose_first
from pipeline.surveys.columns import Columns
from pipeline.surveys.desi.columns import COORDINATES
from pipeline.surveys.desi.keys import NAME, PIXELS
from pipeline.surveys.survey import Rows
from pipeline.surveys.values import read_text, read_whole

IDS = ("targetid", "survey", "program", "healpix")
"""What a spectrum is named by; a list of keys may stand for them."""

ALIASES = {name: each.aliases for name, each in COORDINATES.items()}

_NAME = re.compile(rf"{NAME}\Z")
_PARTS = rf"\A(?P<survey>{NAME})-(?P<program>{NAME})-(?P<healpix>[0-9]{{1,5}})-(?P<targetid>[0-9]{{1,19}})\z"


def candidates(available: Sequence[str], given: Mapping[str, str]) -> Candidates:
    """Return the columns that may become ours."""
    return candidates_of(ALIASES, available) | {ours: (theirs,) for ours, theirs in given.items()}


def choose(offer: Offer) -> Choice:
    """Choose the columns that become ours."""
    return choose_first(offer, IDS)


def to_rows(columns: Columns, names: Mapping[str, str], url: str) -> Rows:
    """Bring a block of a catalog to the names, types and fills of a target.

    survey and program are "", healpix is -1 where they are missing. Absent columns are filled: ra, dec,
    z_err and delta_chi2 are NaN, zwarning is -1 (unknown), class "". A list of keys says the ids. Raises ConfigError
    for ids and redshifts that are none.
    """
    block = Block(columns, names, url)
    ids = _of_keys(block) if "target" in names and "targetid" not in names else _of_columns(block)
    classes = block.column("class")
    with np.errstate(over="ignore"):
        table = pa.table(
            {
                **ids,
                "ra": block.numbers("ra"),
                "dec": block.numbers("dec"),
                "z": block.redshifts().astype(np.float32),
                "z_err": block.numbers("z_err").astype(np.float32),
                "zwarning": block.flags("zwarning"),
                "class": read_text(np.full(block.size, "") if classes is None else classes),
                "delta_chi2": block.numbers("delta_chi2").astype(np.float32),
            }
        )
    without = ids["targetid"] <= 0
    return Rows(table, {"TARGETID": without} if without.any() else {}, block.remarks)


def compose_keys(table: pa.Table) -> pa.ChunkedArray:
    """Compose the targets' keys, survey-program-healpix-targetid."""
    parts = [table[name].cast(pa.string()) for name in ("survey", "program", "healpix", "targetid")]
    return pc.binary_join_element_wise(*parts, "-")


def _of_columns(block: Block) -> dict[str, Any]:
    column = block.column("targetid")
    if column is None:
        raise ConfigError("CATALOG", block.url, "one TARGETID per row")
    healpix = block.ids("healpix")
    wrong = healpix >= PIXELS
    if wrong.any():
        block.refuse("healpix", block.columns[block.names["healpix"]], wrong, f"pixels below {PIXELS}, nside 64")
    survey, program = (_names(block, name) for name in ("survey", "program"))
    targetid = read_whole(column, block.names["targetid"])
    healpix = np.where(healpix >= 0, healpix, -1).astype(np.int32)
    return {"targetid": targetid, "survey": survey, "program": program, "healpix": healpix}


def _of_keys(block: Block) -> dict[str, Any]:
    """Take keys apart; a number alone is a TARGETID. Raises ConfigError for text that is neither."""
    column = block.columns[block.names["target"]]
    text = pc.utf8_lower(read_text(column).cast(pa.string()))
    found = pc.extract_regex(text, _PARTS)
    is_number = pc.match_substring_regex(text, r"\A[0-9]{1,19}\z")
    wrong = pc.and_(pc.is_null(found), pc.invert(is_number)).to_numpy(zero_copy_only=False)
    if wrong.any():
        block.refuse("target", column, wrong, COORDINATES["target"].example)
    parts = {name: pc.struct_field(found, name) for name in IDS}
    try:
        targetid = pc.if_else(is_number, text, parts["targetid"]).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise ConfigError(f"CATALOG column {block.names['target']}", str(error), "TARGETIDs of 63 bits") from error
    healpix = pc.fill_null(parts["healpix"].cast(pa.int32()), -1).to_numpy()
    if (healpix >= PIXELS).any():
        block.refuse("target", column, healpix >= PIXELS, f"keys with a pixel below {PIXELS}, nside 64")
    names = {name: pc.fill_null(parts[name], "") for name in ("survey", "program")}
    return {"targetid": targetid, **names, "healpix": healpix}


def _names(block: Block, ours: str) -> pa.Array:
    """Read names that become folders, in lower case, "" where missing. Raises ConfigError for others."""
    column = block.column(ours)
    text = read_text(np.full(block.size, "") if column is None else column)
    words = [word.lower() for word in text.dictionary.to_pylist()]
    for word in words:
        if word and not _NAME.match(word):
            raise ConfigError(f"CATALOG column {block.names[ours]}", word, COORDINATES[ours].example)
    return pa.DictionaryArray.from_arrays(text.indices, pa.array(words, pa.string())).cast(pa.string())
