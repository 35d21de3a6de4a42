"""The embedded default model `sdss-galaxies`: there, small, as named, good for real galaxies, and upstream's, too."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import spender as upstream
import torch
from spender.data.sdss import SDSS as UpstreamSDSS

import spender_core
from pipeline.planning.domain import Domain
from pipeline.results.batch import make_batch
from spender_core import PUBLISHED, SDSS, checkpoint_sha256, load_model
from spender_core.weights import read_extras

NAME = "sdss-galaxies"
FILE = Path(PUBLISHED[NAME].url)
CARD = FILE.with_suffix(".md")

# clean galaxies of the shared data that the model was trained on, from passive to starburst
GALAXIES = [
    (266, 51630, 486),
    (267, 51608, 413),
    (268, 51633, 223),
    (395, 51783, 525),
    (750, 52235, 328),
    (1232, 52731, 467),
    (1678, 53433, 1),
    (1997, 53442, 41),
    (2422, 54096, 519),
]


@pytest.fixture(scope="module")
def model():
    return load_model(NAME, SDSS())[0]


@pytest.fixture(scope="module")
def galaxies(mirror):
    """Spectra, weights and redshifts of `GALAXIES`."""
    return make_batch(str(mirror), GALAXIES)[:3]


def test_it_is_small_and_its_hash_is_pinned():
    assert FILE.parent == Path(spender_core.__file__).parent / "data"
    assert FILE.stat().st_size < 20_000_000
    assert len(PUBLISHED[NAME].sha256) >= 8
    assert checkpoint_sha256(NAME).startswith(PUBLISHED[NAME].sha256)


def test_it_takes_no_redshift_and_covers_what_is_seen_up_to_half_of_one(model):
    assert read_extras(NAME)["architecture"] == "spender"
    assert model.encoder.n_aux == 0
    assert model.wave_rest[0] <= 2522  # the grid's blue end at z = 0.5
    assert model.wave_rest[-1] >= 9289


def test_it_says_what_it_was_trained_on():
    extras = read_extras(NAME)
    domain = Domain.from_dict(extras["domain"])
    assert domain.classes == ("GALAXY",)
    assert domain.z[0] <= 0 < 0.5 <= domain.z[1]
    assert extras["instruments"] == ["sdss"]
    assert "MIT" in extras["licence"]
    assert {f"{plate:04d}-{mjd}-{fiber:04d}" for plate, mjd, fiber in GALAXIES} <= set(extras["trained_on"])


@torch.no_grad()
def test_it_carries_latents_of_its_training_galaxies_that_it_gives_itself(model, galaxies):
    extras = read_extras(NAME)
    latents, names = extras["latents"], extras["trained_on"]
    assert latents.shape == (len(names), model.n_latent) == (48, model.n_latent)
    kept = latents[[names.index(f"{plate:04d}-{mjd}-{fiber:04d}") for plate, mjd, fiber in GALAXIES]]
    torch.testing.assert_close(model.encode(galaxies[0]), kept, rtol=0, atol=1e-3)


@torch.no_grad()
def test_it_reconstructs_galaxies_of_its_training_sample(model, galaxies):
    spec, w, z = galaxies
    _, _, reconstruction, valid = model.reconstruct(spec, z=z)
    w = w * valid
    chi2 = (w * (spec - reconstruction) ** 2).sum(1) / (w > 0).sum(1)
    assert chi2.median() < 2.0
    residual = torch.where(w > 0, (spec - reconstruction).abs(), torch.nan).nanmedian(dim=1).values
    assert residual.median() < 0.08


@torch.no_grad()
def test_upstream_loads_it_and_gives_the_same_numbers(model, galaxies):
    spec, _, z = galaxies
    sdss = UpstreamSDSS()
    theirs = upstream.load_model(str(FILE), sdss).eval()
    ours = model._forward(spec, instrument=model.encoder.instrument, z=z)
    latents, restframe, reconstruction, *_ = theirs._forward(spec, instrument=sdss, z=z)
    for value, expected in zip(ours, (latents, restframe, reconstruction), strict=True):
        scale = expected.abs().amax(dim=1, keepdim=True)
        assert ((value - expected).abs() / scale).max() < 1e-5


@torch.no_grad()
def test_the_seeds_call_with_aux_works_with_one_warning(model, galaxies):
    spec, _, z = galaxies
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        s = model.encode(spec, aux=z.unsqueeze(1))
        model.encode(spec, aux=z.unsqueeze(1))
    assert [str(each.message) for each in caught] == ["this model takes no aux: what was given is ignored"]
    assert torch.equal(s, model.encode(spec))


@torch.no_grad()
def test_unnormalized_zero_spectrum_stays_finite(model):
    assert model.encode(torch.zeros(1, 3921)).isfinite().all()
