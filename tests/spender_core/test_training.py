from __future__ import annotations

import numpy as np
import pytest
import torch

from spender_core import SDSS, Instrument, SpectrumAutoencoder, SpectrumDataset, architectures, load_model
from spender_core import Settings as Training
from spender_core.training import fidelity_loss, fit, validation

from ..toy_architecture import Toy

pytestmark = pytest.mark.slow

WAVE_REST = torch.linspace(2400.0, 10400.0, 500)
N = 24


def coarse(name="sdss", step=24):
    """Make an instrument with every `step`-th bin of the SDSS grid, to train in seconds."""
    return Instrument(name, SDSS().wave_obs[::step].clone())


def survey(instrument, n=N, seed=0):
    """Spectra of one smooth shape at many slopes, with noise of a tenth."""
    rng = np.random.default_rng(seed)
    wave = instrument.wave_obs.numpy() / 6000
    flux = 1 + rng.uniform(-3, 3, (n, 1)) * (wave - 1) + 0.1 * rng.standard_normal((n, len(wave)))
    ivar = np.full(flux.shape, 100.0, np.float32)
    ids = rng.integers(1, 2**64, n, dtype=np.uint64)
    return SpectrumDataset(flux.astype(np.float32), ivar, rng.uniform(0, 0.3, n), ids, block=10)


def model(*instruments):
    torch.manual_seed(0)
    models = [SpectrumAutoencoder(instrument, WAVE_REST, n_latent=2) for instrument in instruments]
    for other in models[1:]:
        other.decoder = models[0].decoder
    return models


SETTINGS = Training(epochs=2, batch_size=8, lr=1e-3)


def test_training_lowers_the_loss():
    sdss = coarse()
    history = fit(list(zip(model(sdss), [survey(sdss)], strict=True)), Training(25, 8, 5e-3), progress=False)
    losses = [epoch["sdss"] for epoch in history["train"]]
    assert len(losses) == len(history["valid"]) == 25
    assert losses[-1] < 0.5 * losses[0]
    assert history["valid"][-1]["sdss"] < history["valid"][0]["sdss"]


def test_two_instruments_share_one_decoder(tmp_path):
    instruments = coarse(), coarse("boss", 20)
    models = model(*instruments)
    before = models[0].decoder.mlp[0].weight.clone()
    pairs = [(m, survey(i, seed=k)) for k, (m, i) in enumerate(zip(models, instruments, strict=True))]
    history = fit(pairs, SETTINGS, tmp_path / "both.pt", progress=False)
    assert set(history["train"][0]) == set(history["valid"][0]) == {"sdss", "boss"}
    assert not torch.equal(before, models[0].decoder.mlp[0].weight)
    for instrument, trained in zip(instruments, models, strict=True):
        loaded, losses = load_model(tmp_path / "both.pt", instrument)
        assert losses == history
        spec = torch.ones(1, len(instrument.wave_obs))
        assert torch.equal(loaded.encode(spec), trained.eval().encode(spec))


def test_own_decoders_are_refused():
    a, b = coarse(), coarse("boss")
    pairs = [(model(a)[0], survey(a)), (model(b)[0], survey(b))]
    with pytest.raises(ValueError, match="one decoder shared"):
        fit(pairs, SETTINGS, progress=False)


def test_resumed_training_equals_undisturbed_training(tmp_path):
    class Stopped(Exception):  # noqa: N818
        pass

    class Stopping(SpectrumDataset):
        def batches(self, split, epoch, batch_size):
            if epoch == 1 and self.armed:
                raise Stopped
            return super().batches(split, epoch, batch_size)

    sdss = coarse()
    whole = model(sdss)[0]
    expected = fit([(whole, survey(sdss))], SETTINGS, progress=False)

    part = model(sdss)[0]
    stopping = survey(sdss)
    stopping.__class__ = Stopping
    stopping.armed = True
    with pytest.raises(Stopped):
        fit([(part, stopping)], SETTINGS, tmp_path / "model.pt", progress=False)
    resumed = model(sdss)[0]
    found = fit([(resumed, survey(sdss))], SETTINGS, tmp_path / "model.pt", progress=False)
    assert found == expected
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoint_of_other_settings_is_refused_by_name(tmp_path):
    sdss = coarse()
    fit([(model(sdss)[0], survey(sdss))], Training(1, 8), tmp_path / "model.pt", progress=False)
    with pytest.raises(ValueError, match="another training run: epochs is 2 here and 1 there"):
        fit([(model(sdss)[0], survey(sdss))], Training(2, 8), tmp_path / "model.pt", progress=False)


