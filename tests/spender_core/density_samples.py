"""Samples of latents with several modes, and trained densities of them, made once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from spender_core.dataset import validation
from spender_core.density import Density, density_of
from spender_core.density_fit import FlowSample, FlowSettings, fit_density
from spender_core.training_file import LocalFile

QUICK = FlowSettings(epochs=3, steps=24, batch_size=128, lr=0.01, bins=6, transforms=2, hidden=(16, 16))
SHA256 = "ab" * 32


def modes(n: int, n_latent: int = 3, seed: int = 1) -> np.ndarray:
    """Latents that lie in two clumps and along a ring between them."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 2 * np.pi, n)
    ring = np.stack([3 * np.cos(angle), 3 * np.sin(angle), *random.normal(size=(n_latent - 2, n))], axis=1)
    clump = random.choice([-6.0, 6.0], (n, 1)) * np.eye(n_latent)[0]
    centers = np.where(random.random((n, 1)) < 0.5, ring, clump)
    return np.asarray(centers + 0.3 * random.normal(size=(n, n_latent)), np.float32)


def sample(n: int = 3000, n_latent: int = 3, seed: int = 1) -> FlowSample:
    sn = np.random.default_rng(seed).lognormal(1.5, 0.5, n).astype(np.float32)
    held_out = validation(np.arange(n))
    return FlowSample(modes(n, n_latent, seed), held_out, sn, SHA256, {"survey": "toy"})


@cache
def trained(n_latent: int = 3) -> bytes:
    with TemporaryDirectory() as folder:
        file = LocalFile(Path(folder) / "flow.pt")
        fit_density(sample(n_latent=n_latent), QUICK, file)
        return file.read()


def density(n_latent: int = 3) -> Density:
    return density_of(trained(n_latent), "flow.pt")
