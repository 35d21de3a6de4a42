"""Keys of DESI targets: survey-program-healpix-targetid, such as main-dark-27247-39628473198710603."""

from __future__ import annotations

import re
from typing import NamedTuple

from pipeline.errors import ConfigError

NAME = r"[a-z0-9]{1,16}"
"""A survey or a program, as a pattern: main, sv3, special; dark, bright, backup. It becomes a folder of paths."""

PIXELS = 12 * 64**2
"""Healpix pixels of the sky: nside 64, nested."""

KEY = rf"({NAME})-({NAME})-([0-9]{{1,5}})-([0-9]{{1,19}})"
"""A target's key, as a pattern."""

_KEY = re.compile(rf"{KEY}\Z")
_TARGETID = re.compile(r"[0-9]{14,19}\Z")


class Ids(NamedTuple):
    """What a target's key says. healpix: pixel of nside 64, nested."""

    survey: str
    program: str
    healpix: int
    targetid: int


def ids_of(key: str) -> Ids:
    """Take a target's key apart. Raises ConfigError."""
    found = _KEY.match(key)
    if found is None or int(found[3]) >= PIXELS or int(found[4]) >= 2**63:
        raise ConfigError("target", key, "survey-program-healpix-targetid, such as main-dark-27247-39628473198710603")
    return Ids(found[1], found[2], int(found[3]), int(found[4]))


def is_key(text: str) -> bool:
    """Whether text names a target: it is a key or a TARGETID."""
    bare = text.strip().lower()
    return _KEY.match(bare) is not None or _TARGETID.match(bare) is not None
