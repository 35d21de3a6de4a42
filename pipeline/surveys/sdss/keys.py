"""Keys of SDSS targets: run2d/plate-mjd-fiberid, or run2d/field-mjd-catalogid for SDSS-V."""

from __future__ import annotations

import re
from typing import NamedTuple

from pipeline.errors import ConfigError

RUN2D = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""A reduction's name, as a pattern: it becomes a folder of every path, and nothing but one folder."""

KEY = rf"({RUN2D})/([0-9]{{1,10}})-([0-9]{{1,10}})-([0-9]{{1,19}})"
"""A target's key, as a pattern: run2d/plate-mjd-fiberid, or run2d/field-mjd-catalogid."""

_RUN2D = re.compile(rf"{RUN2D}\Z")
_KEY = re.compile(rf"{KEY}\Z")
SDSS_V = re.compile(r"v6_(\d+)_\d+\Z")


class Ids(NamedTuple):
    """What a target's key says: reduction, plate (SDSS-V: field), MJD, fiber (SDSS-V: catalogid)."""

    run2d: str
    plate: int
    mjd: int
    fiber_or_catalogid: int


def is_sdss_v(run2d: str) -> bool:
    """Whether a reduction names its spectra by field, MJD and catalogid (DR18 and later)."""
    return SDSS_V.match(run2d) is not None


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
