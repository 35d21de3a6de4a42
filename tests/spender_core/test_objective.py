from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from spender import loss as upstream

from spender_core import Augmentation, Losses, Moment, Own, Slope
from spender_core.augment import augmented
from spender_core.precision import arithmetic

from .training_samples import coarse, make_models, survey

MOMENT = Moment(epoch=3, epochs=10, step=0, steps=1, seed=5)
SIMPLE = Losses(similarity=3.0, consistency=1.0, augmentation=Augmentation.SDSS)


@pytest.fixture
def model():
    return make_models(coarse())[0]


@pytest.fixture
def batch():
    return next(iter(survey(coarse()).batches("train", 0, 8)))


def latents_of_copies(model, batch, epoch, seed=5):
    spec, _, _ = augmented(
        batch.spec, batch.w, batch.z, batch.rows, model.wave_obs, Augmentation.SDSS, seed=seed, epoch=epoch
    )
    return model.encode(spec)


@torch.no_grad()
def test_the_terms_are_upstreams_times_their_weights(model, batch):
    terms = SIMPLE(model, batch, MOMENT)
    s = model.encode(batch.spec)
    assert list(terms) == ["fidelity", "similarity", "consistency"]
    fidelity = model.loss(batch.spec, batch.w, z=batch.z)
    torch.testing.assert_close(terms["fidelity"], fidelity)
    torch.testing.assert_close(terms["similarity"], 3 * upstream.similarity_restframe_loss(model, s), rtol=1e-4, atol=0)
    consistency = upstream.consistency_loss(s, latents_of_copies(model, batch, epoch=3))
    torch.testing.assert_close(terms["consistency"], consistency, rtol=1e-4, atol=0)


@torch.no_grad()
def test_a_loss_without_weight_is_left_out(model, batch):
    assert list(Losses()(model, batch, MOMENT)) == ["fidelity"]
    assert list(Losses(similarity=1.0)(model, replace(batch, rows=None), MOMENT)) == ["fidelity", "similarity"]


@torch.no_grad()
def test_the_slope_of_the_epoch_enters_where_it_is_said(model, batch):
    cycles = Slope("cycles", top=3.0, step=1.0, cycle=4, last=2)
    assert [cycles.at(epoch, 10) for epoch in range(10)] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 0]
    assert Slope(value=7.0).at(99, 100) == 7.0
    steep, flat = (SIMPLE.__class__(**{**vars(SIMPLE), "slope": Slope(value=value)}) for value in (5.0, 0.5))
    found = [losses(model, batch, MOMENT) for losses in (steep, flat)]
    assert found[0]["similarity"] != found[1]["similarity"]
    assert found[0]["consistency"] == found[1]["consistency"]
    sloped = replace(SIMPLE, slope=Slope(value=0.5), sloped_consistency=True)
    torch.testing.assert_close(sloped(model, batch, MOMENT)["consistency"], found[1]["consistency"] / 2)


@torch.no_grad()
def test_a_validation_alters_its_spectra_alike_in_every_epoch(model, batch):
    def consistency(epoch, training):
        return SIMPLE(model, batch, replace(MOMENT, epoch=epoch, training=training))["consistency"]

    assert consistency(3, True) != consistency(4, True)
    assert consistency(3, False) == consistency(4, False) == consistency(0, True)
    assert SIMPLE(model, batch, replace(MOMENT, seed=6))["consistency"] != consistency(3, True)


@torch.no_grad()
def test_in_bfloat16_losses_of_small_differences_stay_close(model, batch):
    exact = SIMPLE(model, batch, MOMENT)
    with arithmetic("bf16", torch.device("cpu")):
        rough = SIMPLE(model, batch, MOMENT)
    assert all(value.dtype == torch.float32 for value in rough.values())
    # relative to the latents, of which bfloat16 keeps 8 bits and which differ from each other by a tenth
    for name, tolerance in (("fidelity", 1e-4), ("similarity", 0.05), ("consistency", 0.05)):
        torch.testing.assert_close(rough[name], exact[name], rtol=tolerance, atol=0)


def test_consistency_needs_augmentation_and_rows(model, batch):
    with pytest.raises(ValueError, match="there is no augmentation"):
        Losses(consistency=1.0)
    with pytest.raises(ValueError, match="the batch has no rows"):
        SIMPLE(model, replace(batch, rows=None), MOMENT)


def test_an_own_function_is_a_mean_and_its_term_a_sum(model, batch):
    own = Own("half", lambda model, batch: torch.tensor(0.5))
    assert own.identity == "half"
    assert own(model, batch, MOMENT) == {"half": 4.0}
