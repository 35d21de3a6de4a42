"""spPlate files assembled from spectra that stand alone, in the form of the datamodel."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

STEP = 1e-4
NO_DATA = 1 << 24  # SPPIXMASK NODATA
IMAGES = {"flux": ">f4", "ivar": ">f4", "and_mask": ">i4", "or_mask": ">i4", "wdisp": ">f4", "sky": ">f4"}


def fiber_of(file: Path) -> dict[str, NDArray[Any]]:
    """Read the columns of a spec-lite file that a plate's images hold, in lower case, and its loglam."""
    with fits.open(file) as hdus:
        table = hdus[1].data
        return {name: np.array(table[name]) for name in (*IMAGES, "loglam")}


def assemble(files: Sequence[Path], plate: int, mjd: int, fibers: Sequence[int] | None = None) -> bytes:
    """Put spectra on one plate, as fibers 1, 2, ... or those named; give the file's bytes.

    HDUs: flux, ivar, andmask, ormask, wavedisp, plug map, sky. Pixels that a fiber has not are 0, and masked.
    """
    spectra = [fiber_of(file) for file in files]
    starts = [float(each["loglam"][0]) for each in spectra]
    coeff0 = min(starts)
    firsts = [round((start - coeff0) / STEP) for start in starts]
    width = max(first + len(each["flux"]) for first, each in zip(firsts, spectra, strict=True))
    images = {}
    for name, dtype in IMAGES.items():
        image = np.full((len(files), width), NO_DATA if name.endswith("mask") else 0, dtype)
        for row, (first, each) in enumerate(zip(firsts, spectra, strict=True)):
            image[row, first : first + len(each[name])] = each[name]
        images[name] = image
    primary = fits.PrimaryHDU(images["flux"])
    primary.header.update({"PLATEID": plate, "MJD": mjd, "COEFF0": coeff0, "COEFF1": STEP, "NEXP": 3})
    numbers = list(fibers or range(1, len(files) + 1))
    plugmap = [
        fits.Column("OBJTYPE", "16A", array=["GALAXY"] * len(files)),
        fits.Column("MAG", "5E", array=np.full((len(files), 5), 17.5)),
        fits.Column("FIBERID", "J", array=numbers),
    ]
    hdus = [
        primary,
        *(fits.ImageHDU(images[name]) for name in ("ivar", "and_mask", "or_mask", "wdisp")),
        fits.BinTableHDU.from_columns(plugmap),
        fits.ImageHDU(images["sky"]),
    ]
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    return buffer.getvalue()
