"""Spectra and models that are trained in seconds."""

from __future__ import annotations

import numpy as np
import torch

from spender_core import LSF, SDSS, Instrument, SpectrumAutoencoder, SpectrumDataset

WAVE_REST = torch.linspace(2400.0, 10400.0, 500)
N = 24


def coarse(name: str = "sdss", step: int = 24, lsf: LSF | None = None) -> Instrument:
    """Make an instrument with every `step`-th bin of the SDSS grid."""
    return Instrument(name, SDSS().wave_obs[::step].clone(), lsf)


def survey(instrument: Instrument, n: int = N, seed: int = 0) -> SpectrumDataset:
    """Spectra of one smooth shape at many slopes, with noise of a tenth."""
    rng = np.random.default_rng(seed)
    wave = instrument.wave_obs.numpy() / 6000
    flux = 1 + rng.uniform(-3, 3, (n, 1)) * (wave - 1) + 0.1 * rng.standard_normal((n, len(wave)))
    ivar = np.full(flux.shape, 100.0, np.float32)
    ids = rng.integers(1, 2**64, n, dtype=np.uint64)
    return SpectrumDataset(flux.astype(np.float32), ivar, rng.uniform(0, 0.3, n), ids, block=10)


def make_models(*instruments: Instrument) -> list[SpectrumAutoencoder]:
    """Make untrained models that share a decoder, always the same ones."""
    torch.manual_seed(0)
    models = [SpectrumAutoencoder(instrument, WAVE_REST, n_latent=2) for instrument in instruments]
    for other in models[1:]:
        other.decoder = models[0].decoder
    return models
