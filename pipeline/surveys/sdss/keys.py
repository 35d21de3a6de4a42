"""Keys of SDSS targets: run2d/plate-mjd-fiberid, or run2d/field-mjd-catalogid for SDSS-V; and how people write them.

Plate, MJD and fiber alone leave the reduction open:  751-52251-160
with it:                                              26/266-51602-1
a file's name, or its path, whose folders name it:    spec-0266-51602-0001.fits
DR7's files name the MJD first:                       spSpec-52591-1070-072.fit
SDSS-V: field (also 17057p, 017057), MJD, catalogid:  v6_1_3/17057-59631-27021598108289694
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.surveys.values import MISSING

FIBERS, MJDS = (1, 1000), (51000, 63000)
"""First and last fiber of a plate, and the nights of the surveys, with room for those to come."""

RUN2D = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""A reduction's name, as a pattern: it becomes a folder of every path, and nothing but one folder."""

KEY = rf"({RUN2D})/([0-9]{{1,10}})-([0-9]{{1,10}})-([0-9]{{1,19}})"
"""A target's key, as a pattern: run2d/plate-mjd-fiberid, or run2d/field-mjd-catalogid."""

_RUN2D = re.compile(rf"{RUN2D}\Z")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]*)?([eE]\+?[0-9]{1,2})?\Z")
_KEY = re.compile(rf"{KEY}\Z")
_SPECOBJID = re.compile(r"-?[0-9]{17,20}\Z")
SDSS_V = re.compile(r"v6_(\d+)_(\d+)\Z")


class Ids(NamedTuple):
    """What a target's key says: reduction, plate (SDSS-V: field), MJD, fiber (SDSS-V: catalogid)."""

    run2d: str
    plate: int
    mjd: int
    fiber_or_catalogid: int


def is_sdss_v(run2d: str) -> bool:
    """Whether a reduction names its spectra by field, MJD and catalogid (DR18 and later)."""
    return SDSS_V.match(run2d) is not None


def plain_run2d(value: object) -> str:
    """Return a reduction's name as paths have it, whatever held it: 26, 26.0, "026", b"26 " and "2.6E+01" are "26".

    Other text is only stripped; None, NaN, and the 0 and -1 of what filled a gap are "".
    """
    text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip(" \t\r\n\0")
    if value is None or text.lower() in MISSING:
        return ""
    if _NUMBER.match(text) and float(text).is_integer():
        text = str(int(float(text)))
    return "" if text in ("0", "-1", "-1.0") else text


def require_run2d(run2d: str) -> None:
    """Refuse what is not the name of a reduction. Raises ConfigError."""
    if not _RUN2D.match(run2d):
        raise ConfigError("run2d", run2d, "the name of a reduction, such as 26 or v5_13_2")


def ids_of(target: str) -> Ids:
    """Take a target's key, `run2d/plate-mjd-fiberid` or `run2d/field-mjd-catalogid`, apart. Raises ConfigError."""
    parts = _KEY.match(target)
    if parts is None:
        raise ConfigError("target", target, "a key such as 26/266-51602-1")
    return Ids(parts[1], int(parts[2]), int(parts[3]), int(parts[4]))


EXAMPLES = "751-52251-160, 26/266-51602-1, spec-0266-51602-0001 or v6_1_3/17057-59631-27021598108289694"

_FOLDERS = r"(?:[^\s,;|\"']*/)?"  # no cells of a table
_ENDING = r"(?:\.(?i:fits?)(?:\.(?i:gz|bz2))?)?"
_WRITTEN = (
    rf"^(?:{_FOLDERS}redux/(?P<folder>{RUN2D})/{_FOLDERS}|(?P<run2d>{RUN2D})/|{_FOLDERS})?"
    rf"(?:(?i:spec)-)?(?P<first>[0-9]{{1,10}})[pP]?-(?P<second>[0-9]{{1,10}})-(?P<third>[0-9]{{1,19}}){_ENDING}$"
)
_DR7_FILE = (
    rf"^{_FOLDERS}(?i:spSpec)-(?P<second>[0-9]{{1,10}})-(?P<first>[0-9]{{1,10}})-(?P<third>[0-9]{{1,10}}){_ENDING}$"
)
FIRST_CATALOGID = 2**31
"""Catalogids are above it, fibers at most 1000; what lies between is neither."""

_SPACE = " \t\r\n\0\ufeff"