def other_loss(autoencoder, batch):
    return 7 * autoencoder.loss(batch.spec, batch.w, z=batch.z)


@pytest.mark.parametrize("what", ["spectra", "loss", "latents", "restframe"])
def test_checkpoint_of_other_spectra_loss_or_architecture_is_refused_by_name(what, tmp_path):
    sdss = coarse()
    fit([(model(sdss)[0], survey(sdss))], Training(1, 8), tmp_path / "model.pt", progress=False)
    wave = torch.linspace(3000.0, 9400.0, 500) if what == "restframe" else WAVE_REST
    autoencoder = SpectrumAutoencoder(sdss, wave, n_latent=3 if what == "latents" else 2)
    spectra = survey(sdss, seed=1 if what == "spectra" else 0)
    loss = other_loss if what == "loss" else fidelity_loss
    with pytest.raises(ValueError, match=f"another training run: {what}"):
        fit([(autoencoder, spectra)], Training(1, 8), tmp_path / "model.pt", loss, progress=False)


def test_the_checkpoint_names_the_architecture(tmp_path):
    sdss = coarse()
    fit([(model(sdss)[0], survey(sdss))], Training(1, 8), tmp_path / "model.pt", progress=False)
    written = torch.load(tmp_path / "model.pt", weights_only=True)
    assert written["architecture"] == "spender"
    assert written["arguments"] == {"n_latent": 2, "n_aux": 0, "speculator": True}


def test_extras_of_another_model_do_not_replace_its_architecture(tmp_path):
    sdss = coarse()
    extras = {"architecture": "other", "arguments": {}, "note": "kept"}
    fit([(model(sdss)[0], survey(sdss))], Training(1, 8), tmp_path / "model.pt", progress=False, extras=extras)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["note"] == "kept"
    assert load_model(tmp_path / "model.pt", sdss)[0].n_latent == 2


def test_training_goes_on_from_a_file_that_names_no_architecture(tmp_path):
    sdss, file = coarse(), tmp_path / "model.pt"
    first = model(sdss)[0]
    history = fit([(first, survey(sdss))], Training(1, 8), file, progress=False)
    older = torch.load(file, weights_only=True)
    for entries in (older, older["training"]["identity"]):
        del entries["architecture"], entries["arguments"]
    torch.save(older, file)
    second = model(sdss)[0]
    assert fit([(second, survey(sdss))], Training(1, 8), file, progress=False) == history
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_checkpoint_of_other_arguments_is_refused_by_name(tmp_path):
    sdss = coarse()
    fit([(model(sdss)[0], survey(sdss))], Training(1, 8), tmp_path / "model.pt", progress=False)
    other = SpectrumAutoencoder(sdss, WAVE_REST, n_latent=2, n_aux=1)
    with pytest.raises(ValueError, match="another training run: arguments is {'n_latent': 2, 'n_aux': 1"):
        fit([(other, survey(sdss))], Training(1, 8), tmp_path / "model.pt", progress=False)


def toy(instrument):
    torch.manual_seed(0)
    return Toy(instrument, WAVE_REST, n_latent=2)


def test_a_second_architecture_is_trained_resumed_and_loaded(tmp_path, own_architectures):
    sdss, file = coarse(), tmp_path / "toy.pt"
    with pytest.raises(ValueError, match="architecture 'toy' is not known"):
        fit([(toy(sdss), survey(sdss))], SETTINGS, file, progress=False)
    architectures.register(Toy)
    trained = toy(sdss)
    history = fit([(trained, survey(sdss))], Training(4, 8, 1e-2), file, progress=False)
    assert history["train"][-1]["sdss"] < history["train"][0]["sdss"]
    assert fit([(toy(sdss), survey(sdss))], Training(4, 8, 1e-2), file, progress=False) == history
    loaded, losses = load_model(file, sdss)
    assert isinstance(loaded, Toy)
    assert losses == history
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trained.parameters(), strict=True))
    with pytest.raises(ValueError, match="architecture is 'spender' here and 'toy' there"):
        fit([(model(sdss)[0], survey(sdss))], Training(4, 8, 1e-2), file, progress=False)


