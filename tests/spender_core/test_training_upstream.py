"""Training beside upstream's package: the same losses step by step, and checkpoints that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
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
    BOSS,
    DESI,
    LSF,
    SDSS,
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
    get_instrument,
    load_model,
)
from spender_core.augment import augmented
from spender_core.dataset import Split
from tests.galaxies import flat_galaxies

from .training_samples import coarse, make_models, survey

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


def require_the_same(model: SpectrumAutoencoder, losses: Losses, rtol: float) -> None:
    """Train a model and a copy of it in upstream's package, and compare the losses of every step."""
    dtype = model.wave_rest.dtype
    other = upstream.SpectrumAutoencoder(
        upstream.instrument.Instrument(model.wave_obs), model.wave_rest, n_latent=model.n_latent
    )
    other.to(dtype).load_state_dict(model.state_dict())
    mocks = Mocks(model.encoder.instrument, dtype)
    found, expected = ours(model, mocks, losses), theirs(other, mocks, losses)
    # the same spectra in both epochs: something was learned
    assert np.mean(expected[PER_EPOCH:]) < 0.95 * np.mean(expected[:PER_EPOCH])
    np.testing.assert_allclose(found, expected, rtol=rtol)


def new_model(instrument: Instrument, dtype: torch.dtype) -> SpectrumAutoencoder:
    torch.manual_seed(2)
    return SpectrumAutoencoder(instrument, torch.linspace(2400.0, 9400.0, 300), n_latent=6).to(dtype)


def test_a_hundred_steps_have_upstreams_losses():
    require_the_same(new_model(coarse(step=20), torch.float32), FIDELITY, rtol=1e-3)


def test_a_hundred_steps_with_similarity_and_consistency_have_upstreams_losses():
    # In float64: these compare latents, which new weights make nearly equal. Rounding to float32 alone leads a run,
    # upstream's as well as ours, a few percent away within a hundred steps.
    require_the_same(new_model(coarse(step=20), torch.float64), ALL, rtol=1e-6)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_steps_on_the_grid_of_sdss_have_upstreams_losses():
    require_the_same(new_model(SDSS(), torch.float32), FIDELITY, rtol=1e-3)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_steps_of_a_trained_model_have_upstreams_losses():
    model, _ = load_model("sdss-galaxies", SDSS())
    require_the_same(model.train(), ALL, rtol=1e-3)


@pytest.fixture(scope="module", params=[False, True], ids=["sharp", "learned-lsf"])
def checkpoint(request, tmp_path_factory):
    """Train models of three instruments together, with line spread functions to learn or without."""
    file = tmp_path_factory.mktemp("trained") / "m.pt"
    instruments = [kind(LSF.delta(5) if request.param else None) for kind in (SDSS, BOSS, DESI)]
    models = make_models(*instruments)
    pairs = [(model, survey(model.encoder.instrument, 6)) for model in models]
    fit(pairs, Settings(epochs=1, batch_size=4, lsf_lr=1e-2, schedule="constant"), file)
    for instrument in instruments:
        assert instrument.lsf is None or (instrument.lsf.weight - LSF.delta(5).weight).abs().max() > 1e-3
    return file


@torch.no_grad()
def require_upstreams_numbers(file: Path, name: str) -> None:
    """Compute all that upstream does from a checkpoint, and compare."""
    model, _ = load_model(file, get_instrument(name))
    other = upstream.load_model(str(file), UPSTREAM[name]()).eval()
    rng = torch.Generator().manual_seed(4)
    spec = 1 + 0.1 * torch.randn(3, len(model.wave_obs), generator=rng)
    w, z = torch.rand(spec.shape, generator=rng), torch.tensor([0.02, 0.1, 0.3])
    for found, expected in zip(model._forward(spec, z=z), other._forward(spec, z=z), strict=False):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    torch.testing.assert_close(model.loss(spec, w, z=z), other.loss(spec, w, z=z), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstream_computes_our_numbers_from_each_model_of_a_checkpoint(checkpoint, name, tmp_path):
    # upstream's reader knows one model per file: give it each in turn
    state = torch.load(checkpoint, weights_only=True)
    place = state["instruments"].index(name)
    state["model"], state["instruments"] = state["model"][place], [name]
    torch.save(state, tmp_path / "one.pt")
    require_upstreams_numbers(tmp_path / "one.pt", name)


def test_upstream_takes_the_first_model_of_a_checkpoint(checkpoint):
    assert torch.load(checkpoint, weights_only=True)["instruments"] == ["sdss", "boss", "desi"]
    require_upstreams_numbers(checkpoint, "sdss")
