"""Quality bits: what the pipeline found, per spectrum, in one unsigned 32-bit number."""

from __future__ import annotations

from enum import IntFlag

import numpy as np
from numpy.typing import NDArray


class Quality(IntFlag):
    """Bits of the `quality` variable, the same in `spectra.zarr` and in every `encodings/<model>.zarr`.

    0 is a spectrum without remarks. The encodings' value holds the bits set at ingest and those set by the
    model. Values are part of the stored format: a bit is never renumbered, new ones go at the end.
    `MEANINGS` says what each bit means.
    """

    GOOD = 0

    NOT_PROCESSED = 1 << 0
    NO_FILE = 1 << 1
    BAD_FILE = 1 << 2
    WRONG_FILE = 1 << 3
    FIBER_MASKED = 1 << 4
    TRUNCATED = 1 << 5
    OFF_GRID = 1 << 6
    BAD_PIXELS = 1 << 7
    FEW_PIXELS = 1 << 8
    NO_PIXELS = 1 << 9
    NO_REDSHIFT = 1 << 10
    NO_NORM = 1 << 11
    NEGATIVE_NORM = 1 << 12
    ZERO_FLUX = 1 << 13
    OUT_OF_RANGE = 1 << 14
    NO_OVERLAP = 1 << 15
    NOT_FINITE = 1 << 16
    AMPLITUDE_FITTED = 1 << 17
    NEGATIVE_AMPLITUDE = 1 << 18
    NEEDS_REDSHIFT = 1 << 19
    OUT_OF_DOMAIN = 1 << 20

    # Any of these means: no latents.
    UNUSABLE = (
        NOT_PROCESSED | NO_FILE | BAD_FILE | WRONG_FILE | OFF_GRID | NO_PIXELS | ZERO_FLUX | NOT_FINITE | NEEDS_REDSHIFT
    )

    @staticmethod
    def describe(value: int) -> str:
        """Return the names of the bits joined with "|"; "GOOD" for 0, unknown bits as one number."""
        value = int(value)
        names = [bit.name or "" for bit in Quality if value & bit]
        unknown = value & ~sum(Quality)
        return "|".join(names + [hex(unknown)] * bool(unknown)) or "GOOD"


NO_SPECTRUM = Quality.NO_FILE | Quality.BAD_FILE | Quality.WRONG_FILE
"""There is no spectrum, and the chunk's marker has the reason in words."""

MEANINGS: dict[Quality, str] = {
    Quality.NOT_PROCESSED: "The fill value: no task has written this spectrum yet.",
    Quality.NO_FILE: "The source has no file for this target.",
    Quality.BAD_FILE: "The file exists but cannot be read as a spectrum.",
    Quality.WRONG_FILE: "The ids in the file are not the target's: nothing of the file is used.",
    Quality.FIBER_MASKED: (
        "The fiber has flags, which mask no pixel. SDSS: and_mask bits 0-15 (SPPIXMASK), of single exposures; DESI: "
        "COADD_FIBERSTATUS (fibermask), of all exposures."
    ),
    Quality.TRUNCATED: "The file reaches beyond the wavelength grid; the pixels outside are cut.",
    Quality.OFF_GRID: "No pixel of the file falls on the wavelength grid.",
    Quality.BAD_PIXELS: "Pixels with a flux or ivar that is not finite, or a negative ivar: zeroed, weight 0.",
    Quality.FEW_PIXELS: (
        "Fewer pixels carry weight than `normalize.MIN_PIXELS`: it has latents, but they are unreliable."
    ),
    Quality.NO_PIXELS: "No pixel carries weight. There is nothing to scale by: norm is 1, flux is as in the file.",
    Quality.NO_REDSHIFT: (
        "The target's redshift is not finite or not above -1, or none was found where the model looks for it: no"
        " restframe, no reconstruction and no chi2."
    ),
    Quality.NO_NORM: "No valid pixel in restframe 5300-5850 Angstrom: scaled by the median of all valid flux.",
    Quality.NEGATIVE_NORM: (
        "The median that should scale the spectrum is not positive: scaled by the median of |flux| instead."
    ),
    Quality.ZERO_FLUX: "The flux of every valid pixel is zero: there is nothing to scale, norm is 1.",
    Quality.OUT_OF_RANGE: "Some weighted pixels lie outside the model's restframe range; they take no part in chi2.",
    Quality.NO_OVERLAP: "All weighted pixels lie outside the model's restframe range.",
    Quality.NOT_FINITE: "The model returned latents that are not finite.",
    Quality.AMPLITUDE_FITTED: (
        "The norm window has no valid pixel: the amplitude of the decoded model was fitted by weighted least squares."
    ),
    Quality.NEGATIVE_AMPLITUDE: (
        "The fitted amplitude is not positive: the model does not fit the spectrum. It has latents, but no restframe."
    ),
    Quality.NEEDS_REDSHIFT: "The model takes the redshift as input, and the target has none.",
    Quality.OUT_OF_DOMAIN: (
        "The target's class, redshift or signal-to-noise ratio is not one that the model was trained on."
    ),
}
"""What each bit means for a spectrum."""


def counts(quality: NDArray[np.uint32], unusable: Quality = Quality.UNUSABLE) -> dict[str, int | dict[str, int]]:
    """Count spectra: all, those without a bit ("good"), those without one of `unusable` ("usable"), and by bit."""
    by_bit = {bit.name or "": int(np.count_nonzero(quality & np.uint32(bit))) for bit in Quality}
    return {
        "spectra": len(quality),
        "good": int(np.count_nonzero(quality == 0)),
        "usable": int(np.count_nonzero((quality & np.uint32(unusable)) == 0)),
        "quality": {name: count for name, count in by_bit.items() if count},
    }


def flag_attributes() -> dict[str, NDArray[np.uint32] | str]:
    """Return the CF attributes of a `quality` variable: uint32 `flag_masks`, `flag_meanings` (CF 3.5)."""
    return {
        "flag_masks": np.array([bit.value for bit in Quality], dtype=np.uint32),
        "flag_meanings": " ".join((bit.name or "").lower() for bit in Quality),
    }
