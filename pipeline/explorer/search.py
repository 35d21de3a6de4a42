"""Find the spectrum that somebody has typed: an id, or a position in degrees or in hours."""

from __future__ import annotations

import re
import warnings

from astropy.coordinates import Angle
from astropy.utils.exceptions import AstropyWarning

from pipeline.errors import RefusedError
from pipeline.results.run import Run

RADIUS = 5.0
"""Arcsec from a typed position, within which the nearest spectrum is taken."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_WITH_UNITS = re.compile(r"[+-]?\d+(?:\.\d*)?\s*[hd](?![a-z]).*|[^/]*\d:\s*\d.*")  # 9h46m, 9:46
_PLAIN = str.maketrans({"\u2212": "-", "\u2013": "-", "(": " ", ")": " ", ",": " ", "\u00b0": "d"})
_FORMS = "positions are written as 146.714 -1.041 (degrees), 9:46:51.4 -1:02:28 or 9h46m51.4s -1d02m28s"


def find_spectrum(run: Run, text: str) -> int:
    """Return the row of the spectrum that a text names. Raises ConfigError, in words for who has typed it.

    text: an id, as `Run.find` takes it, or right ascension and declination: then it is the spectrum nearest to them.
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
    """Return (ra, dec) in degrees, None for a text that is no position. Raises ConfigError for an impossible one.

    Two numbers are degrees; four, six, and what is written with colons are hours of right ascension and degrees of
    declination; units are as they are written.
    """
    plain = text.translate(_PLAIN).lower().replace("deg", "d").strip()
    parts = plain.split()
    is_numbers = all(_NUMBER.fullmatch(part) for part in parts)
    if is_numbers and len(parts) == 2:
        return _possible(text, float(parts[0]), float(parts[1]), 360.0)
    if not (_WITH_UNITS.fullmatch(plain) or (is_numbers and len(parts) in (4, 6))):
        return None
    ra, dec = _halves(plain)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", AstropyWarning)  # which is all that it says of 9:60:00
            hours, degrees = Angle(ra, "hourangle"), Angle(dec, "deg")
    except (ValueError, AstropyWarning) as error:
        raise RefusedError("position", f"{text} cannot be read as a position", _FORMS) from error
    return _possible(text, float(hours.deg), float(degrees.deg), 0.0)


def _halves(text: str) -> tuple[str, str]:
    """Return what stands for right ascension and for declination, which begins with a sign, or is half of the parts."""
    if signed := re.fullmatch(r"(.[^+-]*)([+-].*)", text):
        return signed[1], signed[2]
    parts = text.split()
    middle = (len(parts) + 1) // 2
    return " ".join(parts[:middle]), " ".join(parts[middle:])


def _possible(text: str, ra: float, dec: float, below: float) -> tuple[float, float]:
    """Return a position. Raises ConfigError where it is none. below: degrees of ra below 0 that are taken."""
    if not (-below <= ra <= 360 and abs(dec) <= 90):
        remedy = "ra is from 0 to 360 degrees, or from 0h to 24h; dec is from -90 to 90"
        raise RefusedError("position", f"there is no position {text}", remedy)
    return ra, dec
