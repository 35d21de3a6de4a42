"""Template spectra that redshifts are found with: restframe spectra of a kind of object on a logarithmic grid."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from .model import SpectrumModel

KINDS = ("GALAXY", "QSO", "STAR")
"""Kinds of objects that there are templates of."""

LOG_STEP = 1e-4
"""Bins of templates, in log10(wavelength): those of the SDSS and BOSS spectrographs."""

COMPONENTS = 6
"""Templates that are made of a decoder."""

_ROWS = 256  # spectra that are decoded at once


@dataclass(frozen=True)
class Templates:
    """Spectra of one kind of object.

    kind: "GALAXY", "QSO" or "STAR". start: log10 of the first wavelength in Angstrom, vacuum. flux: shape (K, T),
    float32, in steps of LOG_STEP. The spectra of this kind are linear combinations of all K, or, where `alternatives`,
    like one of them.
    """

    kind: str
    start: float
    flux: Tensor
    alternatives: bool = False


def of_decoder(model: SpectrumModel, latents: Tensor, kind: str = "GALAXY", components: int = COMPONENTS) -> Templates:
    """Make templates of a model: the leading components of what its decoder makes of a sample of latents.

    latents: shape (M, S), of the spectra that the model is for; M is at least `components`. The components are those
    of a singular value decomposition, without a mean taken off, so that they are linear in the flux. ValueError for too
    few latents, and for a decoder that gives anything but finite numbers.
    """
    if len(latents) < components:
        raise ValueError(f"{len(latents)} latents are given, expected at least {components}")
    with torch.no_grad():
        parts = [model.decode(part) for part in torch.split(latents.float(), _ROWS)]
    spectra = torch.cat(parts).double()
    if not torch.isfinite(spectra).all():
        raise ValueError("the decoder makes spectra that are not finite")
    wave = model.wave_rest.double().log10()
    start = wave[0].item()
    count = int((wave[-1].item() - start) / LOG_STEP + 1e-3) + 1
    grid = start + LOG_STEP * torch.arange(count, dtype=torch.float64)
    vectors = torch.linalg.svd(_interpolated(spectra, wave, grid), full_matrices=False)[2][:components]
    # The sign of a singular vector is free: that with a positive sum is taken. All are of order one.
    vectors = vectors * torch.where(vectors.sum(dim=1, keepdim=True) < 0, -1, 1) * count**0.5
    return Templates(kind, start, vectors.float())


def _interpolated(spectra: Tensor, wave: Tensor, grid: Tensor) -> Tensor:
    """Interpolate linearly, shape (M, R) on wave (R,) to grid (T,)."""
    right = torch.searchsorted(wave, grid).clamp(1, len(wave) - 1)
    share = (grid - wave[right - 1]) / (wave[right] - wave[right - 1])
    return spectra[:, right - 1] * (1 - share) + spectra[:, right] * share


@cache
def of_quasars() -> Templates:
    """Return the quasars' templates, four components: SDSS's spEigenQSO-55732, see `data/templates.md`."""
    return _embedded("QSO", alternatives=False)


@cache
def of_stars() -> Templates:
    """Return the stars' templates, one per kind of star: some of SDSS's spEigenStar-55734, see `data/templates.md`."""
    return _embedded("STAR", alternatives=True)


def _embedded(kind: str, *, alternatives: bool) -> Templates:
    data = resources.files("spender_core").joinpath(f"data/templates-{kind.lower()}.npz").read_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return Templates(kind, float(stored["start"]), torch.from_numpy(stored["flux"]), alternatives)
