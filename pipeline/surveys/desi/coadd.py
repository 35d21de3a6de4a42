"""Bytes of a DESI coadd file -> the spectra of its targets, the three arms put together.

Source: the DESI data model's page of coadd-SURVEY-PROGRAM-PIXNUM; desispec.coaddition.coadd_cameras.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.spectra.raw import BadSpectrum, RawSpectrum
from pipeline.surveys.desi.masks import FIBERSTATUS_SHIFT, PIXEL_BITS, read_mask
from pipeline.surveys.fits import Header, Truncated, read_header
from pipeline.surveys.tables import read_image, read_table, required

START, STEP, BINS = 3600.0, 0.8, 7781
"""Angstrom: the first bin of the grid of all arms, between bins; number of bins, to 9824 Angstrom."""

TOLERANCE = 1e-4
"""Angstrom by which a pixel may lie beside its bin, as in desispec."""

ARMS = ("B", "R", "Z")
"""The arms of the spectrographs, by wavelength."""

PLANES = ("WAVELENGTH", "FLUX", "IVAR", "MASK")
"""What is read of each arm: all but the resolution, which is four fifths of a file."""

TABLE = "FIBERMAP"
"""The table of the targets, a row for each row of the arms."""

NEEDED = frozenset({TABLE, *(f"{arm}_{plane}" for arm in ARMS for plane in PLANES)})
"""HDUs that are read."""


@dataclass(frozen=True)
class Arm:
    """What one arm saw: views of a file's images, in its byte order.

    first: bin of the first pixel. flux, ivar: shape (targets, pixels), units as in `RawSpectrum`. mask: shape (targets,
    pixels), see `masks`.
    """

    first: int
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.integer]


@dataclass(frozen=True)
class Coadd:
    """The spectra of a survey, a program and a healpix pixel.

    arms: those that the file has, one at least. rows: TARGETID -> row, -1 for one that is there more than once.
    fiberstatus: shape (targets,), int64, COADD_FIBERSTATUS. survey, program: None where the file does not say.
    """

    arms: tuple[Arm, ...]
    rows: Mapping[int, int]
    fiberstatus: NDArray[np.int64]
    survey: str | None = None
    program: str | None = None
    ids: Mapping[str, int | None] = field(default_factory=dict)

    def spectrum(self, targetid: int) -> RawSpectrum:
        """Return a target's spectrum on the bins that the arms cover: their mean, weighted by ivar.

        A pixel with a mask is left out; in the overlap of two arms the other one's remains, and the mask is what both
        have in common. Raises BadSpectrum for a target that the file does not have, or has twice.
        """
        row = self.rows.get(targetid)
        if row is None or row < 0:
            raise BadSpectrum(f"the coadd has {'no' if row is None else 'more than one'} TARGETID {targetid}")
        first = min(arm.first for arm in self.arms)
        size = max(arm.first + arm.flux.shape[1] for arm in self.arms) - first
        flux, ivar = np.zeros(size, np.float32), np.zeros(size, np.float32)
        mask = np.full(size, PIXEL_BITS, np.int64)
        with np.errstate(all="ignore"):
            for arm in self.arms:
                span = slice(arm.first - first, arm.first - first + arm.flux.shape[1])
                bits = arm.mask[row].astype(np.int64) & PIXEL_BITS
                values, weights = _weighted(arm.flux[row], arm.ivar[row], bits == 0)
                flux[span] += weights * values
                ivar[span] += weights
                mask[span] &= bits
            weighted = ivar > 0
            flux[weighted] /= ivar[weighted]
        mask |= int(self.fiberstatus[row]) << FIBERSTATUS_SHIFT
        axis = START + STEP * (first + np.arange(size))
        ids = {**self.ids, "targetid": targetid}
        return RawSpectrum(flux, ivar, axis, mask, PIXEL_BITS, is_log=False, ids=ids)


def _weighted(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], good: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return flux and weight of an arm, 0 where masked; the weight is NaN where a good pixel has no valid numbers."""
    values = np.where(good, flux, np.float32(0)).astype(np.float32)
    weights = np.where(good, ivar, np.float32(0)).astype(np.float32)
    weights[~np.isfinite(values) | ~(weights >= 0)] = np.nan
    return values, weights


