"""Real spectra written again in the format of SDSS-V."""

from __future__ import annotations

import io
from pathlib import Path

from astropy.io import fits as astropy_fits


def sdss_v(file: Path, *, catalogid: int | str, field: int = 15000, mjd: int = 59146) -> bytes:
    """Write a real spectrum again as DR18 and later do: upper-case columns, WRESL, a row of spAll, ZALL."""
    with astropy_fits.open(file) as hdus:
        old = hdus[1].data
        z, z_err = hdus[2].data["Z"][0], hdus[2].data["Z_ERR"][0]
    names = ("FLUX", "LOGLAM", "IVAR", "AND_MASK", "OR_MASK", "WDISP", "SKY", "MODEL")
    columns = [astropy_fits.Column(n, "J" if "MASK" in n else "E", array=old[n.lower()]) for n in names]
    columns.insert(7, astropy_fits.Column("WRESL", "E", array=old["wdisp"]))
    form = "20A" if isinstance(catalogid, str) else "K"
    row = [
        astropy_fits.Column("FIELD", "J", array=[field]),
        astropy_fits.Column("MJD", "J", array=[mjd]),
        astropy_fits.Column("CATALOGID", form, array=[catalogid]),
        astropy_fits.Column("FIBERID_LIST", "10A", array=["17 18"]),
        astropy_fits.Column("Z", "E", array=[z]),
        astropy_fits.Column("Z_ERR", "E", array=[z_err]),
    ]
    made = astropy_fits.HDUList(
        [
            astropy_fits.PrimaryHDU(),
            astropy_fits.BinTableHDU.from_columns(columns, name="COADD"),
            astropy_fits.BinTableHDU.from_columns(row, name="SPALL"),
            astropy_fits.BinTableHDU.from_columns(row, name="ZALL"),
        ]
    )
    buffer = io.BytesIO()
    made.writeto(buffer)
    return buffer.getvalue()
