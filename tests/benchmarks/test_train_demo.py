"""The scripts behind the embedded model: their data, their mocks, their start, their verdict."""

from __future__ import annotations

import numpy as np
import pytest
import reconstruction
import torch
import train_demo
from galaxies import Basis, MockGalaxies, fit_components, read_components, read_galaxies

from spender_core.settings import Settings

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def galaxies(shared_data):
    return read_galaxies(shared_data)


@pytest.fixture(scope="module")
def components(shared_data):
    return read_components(shared_data)


@pytest.fixture(scope="module")
def basis(galaxies, components):
    coefficients = fit_components(galaxies, components)[0][galaxies.clean]
    return Basis.of(coefficients, components), coefficients


@pytest.fixture(scope="module")
def mocks(galaxies, basis):
    return MockGalaxies(galaxies, basis[0], basis[0].latents(basis[1]), steps=2)


def test_the_sample_is_the_clean_galaxies(galaxies):
    assert len(galaxies.names) == 117
    assert galaxies.clean.sum() == 64
    assert (galaxies.clean & galaxies.legacy).sum() == 55


def test_component_fits_reproduce_the_reference(galaxies, components):
    # 1.41 was measured for those of the 55 that upstream can prepare; one more moves the median a little
    _, fitted = fit_components(galaxies, components)
    part = galaxies.clean & galaxies.legacy
    weight = galaxies.ivar * (fitted != 0)
    chi2 = (weight * (galaxies.flux - fitted) ** 2)[part].sum(1) / (weight > 0)[part].sum(1)
    assert np.median(chi2) == pytest.approx(1.41, abs=0.03)


def test_latents_give_the_component_spectrum_back(basis, components):
    made, coefficients = basis
    spectra = made.offset + made.latents(coefficients) @ made.response
    np.testing.assert_allclose(spectra, coefficients @ components, atol=2e-4 * np.abs(coefficients).max())


def test_decoder_starts_as_the_basis(basis):
    made, coefficients = basis
    model = train_demo.new_model()
    train_demo.start_decoder(model, made)
    s = np.zeros((len(coefficients), train_demo.N_LATENT), np.float32)
    s[:, :4] = made.latents(coefficients)
    expected = made.offset + s[:, :4] @ made.response
    with torch.no_grad():
        np.testing.assert_allclose(model.decode(torch.from_numpy(s)).numpy(), expected, atol=1e-4)


def test_known_latents_of_mocks_leave_only_their_noise(mocks, basis):
    made = basis[0]
    batch = mocks.draw(np.random.default_rng(0), 64)
    model = train_demo.new_model()
    train_demo.start_decoder(model, made)
    s = torch.zeros(64, train_demo.N_LATENT)
    s[:, :4] = batch.s
    with torch.no_grad():
        _, _, reconstruction, valid = model.reconstruct(batch.spec, z=batch.z, s=s)
    w = batch.w * valid
    chi2 = (w * (batch.spec - reconstruction) ** 2).sum(1) / (w > 0).sum(1)
    assert abs(chi2.median().item() - 1) < 0.1


def test_mocks_are_new_in_every_epoch_and_repeatable(mocks):
    first, again, later = (next(iter(mocks.batches("train", epoch, 4))).spec for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_folds_share_no_object_though_some_were_observed_twice(galaxies):
    objects = galaxies.objects[galaxies.clean]
    fold = train_demo.folds(objects)
    assert len(set(objects.tolist())) < len(objects) == 64
    assert all(len(set(fold[objects == one].tolist())) == 1 for one in objects)
    assert min(np.bincount(fold)) >= 10
    twice = [galaxies.names.index(name) for name in ("0411-51817-0119", "0411-51873-0101")]
    assert len(set(galaxies.objects[twice].tolist())) == 1


def test_training_and_verdict_run_end_to_end(shared_data, tmp_path, monkeypatch, capsys):
    tiny = Settings(epochs=1, batch_size=2, seed=1)
    for name in ("WARM_UP", "JOINT", "REAL"):
        monkeypatch.setattr(train_demo, name, tiny)
    monkeypatch.setattr(train_demo, "STEPS", 1)
    monkeypatch.setattr(train_demo, "REAL_STEPS", 1)
    train_demo.train(shared_data, tmp_path, compiled=False)
    train_demo.ship(shared_data, tmp_path, tmp_path / "model.pt")
    assert "SHA-256" in capsys.readouterr().out

    judged = reconstruction.judge(shared_data, tmp_path)
    assert np.isfinite(judged.chi2).all()
    # the components are fitted to these very pixels: an untrained encoder cannot do as well
    assert np.median(judged.ratio) > 1.5
    assert len(reconstruction.table(judged).splitlines()) == 2 + 64
