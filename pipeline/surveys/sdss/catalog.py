"""Columns of SDSS catalogs -> ids, keys and the columns of targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.columns import Columns
from pipeline.surveys.sdss.columns import COORDINATES
from pipeline.surveys.sdss.ids import compose_specobjid, read_catalogids, read_run2d, read_specobjid, read_text

ALIASES = {**{name: each.aliases for name, each in COORDINATES.items() if each.aliases}, "catalogid": ("catalogid",)}
REQUIRED = tuple(name for name, each in COORDINATES.items() if each.required)
SDSS_V = {"plate": "field", "fiberid": "catalogid"}
"""What SDSS-V's catalogs (DR18 and later) name a spectrum by, in the places of plate and fiberid."""


def choose_columns(available: Sequence[str], url: str) -> dict[str, str]:
    """Map our column names to the catalog's, as far as it has them."""
    by_lower: dict[str, str] = {}
    for name in available:
        if name.lower() in by_lower and any(name.lower() in names for names in ALIASES.values()):
            problem = f"the columns {by_lower[name.lower()]} and {name} of {url} differ only in case"
            raise RefusedError("CATALOG", problem, "remove one of them")
        by_lower.setdefault(name.lower(), name)
    found = {ours: [by_lower[alias] for alias in names if alias in by_lower] for ours, names in ALIASES.items()}
    chosen = {ours: names[0] for ours, names in found.items() if names}
    if not {"plate", "fiberid"} <= by_lower.keys() and set(SDSS_V.values()) <= by_lower.keys():
        return {**chosen, **{ours: by_lower[theirs] for ours, theirs in SDSS_V.items()}}
    chosen.pop("catalogid", None)
    if "plate" not in by_lower:
        chosen.pop("plate", None)
    return chosen


def to_table(columns: Columns, url: str) -> pa.Table:
    """Bring a block of a catalog to the names, types and fills of a target, `last` for the last part of its key.

    A catalog with FIELD and CATALOGID in the place of PLATE and FIBERID is SDSS-V's: field becomes the plate, catalogid
    the last part of the key, fiberid is 0. Absent columns are filled: specobjid is composed from the ids (0 where the
    release has none), ra, dec, z_err and sn_median are NaN, zwarning is -1 (unknown), class "".
    """
    chosen = choose_columns(list(columns), url)
    names = {ours: name for ours, name in chosen.items() if columns[name].ndim == 1}
    for ours in REQUIRED:
        if ours not in names:
            problem = f"CATALOG column {chosen[ours]} of {url} does not hold one number or text per row"
            raise RefusedError("CATALOG", problem, "choose another catalog, or give the column a single value per row")
    is_sdss_v = names["fiberid"].lower() == SDSS_V["fiberid"]
    size = len(next(iter(columns.values())))

    def numbers(ours: str) -> NDArray[np.float64]:
        if ours not in names:
            return np.full(size, np.nan)
        column = columns[names[ours]]
        try:
            return np.asarray(np.ma.filled(column.astype(np.float64), np.nan))
        except ValueError as error:
            raise ConfigError(f"CATALOG column {names[ours]}", url, "numbers", str(error)) from error

    def integers(ours: str, fill: int | None = None) -> NDArray[np.int32]:
        values = numbers(ours)
        if fill is not None:
            values = np.where(np.isfinite(values), values, fill)
        wrong = ~((np.abs(values) < 2**31) & (values == np.floor(values)))
        if fill is None:
            wrong |= values < 0
        if wrong.any():
            example = values[wrong][0]
            raise ConfigError(f"CATALOG column {names[ours]}", float(example), "whole numbers that fit 32 bits")
        return values.astype(np.int32)

    plate, mjd = integers("plate"), integers("mjd")
    fiber_or_catalogid = (
        read_catalogids(columns[names["fiberid"]], names["fiberid"]) if is_sdss_v else integers("fiberid")
    )
    fiberid = np.zeros(size, np.int32) if is_sdss_v else fiber_or_catalogid.astype(np.int32)
    run2d = read_run2d(columns[names["run2d"]])
    composed = np.zeros(size, np.uint64) if is_sdss_v else compose_specobjid(run2d, plate, mjd, fiberid)
    specobjid, is_beyond = composed, np.zeros(size, np.bool_)
    if "specobjid" in names:
        specobjid, is_beyond = read_specobjid(columns[names["specobjid"]], composed)
    with np.errstate(over="ignore"):
        return pa.table(
            {
                "specobjid": specobjid,
                "plate": plate,
                "mjd": mjd,
                "fiberid": fiberid,
                "fiber_or_catalogid": fiber_or_catalogid.astype(np.int64),
                "run2d": run2d,
                "ra": numbers("ra"),
                "dec": numbers("dec"),
                "z": numbers("z").astype(np.float32),
                "z_err": numbers("z_err").astype(np.float32),
                "zwarning": integers("zwarning", fill=-1),
                "class": read_text(columns[names["class"]] if "class" in names else np.full(size, "")),
                "sn_median": numbers("sn_median").astype(np.float32),
                "beyond": is_beyond,
            }
        )


def compose_keys(table: pa.Table) -> pa.ChunkedArray:
    """Compose the targets' keys, run2d/plate-mjd-last."""
    numbers = [table[name].cast(pa.string()) for name in ("plate", "mjd", "fiber_or_catalogid")]
    key = pc.binary_join_element_wise(*numbers, "-")
    return pc.binary_join_element_wise(table["run2d"].cast(pa.string()), key, "/")


def remarks(table: pa.Table) -> dict[str, int]:
    """Return what a user should know of the ids."""
    return {"with a SPECOBJID above 64 bits, stored as 0": int(pc.sum(table["beyond"]).as_py())}
