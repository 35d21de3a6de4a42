"""Bytes of an SDSS spec or spPlate file -> arrays.

A file takes about 0.1 ms (see `surveys.tables`). There is one way to fail, BadSpectrum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.spectra.raw import BadSpectrum, RawSpectrum
from pipeline.surveys.fits import SIZE_CARDS, read_header
from pipeline.surveys.tables import Table, read_image, read_table, required

LOGLAM_STEP = 1e-4
"""Step of `loglam` in every SDSS, BOSS and eBOSS co-added spectrum (spec datamodel)."""

PIXEL_BITS = 0xFFFF0000
"""SPPIXMASK bits that mask a pixel: 16-31, which speak of the pixel. Those set in all exposures count (and_mask).

In brackets: on how many of 117 real files of DR9-DR17 a bit is set, and on what share of their pixels.

    16 NEARBADPIXEL   beside a bad pixel (42, 1.2 %)         17 LOWFLAT        flat field below 0.5 (15, 0.3 %)
    18 FULLREJECT     all of the pixel rejected (8, 0.1 %)   19 PARTIALREJECT  part of it (13, 0.1 %)
    20 SCATTEREDLIGHT scattered light (23, 0.3 %)            21 CROSSTALK      crosstalk of another fiber (0)
    22 NOSKY          sky level unknown (1, 0.0 %)           23 BRIGHTSKY      sky > flux + 10 sigma (113, 4.4 %)
    24 NODATA         no data (0)                            25 COMBINEREJ     rejected when combined (0)
    26 BADFLUXFACTOR  flux calibration off (4, 0.0 %)        27 BADSKYCHI      sky fitted badly (42, 0.0 %)
    28 REDMONSTER     stray light in the red (0)             29-31             not in use

All of them mask, as in paper I: each says that the flux or its variance there is not to be trusted, although most
pixels with 16 and 23 have a positive ivar. Bits 0-15 do not mask:

    0 NOPLUG  1 BADTRACE  2 BADFLAT  3 BADARC  4 MANYBADCOLUMNS  5 MANYREJECTED  6 LARGESHIFT  7 BADSKYFIBER
    8 NEARWHOPPER  9 WHOPPER  10 SMEARIMAGE  11 SMEARHIGHSN  12 SMEARMEDSN

