"""Galaxies of the embedded model as SDSS would see them, for tests of redshifts and of latents that are fitted."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from spender_core.basis import Basis
from spender_core.instrument import SDSS, Instrument
from spender_core.model import SpectrumModel
from spender_core.weights import load_model, read_extras

NAME = "sdss-galaxies"


class Galaxies(NamedTuple):
    """N spectra: normalized flux, its inverse variance, both shape (N, L), redshifts (N,), latents (N, S)."""

    flux: Tensor
    ivar: Tensor
    z: Tensor
    latents: Tensor


@cache
def embedded() -> tuple[SpectrumModel, Tensor, Basis]:
    """Give the model, latents of its galaxies, and what it is fitted with."""
    model, _ = load_model(NAME, SDSS())
    latents = read_extras(NAME)["latents"].float()
    return model, latents, Basis.of(model, latents)


@torch.no_grad()
def galaxies(n: int, noise: float, seed: int = 4, instrument: Instrument | None = None) -> Galaxies:
    """Make noisy galaxies of known redshift; noise: of a pixel, in units of the norm. A tenth of them is masked."""
    model, latents, _ = embedded()
    random = torch.Generator().manual_seed(seed)
    chosen = latents[torch.randperm(len(latents), generator=random)[:n]]
    z = 0.02 + 0.4 * torch.rand(len(chosen), generator=random)
    clean = model.decoder(chosen, instrument or SDSS(), z).float()
    flux = clean + noise * torch.randn(clean.shape, generator=random)
    ivar = torch.where(torch.rand(clean.shape, generator=random) < 0.1, 0.0, noise**-2)
    return Galaxies(flux, ivar * (clean != 0), z, chosen)
