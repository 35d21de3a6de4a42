"""Bytes of a redrock file -> the redshifts of its targets.

Source: the DESI data model's page of redrock-SURVEY-PROGRAM-PIXNUM.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.fits import read_header
from pipeline.surveys.tables import read_table, required

Redshifts = Mapping[int, tuple[float, float]]
"""TARGETID -> z and its error."""

TABLE = "REDSHIFTS"
"""The table of the best fits, a row per target."""


def read_redrock(data: bytes) -> Redshifts:
    """Read a redrock file. Raises BadSpectrum, and nothing else, for any bytes that do not hold one."""
    if not data.startswith(b"SIMPLE  ="):
        raise BadSpectrum("not a FITS file" if data else "empty file")
    header = read_header(data, 0)
    while header.name != TABLE:
        if header.next_start >= len(data):
            raise BadSpectrum(f"the file has no table {TABLE}")
        header = read_header(data, header.next_start)
    table = read_table(data, header)
    targetids, z, z_err = (required(table, name).tolist() for name in ("targetid", "z", "zerr"))
    return dict(zip(targetids, zip(z, z_err, strict=True), strict=True))
