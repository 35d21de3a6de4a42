"""Find the spectrum that somebody has typed: an id, or a position in degrees or in hours."""

from __future__ import annotations

import re

from astropy.coordinates import SkyCoord

from pipeline.errors import RefusedError
from pipeline.results.run import Run

RADIUS = 5.0
"""Arcsec from a typed position, within which the nearest spectrum is taken."""

_DEGREES = re.compile(r"([+-]?\d+\.?\d*)(?:\s*,\s*|\s+)([+-]?\d+\.?\d*)")
_HOURS = re.compile(r"\d+\s*h.*|[^/]*\d:\d.*|[+-]?\d\S*(?:\s+[+-]?\d\S*){3,5}")  # 9h46m ..., 9:46 ..., 9 46 51 -1 2 28
_FORMS = "positions are written as 146.714 -1.041 (degrees), 9:46:51.4 -1:02:28 or 9h46m51.4s -1d02m28s"


def find_spectrum(run: Run, text: str) -> int:
    """Return the row of the spectrum that a text names. Raises ConfigError, in words for who has typed it.

    text: an id, as `Run.find` takes it, or right ascension and declination, of which the nearest spectrum is taken.
    """
    place = position_of(text)
    if place is None:
        return run.find(text)
    rows = run.find(position=place, radius=RADIUS)
    if not len(rows):
        where = f"ra {place[0]:.5f}, dec {place[1]:.5f} degrees"
        raise RefusedError("position", f"no spectrum of this run lies within {RADIUS:.0f} arcsec of {where}")
    return int(rows[0])


def position_of(text: str) -> tuple[float, float] | None:
    """Return (ra, dec) in degrees, None for a text that is no position. Raises ConfigError for an impossible one."""
    if found := _DEGREES.fullmatch(text):
        ra, dec = float(found[1]), float(found[2])
        if not (0 <= ra <= 360 and abs(dec) <= 90):
            raise RefusedError("position", f"there is no position {text}", "ra is from 0 to 360, dec from -90 to 90")
        return ra, dec
    if not _HOURS.fullmatch(text):
        return None
    try:
        sky = SkyCoord(text.replace(",", " "), unit=("hourangle", "deg"))
    except ValueError as error:
        raise RefusedError("position", f"{text} cannot be read as a position", _FORMS) from error
    return float(sky.ra.deg), float(sky.dec.deg)
