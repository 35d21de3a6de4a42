"""A spectrum as its file has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.spectra.quality import Quality


class BadSpectrum(ValueError):  # noqa: N818 - what it says is wrong is the file, not the program
    """The bytes are not a readable spectrum; the message says why."""


class WrongSpectrum(BadSpectrum):
    """The file is of another target; the message says of which."""


@dataclass(frozen=True)
class NoSpectrum:
    """There is no spectrum: the quality bit, and the reason in words."""

    bit: Quality
    reason: str


@dataclass(frozen=True)
class RawSpectrum:
    """A spectrum as its file has it, native byte order, before any masking.

    flux: shape (n,), float32, 1e-17 erg s-1 cm-2 Angstrom-1. ivar: shape (n,), float32, its inverse variance.
    axis: shape (n,), float32, where the pixels are, in equal steps: log10 of the vacuum heliocentric wavelength in
    Angstrom, or, where `is_log` is False, that wavelength itself.
    mask: shape (n,), int64, bits of what is wrong with a pixel. masking_bits: those of them that mask it; the others
    speak of the spectrum as a whole.
    ids: what the file says of whose spectrum it is, by name; None for what it does not say. z, z_err: its redshift.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    axis: NDArray[np.floating]
    mask: NDArray[np.int64]
    masking_bits: int = -1
    is_log: bool = True
    ids: Mapping[str, int | None] = field(default_factory=dict)
    z: float | None = None
    z_err: float | None = None

    def contradicts(self, ids: Mapping[str, int]) -> bool:
        """Tell whether an id in the file is another than given; one that the file does not have contradicts nothing."""
        return any(self.ids.get(name) not in (None, value) for name, value in ids.items())
