"""Masks of DESI coadds: what their bits mean, and how a file holds them.

specmask, of a pixel of an arm; every bit masks it, as desispec's coaddition leaves out what has any:

    0 SOMEBADPIX   some input pixels masked     1 ALLBADPIX    all input pixels masked, or without variance
    2 COSMIC       a cosmic ray was masked      3 LOWFLAT      fiber flat below 0.5
    4 BADFIBERFLAT bad flat solution            5 BRIGHTSKY    bright sky
    6 BADSKY       bad sky model                7 BAD2DFIT     bad fit of the extraction
    8 NODATA       no data                      9 BADFIBER     the fiber has a flag

fibermask, of a fiber: COADD_FIBERSTATUS has what all exposures of a target share; those with a flag that is more than a
remark were left out of the coadd. They mask no pixel, FIBER_MASKED reports them:

    0 UNASSIGNED   1 STUCKPOSITIONER  2 BROKENFIBER      3 RESTRICTED       8 MISSINGPOSITION   9 BADPOSITION
   10 POORPOSITION 15 LOWEFFTIME     16 BADFIBER        17 BADTRACE        18 BADFLAT          19 BADARC
   20 MANYBADCOL   21 MANYREJECTED   22 BADAMPB         23 BADAMPR         24 BADAMPZ          25-29 of the petal
   30 BADREADNOISE

Source: desispec.maskbits. Upstream spender keeps only targets with COADD_FIBERSTATUS 0; the selection `clean` does.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.fits import Header
from pipeline.surveys.tables import read_image

PIXEL_BITS = 0xFFFFFFFF
"""Bits of a spectrum's mask that speak of a pixel: those of specmask, in their places."""

FIBERSTATUS_SHIFT = 32
"""Place of the fiber's bits in a spectrum's mask."""

_SIGN = 2.0**31
"""BZERO of unsigned words (FITS standard 4.0, section 4.4.2.5)."""

_MOST_PACKED = 2**28  # bytes of a packed mask; those of 10,000 targets have a tenth


def read_mask(data: bytes, header: Header, shape: tuple[int, ...]) -> NDArray[np.integer]:
    """Read an arm's mask as words of 32 bits, shape (targets, pixels), signed or not. Raises BadSpectrum.

    Files hold it as signed numbers (desispec from 2024 on), as unsigned ones, or packed by tiles, in a table.
    """
    if header.value("ZIMAGE") == "T":
        mask = _unpacked(data, header, shape)
    elif header.number("BZERO", 0.0) == _SIGN and header.number("BSCALE", 1.0) == 1.0:
        signed = read_image(data, header, 32, zero=_SIGN)
        mask = signed.astype(np.int32).view(np.uint32) ^ np.uint32(1 << 31)
    else:
        mask = read_image(data, header, 32)
    if mask.shape != shape:
        raise BadSpectrum(f"images of unlike shape: {shape}, {mask.shape}")
    return mask


def _unpacked(data: bytes, header: Header, shape: tuple[int, ...]) -> NDArray[np.integer]:
    """Unpack an image of tiles (FITS standard 4.0, section 10) by astropy."""
    axes = tuple(header.integer(f"ZNAXIS{axis}") for axis in range(header.integer("ZNAXIS"), 0, -1))
    if axes != shape:
        raise BadSpectrum(f"images of unlike shape: {shape}, {axes}")
    end = header.data_start + header.data_size
    if end > len(data) or header.data_size > _MOST_PACKED:
        raise BadSpectrum("an image is truncated")
    from astropy.io import fits  # slow to import, and few files need it

    primary = fits.PrimaryHDU().header.tostring().encode("ascii")
    packed = data[header.start : end] + bytes(header.next_start - end)
    try:
        with warnings.catch_warnings(action="ignore"), fits.open(io.BytesIO(primary + packed)) as hdus:
            values: NDArray[Any] = np.asarray(hdus[1].data)
    except Exception as error:  # whatever astropy makes of damage
        raise BadSpectrum(f"a packed image cannot be read: {type(error).__name__}: {error}") from error
    if values.dtype.kind not in "iu":
        raise BadSpectrum("a mask is not of whole numbers")
    return values.astype(np.int64)