@dataclass(frozen=True)
class KeyList:
    """Keys taken apart, shape (N,) each.

    run2d: "" where the key does not name it. plate (SDSS-V: field), mjd: int32. fiber_or_catalogid: int64. is_sdss_v:
    whether it is a catalogid. All are 0 where the key is unusable. text: the keys as given.
    """

    text: pa.StringArray
    run2d: NDArray[np.str_]
    plate: NDArray[np.int32]
    mjd: NDArray[np.int32]
    fiber_or_catalogid: NDArray[np.int64]
    is_sdss_v: NDArray[np.bool_]
    usable: NDArray[np.bool_]

    def problem(self, row: int) -> str:
        """Say in words why a row's key cannot be used, "" where it can."""
        if self.usable[row]:
            return ""
        text = self.text[row].as_py()
        if not text:
            return "no key"
        parts = _matched(pa.array([text]))
        plate, mjd, last = (int(parts[name][0] or -1) for name in _NUMBERS)
        if last < 0:
            return f"{text!r} is no key, such as {EXAMPLES}"
        if not MJDS[0] <= mjd <= MJDS[1]:
            return f"{text!r} has the MJD {mjd}, expected {MJDS[0]} to {MJDS[1]}: keys are PLATE-MJD-FIBER"
        if not 0 < plate < 2**31:
            return f"{text!r} has the plate {plate}, expected a number above 0 that fits 32 bits"
        if FIBERS[0] <= last <= FIBERS[1]:
            return f"{text!r} names a reduction of SDSS-V, whose keys end in a catalogid, and ends in a fiber"
        return f"{text!r} has the last number {last}, expected a fiber from 1 to 1000, or a catalogid of SDSS-V"


def read_keys(column: NDArray[np.str_] | NDArray[np.bytes_] | NDArray[np.object_] | pa.Array) -> KeyList:
    """Take a column of keys apart. column: text or bytes, shape (N,); spaces around a key are ignored."""
    text = pc.utf8_trim(pc.fill_null(pa.array(column).cast(pa.string()), ""), _SPACE)
    parts = _matched(text)
    numbers = {name: _whole(parts[name]) for name in ("first", "second", "third")}
    reductions = {name: plain_run2d(name) for name in set(parts["run2d"])}
    run2d = np.array([reductions[name] for name in parts["run2d"]], dtype=np.str_)
    of_sdss_v = np.char.startswith(run2d, "v6_")
    last = numbers["third"]
    is_fiber, is_catalogid = (last >= FIBERS[0]) & (last <= FIBERS[1]), last >= FIRST_CATALOGID
    usable = (numbers["second"] >= MJDS[0]) & (numbers["second"] <= MJDS[1])
    usable &= (numbers["first"] > 0) & (numbers["first"] < 2**31)
    usable &= np.where(run2d == "", is_fiber | is_catalogid, np.where(of_sdss_v, is_catalogid, is_fiber))
    plate, mjd, last = (np.where(usable, numbers[name], 0) for name in ("first", "second", "third"))
    return KeyList(
        text,
        np.where(usable, run2d, ""),
        plate.astype(np.int32),
        mjd.astype(np.int32),
        last,
        usable & is_catalogid,
        usable,
    )


def is_specobjid(text: str) -> bool:
    """Whether text may be a SPECOBJID, which has 17 digits at least, and may be negative."""
    return _SPECOBJID.match(text.strip(_SPACE)) is not None


def is_key(text: str) -> bool:
    """Whether text names a spectrum: it is a key or a SPECOBJID."""
    return is_specobjid(text) or _matched(pa.array([text.strip(_SPACE)]))["third"][0] is not None


def _matched(text: pa.StringArray) -> dict[str, Sequence[str | None]]:
    """Match keys: their parts by name, None where a key does not match; run2d is "" where it is not named."""
    found = pc.extract_regex(text, _WRITTEN)
    dr7 = pc.extract_regex(text, _DR7_FILE)
    parts = {name: pc.coalesce(pc.struct_field(found, name), pc.struct_field(dr7, name)) for name in _NUMBERS}
    named = [pc.fill_null(pc.struct_field(found, name), "") for name in ("folder", "run2d")]
    reduction = pc.binary_join_element_wise(*named, "")
    return {"run2d": reduction.to_pylist(), **{name: part.to_pylist() for name, part in parts.items()}}


_NUMBERS = ("first", "second", "third")


def _whole(values: Sequence[str | None]) -> NDArray[np.int64]:
    """Read digits; 0 for none, and for what exceeds 64 bits."""
    numbers = [int(value) if value else 0 for value in values]
    return np.array([number if number < 2**63 else 0 for number in numbers], np.int64)