def read_coadd(data: bytes) -> Coadd:
    """Read a coadd file, whole or without what `NEEDED` does not name.

    Raises BadSpectrum, and nothing else, for any bytes that do not hold such a file. A file may lack an arm.
    """
    if not data.startswith(b"SIMPLE  ="):
        raise BadSpectrum("not a FITS file" if data else "empty file")
    primary = read_header(data, 0)
    found = {header.name: header for header in _headers(data, primary.next_start)}
    if TABLE not in found:
        raise BadSpectrum(f"the file has no table {TABLE}")
    table = read_table(data, found[TABLE])
    targetids, fiberstatus = (required(table, name) for name in ("targetid", "coadd_fiberstatus"))
    if targetids.dtype.kind not in "iu" or fiberstatus.dtype.kind not in "iu":
        raise BadSpectrum("TARGETID or COADD_FIBERSTATUS are no whole numbers")
    arms = tuple(_read_arm(data, found, arm) for arm in ARMS if f"{arm}_FLUX" in found)
    if not arms:
        raise BadSpectrum("the file has no arm's flux")
    if any(len(arm.flux) != len(targetids) for arm in arms):
        raise BadSpectrum(f"images of another number of rows than the {len(targetids)} of {TABLE}")
    survey, program = ((primary.value(key) or "").strip().lower() or None for key in ("SURVEY", "PROGRAM"))
    healpix = primary.integer("HPXPIXEL") if primary.value("HPXPIXEL") is not None else None
    status = fiberstatus.astype(np.int64) & PIXEL_BITS
    return Coadd(arms, _rows(targetids), status, survey, program, {"healpix": healpix})


def _headers(data: bytes, start: int) -> Iterator[Header]:
    """Read the headers of the HDUs that are needed, up to the last of them. Raises BadSpectrum."""
    wanted = set(NEEDED)
    while wanted and start < len(data):
        header = read_header(data, start)
        if header.name in wanted:
            wanted.remove(header.name)
            yield header
        start = header.next_start
    if wanted and start > len(data):
        raise Truncated(f"truncated: the file has {len(data)} bytes, and its headers announce {start}")


def _rows(targetids: NDArray[Any]) -> dict[int, int]:
    rows: dict[int, int] = {}
    for row, targetid in enumerate(targetids.tolist()):
        rows[targetid] = -1 if targetid in rows else row
    return rows


def _read_arm(data: bytes, found: Mapping[str, Header], name: str) -> Arm:
    missing = [f"{name}_{plane}" for plane in PLANES if f"{name}_{plane}" not in found]
    if missing:
        raise BadSpectrum(f"the file has no {', '.join(missing)}")
    wavelength = read_image(data, found[f"{name}_WAVELENGTH"], -64, dimensions=1)
    flux, ivar = (read_image(data, found[f"{name}_{plane}"], -32) for plane in ("FLUX", "IVAR"))
    if flux.shape != ivar.shape or flux.shape[1] != len(wavelength):
        raise BadSpectrum(f"images of unlike shape: {flux.shape}, {ivar.shape}, {wavelength.shape}")
    mask = read_mask(data, found[f"{name}_MASK"], flux.shape)
    return Arm(_first_bin(wavelength, name), flux, ivar, mask)


def _first_bin(wavelength: NDArray[np.float64], name: str) -> int:
    """Return the bin of an arm's first pixel; refuse pixels that are not the grid's, or far beyond it."""
    with np.errstate(all="ignore"):
        first = np.around((wavelength[0] - START) / STEP)
        if not -BINS < first < BINS or len(wavelength) > BINS:
            raise BadSpectrum(f"{name}_WAVELENGTH begins at {wavelength[0]:g} Angstrom, with {len(wavelength)} pixels")
        expected = START + STEP * (first + np.arange(len(wavelength)))
        if not (np.abs(wavelength - expected) <= TOLERANCE).all():
            raise BadSpectrum(f"{name}_WAVELENGTH does not lie on bins of {STEP} from {START:g} Angstrom on")
    return int(first)
