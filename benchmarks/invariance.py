"""How far latents move when a galaxy is moved in redshift, and who is then nearest to whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from galaxies import Array, Basis, Galaxies, MockGalaxies, fit_components, read_components
from numpy.typing import NDArray
from torch import Tensor

from spender_core.instrument import SDSS
from spender_core.model import SpectrumModel

DRAWS = 20
REACH = 0.1  # largest change of a redshift
Z_MAX = 0.5
N_MOCK = 2000
SEED = 118
LOG_STEP = 1e-4
CHUNK = 250


@dataclass(frozen=True)
class Invariance:
    """Figures per galaxy, each shape (N,), medians or means over the draws.

    x: |s - s'|^2 / (S var), var the robust variance of each latent. ratio: that of the nearest other over x. first: how
    often the moved copy is nearest to its own galaxy.
    """

    x: Array
    ratio: Array
    first: Array


def moved(flux: Array, z: Array, rng: np.random.Generator) -> tuple[Tensor, Array]:
    """Move spectra by up to +-0.1 in redshift, within 0-0.5: shapes (N, L) and (N,), and their new redshifts.

    Linear interpolation; bins that were not observed are 0, as ingest leaves them.
    """
    new = np.clip(z + rng.uniform(-REACH, REACH, len(z)), 0, Z_MAX).astype(np.float32)
    shift = np.log10((1 + new.astype(np.float64)) / (1 + z.astype(np.float64))) / LOG_STEP
    place = np.arange(flux.shape[1]) - shift[:, None]
    left = np.floor(place).astype(np.intp)
    inside = (left >= 0) & (left + 1 < flux.shape[1])
    left = np.clip(left, 0, flux.shape[1] - 2)
    share = (place - left).astype(np.float32)
    lower, upper = (np.take_along_axis(flux, left + k, axis=1) for k in (0, 1))
    return torch.from_numpy(np.where(inside, lower + share * (upper - lower), 0).astype(np.float32)), new


def gallery(data: Path, galaxies: Galaxies) -> tuple[Tensor, Tensor]:
    """Draw mocks of eigenspectra, which only `sdss-demo` knows: spectra, shape (2000, L), and redshifts, (2000,)."""
    components = read_components(data)
    rows = np.flatnonzero(galaxies.clean)
    coefficients = fit_components(galaxies, components)[0][rows]
    basis = Basis.of(coefficients, components)
    mocks = MockGalaxies(galaxies, basis, basis.latents(coefficients), 1, SEED)
    batch = mocks.draw(np.random.default_rng(SEED), N_MOCK)
    return batch.spec, batch.z


@torch.inference_mode()
def encode(model: SpectrumModel, spec: Tensor, z: Tensor) -> Tensor:
    """Latents of spectra, shape (N, S), with the redshift where the model takes it."""
    parts = []
    for k in range(0, len(spec), CHUNK):
        aux = z[k : k + CHUNK, None] if model.encoder.n_aux else None
        parts.append(model.encode(spec[k : k + CHUNK], aux))
    return torch.cat(parts)


def robust_variance(s: Tensor) -> Tensor:
    """(1.48 MAD)^2 of each latent, (N, S) -> (S,): the units that distances between galaxies are measured in."""
    spread: Tensor = 1.4826 * (s - s.median(dim=0).values).abs().median(dim=0).values
    return spread.square()


def measure(
    model: SpectrumModel,
    galaxies: Galaxies,
    rows: NDArray[np.intp],
    judged: NDArray[np.intp],
    mocks: tuple[Tensor, Tensor],
    draws: int = DRAWS,
) -> Invariance:
    """Judge a model by some galaxies, `judged`, places in `rows`; the gallery is all of `rows` and the mocks."""
    flux, z = galaxies.flux[rows], galaxies.z[rows]
    assert flux.shape[1] == len(SDSS().wave_obs)
    own = encode(model, torch.from_numpy(flux), torch.from_numpy(z))
    scale = robust_variance(own)
    everyone = torch.cat([own, encode(model, *mocks)])
    place = torch.from_numpy(judged)

    def apart(s: Tensor) -> Tensor:
        return ((s[:, None] - everyone[None]).square() / scale).mean(2)

    others = apart(own[place])
    others[torch.arange(len(place)), place] = torch.inf
    nearest = others.min(dim=1).values
    rng = np.random.default_rng(SEED)
    x, first = [], []
    for _ in range(draws):
        spec, new = moved(flux, z, rng)
        distance = apart(encode(model, spec[place], torch.from_numpy(new[judged])))
        x.append(distance[torch.arange(len(place)), place])
        first.append((distance.argmin(dim=1) == place).float())
    middle = torch.stack(x).median(dim=0).values
    return Invariance(middle.numpy(), (nearest / middle).numpy(), torch.stack(first).mean(dim=0).numpy())
