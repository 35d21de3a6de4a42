"""Training beside upstream's package: the same losses step by step, and checkpoints that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import spender as upstream
import torch
from spender.data.desi import DESI as UpstreamDESI
from spender.data.sdss import BOSS as UpstreamBOSS
from spender.data.sdss import SDSS as UpstreamSDSS
from spender.loss import LossConfig, get_losses
from torch import Tensor

from spender_core import (
    Augmentation,
    Batch,
    Instrument,
    Losses,
    Moment,
    Objective,
    Settings,
    SpectrumAutoencoder,
    SpectrumModel,
    Stopped,
    fit,
)
from spender_core.augment import augmented
from spender_core.dataset import Split
from tests.galaxies import flat_galaxies

from .training_samples import coarse

pytestmark = pytest.mark.slow

STEPS = 100  # that are compared: the first ones of a run of 2000, in which the rate rises as in any long run
PER_EPOCH = 50
SETTINGS = Settings(epochs=40, batch_size=5, summed=True)

CONFIG = LossConfig()
FIDELITY = Losses()
ALL = Losses(CONFIG.similarity_amp, CONFIG.consistency_amp, augmentation=Augmentation.SDSS)

UPSTREAM = {"sdss": UpstreamSDSS, "boss": UpstreamBOSS, "desi": UpstreamDESI}


class Mocks:
    """Mock spectra of `PER_EPOCH` batches, the same in every epoch, in the precision of `dtype`."""

    identity = "mocks"

    def __init__(self, instrument: Instrument, dtype: torch.dtype) -> None:
        n = PER_EPOCH * SETTINGS.batch_size
        rng = np.random.default_rng(5)
        wave = instrument.wave_obs.numpy()
        wave_rest, restframes = flat_galaxies(rng, n)
        z = rng.uniform(0, 0.4, n)
        flux = np.array([np.interp(wave, wave_rest * (1 + x), y) for x, y in zip(z, restframes, strict=True)])
        ivar = rng.uniform(10, 300, (n, 1)) * (rng.random(flux.shape) > 0.1)  # a tenth of the pixels is masked
        noise = rng.standard_normal(flux.shape) / np.sqrt(np.maximum(ivar, 1))
        spec = np.where(ivar > 0, flux + noise, 0)
        tensors = (torch.from_numpy(x).to(torch.float32).to(dtype) for x in (spec, ivar, z))
        self._all = Batch(*tensors, rows=torch.arange(n))

    def steps(self, split: Split, batch_size: int) -> int:
        return PER_EPOCH if split == "train" else 0

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        for i in range(begin, self.steps(split, batch_size)):
            yield self._all[i * batch_size : (i + 1) * batch_size]


@dataclass(frozen=True)
class Recorded:
    """An objective that keeps the loss of each step."""

    objective: Objective
    losses: list[float] = field(default_factory=list)

    @property
    def identity(self) -> str | dict[str, Any]:
        return self.objective.identity

    def __call__(self, model: SpectrumModel, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        terms = self.objective(model, batch, moment)
        self.losses.append(sum(term.item() for term in terms.values()))
        return terms


def ours(model: SpectrumAutoencoder, mocks: Mocks, losses: Losses) -> list[float]:
    recorded = Recorded(losses)
    with pytest.raises(Stopped):
        fit([(model, mocks)], SETTINGS, None, recorded, stop=lambda: len(recorded.losses) == STEPS)
    return recorded.losses


def theirs(model: upstream.SpectrumAutoencoder, mocks: Mocks, losses: Losses) -> list[float]:
    """Train upstream's model by its own losses, and torch's own schedule."""
    optimizer = torch.optim.Adam(model.parameters(), SETTINGS.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, SETTINGS.lr, total_steps=SETTINGS.epochs * PER_EPOCH)
    instrument, found = model.encoder.instrument, []
    for step in range(STEPS):
        epoch = step // PER_EPOCH
        batch = next(mocks.batches("train", epoch, SETTINGS.batch_size, step % PER_EPOCH))
        copies = augmented(*batch.tensors()[:4], instrument.wave_obs, Augmentation.SDSS, SETTINGS.seed, epoch)
        fidelity, similarity, consistency = get_losses(
            model,
            instrument,
            (batch.spec, batch.w, batch.z),
            aug_fct=lambda _, copies=copies: copies,
            similarity=losses.similarity > 0,
            consistency=losses.consistency > 0,
            loss_config=CONFIG,
        )
        loss = fidelity + CONFIG.similarity_amp * similarity + CONFIG.consistency_amp * consistency
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        found.append(loss.item())
    return found


def require_the_same(model: SpectrumAutoencoder, losses: Losses, rtol: float, steps: int = STEPS) -> None:
    """Train a model and a copy of it in upstream's package, and compare the losses of the first steps."""
    dtype = model.wave_rest.dtype
    other = upstream.SpectrumAutoencoder(
        upstream.instrument.Instrument(model.wave_obs), model.wave_rest, n_latent=model.n_latent
    )
    other.to(dtype).load_state_dict(model.state_dict())
    mocks = Mocks(model.encoder.instrument, dtype)
    found, expected = ours(model, mocks, losses), theirs(other, mocks, losses)
    # the same spectra in both epochs: something was learned
    assert np.mean(expected[PER_EPOCH:]) < 0.95 * np.mean(expected[:PER_EPOCH])
    np.testing.assert_allclose(found[:steps], expected[:steps], rtol=rtol)


def new_model(instrument: Instrument, dtype: torch.dtype) -> SpectrumAutoencoder:
    torch.manual_seed(2)
    return SpectrumAutoencoder(instrument, torch.linspace(2400.0, 9400.0, 300), n_latent=6).to(dtype)


def test_a_hundred_steps_have_upstreams_losses():
    require_the_same(new_model(coarse(step=20), torch.float32), FIDELITY, rtol=1e-3)


def test_steps_with_similarity_and_consistency_have_upstreams_losses():
    # In float64: these compare latents, which new weights make nearly equal, and rounding grows from step to step:
    # after some sixty it has reached 1e-6, and a percent after a hundred.
    require_the_same(new_model(coarse(step=20), torch.float64), ALL, rtol=1e-6, steps=50)
