"""The embedded model `sdss-demo`: there, small, as named, and good for real galaxies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import spender_core
from pipeline.results.batch import make_batch
from spender_core import PUBLISHED, SDSS, checkpoint_sha256, load_model
from spender_core.weights import read_extras

CARD = Path(spender_core.__file__).parent / "data" / "sdss-demo.md"

# clean galaxies of the shared data, from passive to starburst
GALAXIES = [
    (266, 51630, 461),
    (267, 51608, 413),
    (268, 51633, 223),
    (509, 52374, 631),
    (1232, 52731, 467),
    (1678, 53433, 1),
    (1997, 53442, 41),
    (2359, 53826, 199),
    (2422, 54096, 519),
]


def test_it_is_small_and_its_hash_is_pinned():
    file = Path(PUBLISHED["sdss-demo"].url)
    assert file.stat().st_size < 20e6
    assert checkpoint_sha256("sdss-demo").startswith(PUBLISHED["sdss-demo"].sha256)


def test_it_carries_latents_of_its_training_galaxies_that_it_gives_itself(mirror):
    latents = read_extras("sdss-demo")["latents"]
    model, _ = load_model("sdss-demo", SDSS())
    assert latents.shape == (64, model.n_latent)
    spec, _, z, _, _, _ = make_batch(str(mirror), GALAXIES)
    with torch.no_grad():
        s = model.encode(spec, aux=z.unsqueeze(1))
    nearest = torch.cdist(s, latents).min(dim=1).values
    assert nearest.max() < 1e-3


def test_it_reconstructs_galaxies_of_its_training_sample(mirror):
    spec, w, z, _, _, _ = make_batch(str(mirror), GALAXIES)
    model, _ = load_model("sdss-demo", SDSS())
    with torch.no_grad():
        _, _, reconstruction, valid = model.reconstruct(spec, z=z)
    w = w * valid
    chi2 = (w * (spec - reconstruction) ** 2).sum(1) / (w > 0).sum(1)
    assert chi2.median() < 2.0
    residual = torch.where(w > 0, (spec - reconstruction).abs(), torch.nan).nanmedian(dim=1).values
    assert residual.median() < 0.08


def test_its_card_is_about_this_file():
    assert checkpoint_sha256("sdss-demo") in CARD.read_text(encoding="utf-8")


def test_its_card_has_a_row_for_every_unseen_galaxy():
    rows = [line.split("|")[1:-1] for line in CARD.read_text(encoding="utf-8").splitlines() if " chi2 " not in line]
    galaxies = [row for row in rows if len(row) == 9 and row[4].strip().isdigit()]
    assert len(galaxies) == 64
    chi2, ratio = (np.array([float(row[k]) for row in galaxies]) for k in (5, 7))
    residual = np.array([float(row[8].removesuffix("% ")) for row in galaxies])
    assert np.median(chi2) <= 2.0
    assert np.median(ratio) <= 1.4
    assert np.median(residual) <= 8.0


def test_unnormalized_zero_spectrum_stays_finite():
    model, _ = load_model("sdss-demo", SDSS())
    with torch.no_grad():
        assert model.encode(torch.zeros(1, 3921), aux=torch.zeros(1, 1)).isfinite().all()


@pytest.mark.parametrize("name", ["sdss-demo"])
def test_the_seeds_example_works_literally(name, mirror):
    sdss = SDSS()
    model, _ = load_model(name, sdss)
    spec, w, z, ids, norm, zerr = make_batch(str(mirror), GALAXIES[:2])
    with torch.no_grad():
        s, spec_rest, spec_reco = model._forward(spec, instrument=sdss, z=z)
        assert torch.equal(model(spec, instrument=sdss, z=z), spec_reco)
        assert torch.equal(model.encode(spec, aux=z.unsqueeze(1)), s)
    assert spec_reco.shape == w.shape == (2, 3921)
    assert spec_rest.shape == (2, len(model.wave_rest))
    assert ids.dtype == torch.int32
    assert norm.shape == zerr.shape == (2,)
