"""How people name an SDSS spectrum: by numbers, a key, part of one, or its SPECOBJID."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.errors import ConfigError
from pipeline.surveys.sdss.keys import (
    FIRST_CATALOGID,
    ids_of,
    is_sdss_v,
    is_specobjid,
    plain_run2d,
    read_keys,
    require_run2d,
)
from pipeline.surveys.sdss.layouts import spec_path
from pipeline.surveys.sdss.reductions import MAX_FIBER, candidates, field_candidates
from pipeline.surveys.sdss.specobjid import take_apart
from pipeline.surveys.survey import Entry, Lookup
from pipeline.surveys.values import as_strings, read_text

_PLATE_MJD_FIBER = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,19})\Z")
_WHOLE = re.compile(r"[0-9]{1,19}(\.0*)?\Z")
_FORMS = "(plate, mjd, fiberid), (plate, mjd, fiberid, run2d), (field, mjd, catalogid, run2d), a target's key"
_EXPECTED = f"{_FORMS}, plate-mjd-fiberid or a specobjid"


class _Named(NamedTuple):
    """What a name says of a spectrum; run2d is None where it does not say."""

    run2d: str | None
    plate: int
    mjd: int
    fiber_or_catalogid: int


def columns_of(text: str) -> Mapping[str, int] | None:
    """Return the ids that plate-mjd-fiberid gives; None for other text."""
    numbers = _PLATE_MJD_FIBER.match(text)
    return None if numbers is None else dict(zip(("plate", "mjd", "fiberid"), map(int, numbers.groups()), strict=True))


def numbers_of(entry: Entry) -> tuple[int, ...]:
    """Return the plate (SDSS-V: field), MJD and fiber (catalogid) of a spectrum as it was named. Raises ConfigError."""
    return _named(entry)[1:]


def keys_of(entry: Entry, present: Sequence[str]) -> list[str]:
    """Name the keys that a spectrum may have: of its reduction, else of the release's, then of the folder's own."""
    run2d, plate, mjd, number = _named(entry)
    if run2d is not None:
        return [f"{run2d}/{plate}-{mjd}-{number}"]
    is_fiber = number <= MAX_FIBER
    served = candidates(plate, mjd=mjd) if is_fiber else field_candidates()
    fitting = [name for name in present if is_sdss_v(name) != is_fiber]
    return [f"{name}/{plate}-{mjd}-{number}" for name in dict.fromkeys([*served, *fitting])]


def places(key: str) -> Iterator[str]:
    """Name the places where a folder of the user's own may have the file: by plate, as upstream has it, and flat."""
    name = spec_path(ids_of(key)).rsplit("/", 1)[-1]
    yield f"{ids_of(key).plate:04d}/{name}"
    yield name


def _named(entry: Entry) -> _Named:
    """Take a name apart. Raises ConfigError for what is none."""
    if isinstance(entry, str | bytes | int | float | np.number):
        return _of_text(_as_text(entry), entry)
    parts = tuple(entry)
    texts = [_as_text(part) for part in parts]
    if len(parts) not in (3, 4) or not all(_WHOLE.match(text) for text in texts[:3]):
        raise ConfigError("ids", parts, _EXPECTED)
    plate, mjd, last = (int(text.partition(".")[0]) for text in texts[:3])
    if MAX_FIBER < last < FIRST_CATALOGID:
        raise ConfigError("ids", parts, f"a fiber of 1 to {MAX_FIBER}, or a catalogid of SDSS-V, at the third place")
    run2d = (plain_run2d(parts[3]) or None) if len(parts) == 4 else None
    if run2d is not None:
        require_run2d(run2d)
    return _Named(run2d, plate, mjd, last)


def _of_text(text: str, entry: Entry) -> _Named:
    """Take a key or a SPECOBJID apart, which may be written as a negative number."""
    if is_specobjid(text) and -(2**63) <= int(text) < 2**64:
        return _of_specobjid(int(text) % 2**64)
    key = read_keys(np.array([text]))
    if not key.usable[0]:
        raise ConfigError("ids", entry, _EXPECTED, key.problem(0) if "-" in text else "")
    numbers = int(key.plate[0]), int(key.mjd[0]), int(key.fiber_or_catalogid[0])
    return _Named(str(key.run2d[0]) or None, *numbers)


def _as_text(value: object) -> str:
    """Return a value by the rule for those of catalogs."""
    return str(as_strings(read_text(np.array([value])))[0])


def _of_specobjid(specobjid: int) -> _Named:
    """Take a SPECOBJID apart, by either layout. Raises ConfigError for what is none of a plate's spectra."""
    parts = take_apart(np.array([specobjid], np.uint64))
    if not parts.usable[0]:
        raise ConfigError("ids", specobjid, _EXPECTED, parts.problem(0))
    run2d = str(parts.run2d[0]) or None
    return _Named(run2d, int(parts.plate[0]), int(parts.mjd[0]), int(parts.fiberid[0]))


LOOKUP = Lookup(
    names="PLATE-MJD-FIBER, RUN2D/PLATE-MJD-FIBER or specobjid",
    columns_of=columns_of,
    id_column="specobjid",
    keys_of=keys_of,
    numbers_of=numbers_of,
    reduction_folders=("sdss/spectro/redux", "eboss/spectro/redux", "boss/spectro/redux", "spectro/boss/redux"),
    places=places,
)
"""How SDSS spectra are named."""
