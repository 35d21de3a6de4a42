"""Quality bits: what the pipeline found, per spectrum, in one unsigned 32-bit number."""

from __future__ import annotations

import ast
import inspect
from enum import IntFlag
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


class Quality(IntFlag):
    """Bits of the `quality` variable, the same in `spectra.zarr` and in every `encodings/<model>.zarr`.

    0 is a spectrum without remarks. The encodings' value holds the bits set at ingest and those set by the
    model. Values are part of the stored format: a bit is never renumbered, new ones go at the end.
    """

    GOOD = 0

    NOT_PROCESSED = 1 << 0
    """The fill value: no task has written this spectrum yet."""

    NO_FILE = 1 << 1
    """The source has no file for this target."""

    BAD_FILE = 1 << 2
    """The file exists but cannot be read as a spectrum."""

    WRONG_FILE = 1 << 3
    """Plate, MJD or fiber in the file are not the target's: nothing of the file is used."""

    FIBER_MASKED = 1 << 4
    """and_mask has fiber-level bits (SPPIXMASK 0-15). They speak of exposures, not pixels: none is masked."""

    TRUNCATED = 1 << 5
    """The file reaches beyond the wavelength grid; the pixels outside are cut."""

    OFF_GRID = 1 << 6
    """No pixel of the file falls on the wavelength grid."""

    BAD_PIXELS = 1 << 7
    """Pixels with a flux or ivar that is not finite, or a negative ivar: zeroed, weight 0."""

    FEW_PIXELS = 1 << 8
    """Fewer pixels carry weight than `normalize.MIN_PIXELS`: latents exist, with little behind them."""

    NO_PIXELS = 1 << 9
    """No pixel carries weight. With nothing to scale by, norm is 1 and flux as in the file."""

    NO_REDSHIFT = 1 << 10
    """The target's redshift is not finite or not above -1."""

    NO_NORM = 1 << 11
    """No valid pixel in restframe 5300-5850 Angstrom: scaled by the median of all valid flux."""

    NEGATIVE_NORM = 1 << 12
    """The median that should scale the spectrum is not positive: scaled by the median of |flux| instead."""

    ZERO_FLUX = 1 << 13
    """The flux of every valid pixel is zero: there is nothing to scale, norm is 1."""

    OUT_OF_RANGE = 1 << 14
    """Some weighted pixels lie outside the model's restframe; they take no part in chi2."""

    NO_OVERLAP = 1 << 15
    """All weighted pixels lie outside the model's restframe."""

    NOT_FINITE = 1 << 16
    """The model returned latents that are not finite."""

    AMPLITUDE_FITTED = 1 << 17
    """Without the norm window, the amplitude of the decoded model was fitted by weighted least squares."""

    NEGATIVE_AMPLITUDE = 1 << 18
    """The amplitude fitted is not positive: the model does not describe this spectrum. Latents exist, no restframe."""

    UNUSABLE = (
        NOT_PROCESSED | NO_FILE | BAD_FILE | WRONG_FILE | OFF_GRID | NO_PIXELS | NO_REDSHIFT | ZERO_FLUX | NOT_FINITE
    )
    """Any of these means: no latents."""

    @staticmethod
    def describe(value: int) -> str:
        """Return the names of the bits joined with "|"; "GOOD" for 0, unknown bits as one number."""
        value = int(value)
        names = [bit.name or "" for bit in Quality if value & bit]
        unknown = value & ~sum(Quality)
        return "|".join(names + [hex(unknown)] * bool(unknown)) or "GOOD"


@cache
def meanings() -> dict[Quality, str]:
    """Return what each bit means, in the words that stand at its definition above."""
    (definition,) = ast.parse(inspect.getsource(Quality)).body
    assert isinstance(definition, ast.ClassDef)
    told = {
        assigned.targets[0].id: inspect.cleandoc(text.value.value)
        for assigned, text in pairwise(definition.body)
        if isinstance(assigned, ast.Assign) and isinstance(assigned.targets[0], ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }
    return {bit: told[bit.name or ""] for bit in Quality}


def flag_attributes() -> dict[str, NDArray[np.uint32] | str]:
    """Return the CF attributes of a `quality` variable: uint32 `flag_masks`, `flag_meanings` (CF 3.5)."""
    return {
        "flag_masks": np.array([bit.value for bit in Quality], dtype=np.uint32),
        "flag_meanings": " ".join((bit.name or "").lower() for bit in Quality),
    }