They describe a fiber in an exposure and are set on all pixels of one camera, good ones too (bit 4 on 9 files, 3.3 %
of all pixels, nine tenths of them with a positive ivar): masking them would blank half of a spectrum. FIBER_MASKED
reports them. Source: https://www.sdss.org/dr17/algorithms/bitmasks/#SPPIXMASK
"""

_OF_DR7 = (b"FIBERID =", b"COEFF0  =")  # in the header of an image: the spectrum of one fiber, as DR1 to DR7 keep it


def _check_loglam(loglam: NDArray[np.float32]) -> None:
    """Refuse wavelengths that are not one run of 1e-4 steps: a spectrum is placed by its first pixel."""
    if not np.isfinite(loglam).all():
        raise BadSpectrum("loglam is not finite")
    expected = float(loglam[0]) + LOGLAM_STEP * np.arange(len(loglam))
    if np.abs(loglam - expected).max() >= LOGLAM_STEP / 2:
        raise BadSpectrum(f"loglam does not rise in steps of {LOGLAM_STEP}")


def _bits(values: NDArray[Any]) -> NDArray[np.int64]:
    """Mask words as non-negative numbers: bit 31 of a signed 32-bit column reads as a sign."""
    if values.dtype.kind == "f" and not (np.abs(values) < 2.0**62).all():
        raise BadSpectrum("and_mask is not an integer")
    return values.astype(np.int64) & 0xFFFFFFFF


def _read_identity(data: bytes, start: int) -> dict[str, Any]:
    """Ids and redshift from the table at `start`, if there is one; what is absent or unreadable is None."""
    if start >= len(data):
        return {}
    header = read_header(data, start)
    if header.cards.get("XTENSION") != "BINTABLE":
        return {}
    table = read_table(data, header)
    found = {name: table.first(name) for name in ("plate", "field", "mjd", "fiberid", "catalogid", "z", "z_err")}
    field = found.pop("field")
    if found["plate"] is None:
        found["plate"] = field
    for name in ("plate", "mjd", "fiberid", "catalogid"):
        value = found[name]
        found[name] = int(value) if value is not None and math.isfinite(value) else None
    return found


def read_spec(data: bytes) -> RawSpectrum:
    """Read the co-added spectrum of a spec or spec-lite file (DR9 and later: SDSS, BOSS, eBOSS and SDSS-V).

    data: the whole file. The spectrum is the first extension, found by position; ids and redshift come from
    the second, which may be missing. Column names are matched in any case; further columns and extensions are
    ignored.
    Raises BadSpectrum, and nothing else, for any bytes that do not hold such a spectrum.
    Source: https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
    """
    if not data.startswith(b"SIMPLE  ="):
        raise BadSpectrum("not a FITS file" if data else "empty file")
    # Its size is in the first cards (standard 4.4.1); the others are the file's own, and many.
    primary = read_header(data, 0, SIZE_CARDS)
    if primary.cards.get("NAXIS") == "2" and all(word in primary.text for word in _OF_DR7):
        raise BadSpectrum("a DR7 spSpec file: ask for the spec file of the same ids")
    header = read_header(data, primary.next_start)
    coadd = read_table(data, header)
    if not len(coadd.rows):
        raise BadSpectrum("the spectrum has no pixels")
    with np.errstate(all="ignore"):
        flux, ivar, loglam = (required(coadd, name).astype(np.float32) for name in ("flux", "ivar", "loglam"))
        and_mask = _bits(required(coadd, "and_mask"))
        _check_loglam(loglam)
        found = _read_identity(data, header.next_start)
        z, z_err = found.pop("z", None), found.pop("z_err", None)
        return RawSpectrum(flux, ivar, loglam, and_mask, PIXEL_BITS, ids=found, z=z, z_err=z_err)


@dataclass(frozen=True)
class Plate:
    """The co-added spectra of a plate: views of an spPlate file's images, nothing copied.

    flux, ivar, and_mask: shape (fibers, pixels), in the file's byte order, units as in `RawSpectrum`. loglam: shape
    (pixels,), float32. rows: fiber number -> row; -1 for a fiber that is there more than once. plate, mjd: None where
    the file does not say.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    and_mask: NDArray[np.int32]
    loglam: NDArray[np.float32]
    rows: Mapping[int, int]
    plate: int | None
    mjd: int | None

    def spectrum(self, fiberid: int) -> RawSpectrum:
        """Return one fiber's spectrum, from the first to the last pixel with any flux or ivar, as spec files have it.

        Raises BadSpectrum for a fiber that the plate does not have, or has twice, or that has no such pixel.
        """
        row = self.rows.get(fiberid)
        if row is None or row < 0:
            raise BadSpectrum(f"the plate has {'no' if row is None else 'more than one'} fiber {fiberid}")
        flux, ivar = self.flux[row].astype(np.float32), self.ivar[row].astype(np.float32)
        filled = np.flatnonzero((flux != 0) | (ivar != 0))
        if not len(filled):
            filled = np.array([0, len(flux) - 1])  # an unplugged fiber: no pixel carries weight, and that is reported
        span = slice(int(filled[0]), int(filled[-1]) + 1)
        and_mask = _bits(self.and_mask[row, span])
        ids = {"plate": self.plate, "mjd": self.mjd, "fiberid": fiberid}
        return RawSpectrum(flux[span], ivar[span], self.loglam[span], and_mask, PIXEL_BITS, ids=ids)


def read_plate(data: bytes) -> Plate:
    """Read an spPlate file (SDSS DR8-DR17, BOSS and eBOSS).

    data: the whole file; the images of flux, ivar and and_mask are its first three HDUs, the plug map its sixth. The
    wavelengths are 10^(COEFF0 + COEFF1 i).
    Raises BadSpectrum, and nothing else, for any bytes that do not hold such a plate.
    Source: https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/PLATE4/spPlate.html
    """
    if not data.startswith(b"SIMPLE  ="):
        raise BadSpectrum("not a FITS file" if data else "empty file")
    primary = read_header(data, 0)
    flux = read_image(data, primary, -32)
    header = read_header(data, primary.next_start)
    ivar = read_image(data, header, -32)
    header = read_header(data, header.next_start)
    and_mask = read_image(data, header, 32)
    if not flux.shape == ivar.shape == and_mask.shape:
        raise BadSpectrum(f"images of unlike shape: {flux.shape}, {ivar.shape}, {and_mask.shape}")
    with np.errstate(all="ignore"):
        pixels = np.arange(flux.shape[1])
        loglam = (primary.number("COEFF0", math.nan) + primary.number("COEFF1", math.nan) * pixels).astype(np.float32)
        _check_loglam(loglam)
    for _ in range(3):  # over and_mask, or_mask and the dispersion
        header = read_header(data, header.next_start)
    rows = _fibers(read_table(data, header), len(flux))
    ids = (None if primary.value(key) is None else primary.integer(key) for key in ("PLATEID", "MJD"))
    return Plate(flux, ivar, and_mask, loglam, rows, *ids)


def _fibers(plugmap: Table, count: int) -> dict[int, int]:
    """Map fiber numbers to rows, -1 for one that is there twice."""
    ids = required(plugmap, "fiberid")
    if len(ids) != count:
        raise BadSpectrum(f"the plug map has {len(ids)} rows for {count} fibers")
    rows: dict[int, int] = {}
    for row, fiberid in enumerate(ids.tolist()):
        rows[fiberid] = -1 if fiberid in rows else row
    return rows
