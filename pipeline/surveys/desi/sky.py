"""Where a target is on the sky: the brick that its TARGETID names, and the healpix pixel of a position.

Sources: desitarget.targets.encode_targetid and desiutil.brick for TARGETIDs and bricks of 0.25 degrees; Gorski et al.
2005 (arXiv:astro-ph/0409513), section 4 and 5.2, for pixels in the nested scheme.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

NSIDE = 64
_ORDER = 6  # NSIDE = 2^6

_BRICK = 0.25  # degrees
_BRICK_BITS, _BRICK_AT, _RELEASE_BITS, _RELEASE_AT = 20, 22, 16, 42
_IMAGING = range(9000, 9100)
"""Releases of the Legacy Surveys, whose targets are numbered by bricks; numbers of other targets name no position."""

_STEPS = (-0.5, -0.25, 0.0, 0.25, 0.5)  # across a brick: a pixel is three times as wide


def pixels_of_brick(targetid: int) -> list[int]:
    """Return the pixels that the brick of a TARGETID touches, that of its center first; none where it has no brick."""
    release = targetid >> _RELEASE_AT & 2**_RELEASE_BITS - 1
    brick = targetid >> _BRICK_AT & 2**_BRICK_BITS - 1
    columns, first = _rows()
    if targetid >> (_RELEASE_AT + _RELEASE_BITS) or release not in _IMAGING or not 1 <= brick < first[-1]:
        return []
    row = int(np.searchsorted(first, brick, side="right")) - 1
    width = 360 / int(columns[row])
    ra, dec = (brick - int(first[row]) + 0.5) * width, _BRICK * row - 90
    around = [(x, y) for y in _STEPS for x in _STEPS]
    found = [pixel_of(ra, dec), *(pixel_of(ra + x * width, dec + y * _BRICK) for x, y in around)]
    return list(dict.fromkeys(found))


@cache
def _rows() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of bricks in each row of equal declination, and the first of each, and one behind the last."""
    declination = _BRICK * np.arange(round(180 / _BRICK) + 1) - 90
    around = 360 / _BRICK * np.cos(np.radians(np.abs(declination) - _BRICK / 2))
    columns = (2 * np.ceil(around / 2)).astype(np.int64)
    columns[[0, -1]] = 1  # the poles
    return columns, 1 + np.concatenate([[0], np.cumsum(columns)])


def pixel_of(ra: float, dec: float) -> int:
    """Return the pixel of a position in degrees: nside 64, nested."""
    z, quarter = math.sin(math.radians(min(max(dec, -90.0), 90.0))), ra % 360 / 90
    face, x, y = _equatorial(z, quarter) if abs(z) <= 2 / 3 else _polar(z, quarter)
    pixel = face * NSIDE**2
    for bit in range(_ORDER):
        pixel |= (x >> bit & 1) << 2 * bit | (y >> bit & 1) << 2 * bit + 1
    return pixel


def _equatorial(z: float, quarter: float) -> tuple[int, int, int]:
    """Return face, and column and row on it, near the equator. quarter: of the circle, 0 to 4."""
    falling, rising = (int(NSIDE * (0.5 + quarter + sign * 0.75 * z)) for sign in (-1, 1))
    fall, rise = falling // NSIDE, rising // NSIDE
    face = fall | 4 if fall == rise else fall if fall < rise else rise + 8
    return face, rising % NSIDE, NSIDE - falling % NSIDE - 1


def _polar(z: float, quarter: float) -> tuple[int, int, int]:
    """Return face, and column and row on it, near a pole."""
    whole = min(int(quarter), 3)
    part, ring = quarter - whole, NSIDE * math.sqrt(3 * (1 - abs(z)))
    rising, falling = (min(int(share * ring), NSIDE - 1) for share in (part, 1 - part))
    if z > 0:
        return whole, NSIDE - falling - 1, NSIDE - rising - 1
    return whole + 8, rising, falling
