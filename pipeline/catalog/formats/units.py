"""Units of columns: each format writes them in its own way, stores in one."""

from __future__ import annotations

import warnings

from astropy import units
from astropy.units.core import UnitsWarning


def fits_unit(text: object) -> str | None:
    """Return a unit as FITS writes it, "km s-1", which netCDF's readers know, too; unknown ones as they are."""
    written = str(text).strip() if text is not None else ""
    if not written:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnitsWarning)
        for form in (None, "vounit", "cds"):
            try:
                return str(units.Unit(written, format=form).to_string("fits")) or None
            except (ValueError, TypeError):
                continue
    return written