def test_models_of_different_arguments_are_refused():
    a, b = coarse(), coarse("boss")
    pairs = [(model(a)[0], survey(a)), (SpectrumAutoencoder(b, WAVE_REST, n_latent=2, n_aux=1), survey(b))]
    with pytest.raises(ValueError, match="expected the same architecture and arguments for all"):
        fit(pairs, SETTINGS, progress=False)


def test_file_that_is_no_training_checkpoint_is_refused(tmp_path):
    (tmp_path / "model.pt").write_text("notes")
    sdss = coarse()
    with pytest.raises(ValueError, match="is not a checkpoint of a training run"):
        fit([(model(sdss)[0], survey(sdss))], Training(1, 8), tmp_path / "model.pt", progress=False)


def test_survey_without_spectra_to_train_on_is_refused():
    sdss = coarse()
    flux = np.ones((5, len(sdss.wave_obs)), np.float32)
    for ids, usable in ((np.zeros(5, np.uint64), None), (np.arange(5, dtype=np.uint64), np.zeros(5, bool))):
        empty = SpectrumDataset(flux, flux, np.zeros(5), ids, usable)
        with pytest.raises(ValueError, match="no spectra to train on for sdss"):
            fit([(model(sdss)[0], empty)], SETTINGS, progress=False)


def test_frozen_parameters_stay():
    sdss = coarse()
    (autoencoder,) = model(sdss)
    autoencoder.decoder.requires_grad_(False)
    before = [p.clone() for p in autoencoder.decoder.parameters()]
    fit([(autoencoder, survey(sdss))], Training(1, 8), progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, autoencoder.decoder.parameters(), strict=True))


def test_non_finite_loss_stops_with_its_place():
    sdss = coarse()
    bad = survey(sdss)
    bad._flux[:, 5] = np.nan
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 0 on sdss"):
        fit([(model(sdss)[0], bad)], SETTINGS, progress=False)


def test_split_depends_on_the_id_alone():
    ids = np.random.default_rng(0).integers(1, 2**64, 20_000, dtype=np.uint64)
    marked = validation(ids)
    assert abs(marked.mean() - 0.15) < 0.01
    assert np.array_equal(validation(ids[::-1]), marked[::-1])
    assert np.array_equal(validation(ids[:100]), marked[:100])
    # pinned: the side of a spectrum may never change between releases
    assert validation(np.arange(1, 41, dtype=np.uint64)).nonzero()[0].tolist() == PINNED


PINNED = [8, 13, 36]


def test_every_usable_training_spectrum_is_visited_once_an_epoch():
    sdss = coarse()
    usable = np.arange(N) % 5 != 0
    flux = np.repeat(np.arange(N, dtype=np.float32)[:, None], len(sdss.wave_obs), axis=1)
    ids = np.arange(N, dtype=np.uint64)
    arrays = SpectrumDataset(flux, flux, np.zeros(N), ids, usable=usable, block=7)
    seen = {}
    for split in ("train", "valid"):
        batches = list(arrays.batches(split, 0, 4))
        assert len(batches) == arrays.steps(split, 4)
        seen[split] = [int(v) for batch in batches for v in batch.spec[:, 0]]
    assert sorted(seen["train"] + seen["valid"]) == np.flatnonzero(usable).tolist()
    assert seen["train"] != sorted(seen["train"])
    assert seen["valid"] == np.flatnonzero(usable & validation(ids)).tolist()
    again = [int(v) for batch in arrays.batches("train", 0, 4) for v in batch.spec[:, 0]]
    later = [int(v) for batch in arrays.batches("train", 1, 4) for v in batch.spec[:, 0]]
    assert seen["train"] == again
    assert again != later


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="10, 10, 9 and 10 rows"):
        SpectrumDataset(np.ones((10, 5)), np.ones((10, 5)), np.ones(9), np.ones(10, np.uint64))
