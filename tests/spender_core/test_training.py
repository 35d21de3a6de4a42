from __future__ import annotations

import time

import numpy as np
import pytest
import spender as upstream
import torch
from spender.data.sdss import SDSS as UpstreamSDSS

from spender_core import (
    LSF,
    SDSS,
    Augmentation,
    Losses,
    Own,
    Slope,
    SpectrumAutoencoder,
    SpectrumDataset,
    Stopped,
    architectures,
    load_model,
)
from spender_core import Settings as Training
from spender_core.training import fit

from ..toy_architecture import Toy
from .training_samples import WAVE_REST, coarse, make_models, survey

pytestmark = pytest.mark.slow

SETTINGS = Training(epochs=2, batch_size=8, lr=1e-3)
ALL = Losses(similarity=1.0, consistency=1.0, augmentation=Augmentation.SDSS, slope=Slope("cycles", step=2.0, last=0))


def parameters_of(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(parameters_of(a), parameters_of(b), strict=True))


def toy(instrument):
    """A linear model, trained within milliseconds."""
    torch.manual_seed(0)
    return Toy(instrument, WAVE_REST, n_latent=2)


@pytest.fixture
def toys(own_architectures):
    architectures.register(Toy)


def test_training_lowers_the_loss():
    sdss = coarse()
    history = fit([(make_models(sdss)[0], survey(sdss))], Training(25, 8, 5e-3))
    losses = [epoch["sdss"] for epoch in history["train"]]
    assert len(losses) == len(history["valid"]) == 25
    assert losses[-1] < 0.5 * losses[0]
    assert history["valid"][-1]["sdss"] < history["valid"][0]["sdss"]


def test_two_instruments_share_one_decoder(tmp_path):
    instruments = coarse(), coarse("boss", 20)
    models = make_models(*instruments)
    before = models[0].decoder.mlp[0].weight.clone()
    pairs = [(m, survey(i, seed=k)) for k, (m, i) in enumerate(zip(models, instruments, strict=True))]
    history = fit(pairs, SETTINGS, tmp_path / "both.pt")
    assert set(history["train"][0]) == set(history["valid"][0]) == {"sdss", "boss"}
    assert not torch.equal(before, models[0].decoder.mlp[0].weight)
    for instrument, trained in zip(instruments, models, strict=True):
        loaded, losses = load_model(tmp_path / "both.pt", instrument)
        assert losses == history
        spec = torch.ones(1, len(instrument.wave_obs))
        assert torch.equal(loaded.encode(spec), trained.eval().encode(spec))


def test_own_decoders_are_refused():
    a, b = coarse(), coarse("boss")
    pairs = [(make_models(a)[0], survey(a)), (make_models(b)[0], survey(b))]
    with pytest.raises(ValueError, match="one decoder shared"):
        fit(pairs, SETTINGS)


class StopAt:
    """Asks to stop the n-th time that it is asked."""

    def __init__(self, n):
        self.left = n

    def __call__(self):
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize(
    "settings",
    [
        Training(2, 8),
        Training(2, 8, bf16=True),
        Training(3, 8, 1e-2, schedule="epoch", clip=1.0, average=0.9, patience=2, lsf_lr=1e-3, summed=True),
    ],
    ids=["plain", "bf16", "everything"],
)
def test_training_stopped_again_and_again_equals_undisturbed_training(settings, tmp_path):
    def pair():
        instruments = coarse(lsf=LSF.delta(3)), coarse("boss", 30)
        return [
            (m, survey(i, seed=k)) for k, (m, i) in enumerate(zip(make_models(*instruments), instruments, strict=True))
        ]

    whole = pair()
    expected = fit(whole, settings, tmp_path / "whole.pt", ALL)
    stops = []
    while True:
        part = pair()
        torch.rand(1)  # whatever else draws random numbers meanwhile
        try:
            # not less: the two batches of a validation are begun again
            found = fit(part, settings, tmp_path / "part.pt", ALL, stop=StopAt(3))
            break
        except Stopped as stopped:
            stops.append((stopped.epoch, stopped.step))
    assert len(set(stops)) == len(stops) >= 4
    assert found == expected
    assert all(equal(a, b) for (a, _), (b, _) in zip(whole, part, strict=True))
    files = [torch.load(tmp_path / f"{name}.pt", weights_only=True)["model"] for name in ("whole", "part")]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(*files, strict=True) for k in a)


def test_random_numbers_of_an_objective_go_on_where_they_were(tmp_path, toys):
    def noisy(model, batch):
        return model.loss(batch.spec + torch.rand_like(batch.spec), batch.w, z=batch.z) / len(batch)

    sdss = coarse()
    whole, part = toy(sdss), toy(sdss)
    expected = fit([(whole, survey(sdss))], SETTINGS, objective=Own("noisy", noisy))
    with pytest.raises(Stopped):
        fit([(part, survey(sdss))], SETTINGS, tmp_path / "m.pt", Own("noisy", noisy), stop=StopAt(4))
    assert fit([(part, survey(sdss))], SETTINGS, tmp_path / "m.pt", Own("noisy", noisy)) == expected
    assert equal(whole, part)


def test_a_run_is_saved_within_an_epoch_as_often_as_asked(tmp_path, toys):
    sdss, seen, file = coarse(), [], tmp_path / "m.pt"

    def look(moment):
        seen.append(torch.load(file, weights_only=True)["training"]["step"] if file.exists() else None)

    fit([(toy(sdss), survey(sdss))], Training(1, 8), file, on_step=look, save_every=0)
    assert seen == [1, 2, 3]
    seen.clear()
    file.unlink()
    fit([(toy(sdss), survey(sdss))], Training(1, 8), file, on_step=look, save_every=3600)
    assert seen == [None] * 3


def test_epochs_are_raised_for_a_run_that_had_ended(tmp_path, toys):
    sdss, file = coarse(), tmp_path / "m.pt"
    constant = {"batch_size": 8, "schedule": "constant"}
    whole, part = toy(sdss), toy(sdss)
    expected = fit([(whole, survey(sdss))], Training(4, **constant))
    fit([(part, survey(sdss))], Training(2, **constant), file)
    assert fit([(part, survey(sdss))], Training(4, **constant), file) == expected
    assert equal(whole, part)


def test_raised_epochs_plan_the_rest_of_the_cycle_anew(tmp_path, toys):
    sdss, file = coarse(), tmp_path / "m.pt"
    rates = {}
    for name, epochs, path in (("short", 2, file), ("rest", 6, file), ("long", 6, tmp_path / "long.pt")):
        seen = rates.setdefault(name, [])
        fit(
            [(toy(sdss), survey(sdss))],
            Training(epochs, 8),
            path,
            on_epoch=lambda report, seen=seen: seen.append(report),
        )
    assert [report.epoch for report in rates["rest"]] == [2, 3, 4, 5]
    assert [report.lr for report in rates["rest"]] == [report.lr for report in rates["long"]][2:]
    assert rates["short"][-1].lr < rates["rest"][0].lr


def test_fewer_epochs_than_are_done_are_refused(tmp_path, toys):
    sdss = coarse()
    fit([(toy(sdss), survey(sdss))], Training(2, 8), tmp_path / "m.pt")
    with pytest.raises(ValueError, match="is in epoch 2 already, and epochs is 1: raise epochs"):
        fit([(toy(sdss), survey(sdss))], Training(1, 8), tmp_path / "m.pt")


def other_loss(autoencoder, batch):
    return 7 * autoencoder.loss(batch.spec, batch.w, z=batch.z)


@pytest.mark.parametrize("what", ["spectra", "objective", "latents", "restframe", "lsf", "wavelengths"])
def test_checkpoint_of_another_run_is_refused_by_name(what, tmp_path):
    sdss = coarse()
    fit([(make_models(sdss)[0], survey(sdss))], Training(1, 8), tmp_path / "model.pt")
    wave = torch.linspace(3000.0, 9400.0, 500) if what == "restframe" else WAVE_REST
    instrument = coarse(lsf=LSF.delta(3) if what == "lsf" else None, step=25 if what == "wavelengths" else 24)
    autoencoder = SpectrumAutoencoder(instrument, wave, n_latent=3 if what == "latents" else 2)
    spectra = survey(instrument, seed=1 if what == "spectra" else 0)
    objective = Own("other_loss", other_loss) if what == "objective" else Losses()
    with pytest.raises(ValueError, match=f"another training run: .*{what} is"):
        fit([(autoencoder, spectra)], Training(1, 8), tmp_path / "model.pt", objective)


def test_a_checkpoint_of_other_settings_is_refused_by_the_name_of_each(tmp_path, toys):
    sdss = coarse()
    fit([(toy(sdss), survey(sdss))], Training(1, 8), tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"lr is 0\.01 here and 0\.001 there; seed is 3 here and 0 there\. Give"
    ) as refused:
        fit([(toy(sdss), survey(sdss))], Training(2, 8, 1e-2, seed=3, patience=1), tmp_path / "model.pt")
    assert "epochs" not in str(refused.value)
    with pytest.raises(ValueError, match=r"objective\.slope\.value is 4\.0 here and 5\.0 there"):
        fit([(toy(sdss), survey(sdss))], Training(1, 8), tmp_path / "model.pt", Losses(slope=Slope(value=4.0)))


def test_the_checkpoint_names_the_architecture_and_what_it_was_made_of(tmp_path):
    sdss = coarse()
    data = survey(sdss)
    fit([(make_models(sdss)[0], data)], Training(1, 8), tmp_path / "model.pt")
    written = torch.load(tmp_path / "model.pt", weights_only=True)
    assert written["architecture"] == "spender"
    assert written["arguments"] == {"n_latent": 2, "n_aux": 0, "speculator": True}
    assert written["settings"]["batch_size"] == 8
    assert written["objective"]["similarity"] == 0
    assert written["fingerprint"] == [data.identity]
    assert "blake2b" in written["split"]


def test_extras_of_another_model_do_not_replace_its_architecture(tmp_path):
    sdss = coarse()
    extras = {"architecture": "other", "arguments": {}, "note": "kept"}
    fit([(make_models(sdss)[0], survey(sdss))], Training(1, 8), tmp_path / "model.pt", extras=extras)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["note"] == "kept"
    assert load_model(tmp_path / "model.pt", sdss)[0].n_latent == 2


def test_checkpoint_of_other_arguments_is_refused_by_name(tmp_path):
    sdss = coarse()
    fit([(make_models(sdss)[0], survey(sdss))], Training(1, 8), tmp_path / "model.pt")
    other = SpectrumAutoencoder(sdss, WAVE_REST, n_latent=2, n_aux=1)
    with pytest.raises(ValueError, match=r"another training run: arguments\.n_aux is 1 here and 0 there"):
        fit([(other, survey(sdss))], Training(1, 8), tmp_path / "model.pt")


def test_a_second_architecture_is_trained_resumed_and_loaded(tmp_path, own_architectures):
    sdss, file = coarse(), tmp_path / "toy.pt"
    with pytest.raises(ValueError, match="architecture 'toy' is not known"):
        fit([(toy(sdss), survey(sdss))], SETTINGS, file)
    architectures.register(Toy)
    trained = toy(sdss)
    history = fit([(trained, survey(sdss))], Training(4, 8, 1e-2), file)
    assert history["train"][-1]["sdss"] < history["train"][0]["sdss"]
    assert fit([(toy(sdss), survey(sdss))], Training(4, 8, 1e-2), file) == history
    loaded, losses = load_model(file, sdss)
    assert isinstance(loaded, Toy)
    assert losses == history
    assert equal(loaded, trained)
    with pytest.raises(ValueError, match="architecture is 'spender' here and 'toy' there"):
        fit([(make_models(sdss)[0], survey(sdss))], Training(4, 8, 1e-2), file)


def test_models_of_different_arguments_are_refused():
    a, b = coarse(), coarse("boss")
    pairs = [(make_models(a)[0], survey(a)), (SpectrumAutoencoder(b, WAVE_REST, n_latent=2, n_aux=1), survey(b))]
    with pytest.raises(ValueError, match="expected the same architecture and arguments for all"):
        fit(pairs, SETTINGS)


def test_two_samples_of_one_instrument_are_to_be_pooled():
    sdss = coarse()
    with pytest.raises(ValueError, match="repeat, expected one model per instrument: pool the samples"):
        fit([(model, survey(sdss)) for model in make_models(sdss, sdss)], SETTINGS)


def test_survey_without_spectra_to_train_on_is_refused():
    sdss = coarse()
    flux = np.ones((5, len(sdss.wave_obs)), np.float32)
    for ids, usable in ((np.zeros(5, np.uint64), None), (np.arange(5, dtype=np.uint64), np.zeros(5, bool))):
        empty = SpectrumDataset(flux, flux, np.zeros(5), ids, usable)
        with pytest.raises(ValueError, match="no spectra to train on for sdss"):
            fit([(make_models(sdss)[0], empty)], SETTINGS)


def test_patience_without_validation_is_refused(toys):
    sdss = coarse()
    flux = np.ones((5, len(sdss.wave_obs)), np.float32)
    data = SpectrumDataset(flux, flux, np.zeros(5), np.arange(1, 6))
    with pytest.raises(ValueError, match="no spectra are kept for validation"):
        fit([(toy(sdss), data)], Training(1, patience=2))


def test_frozen_parameters_stay():
    sdss = coarse()
    (autoencoder,) = make_models(sdss)
    autoencoder.decoder.requires_grad_(False)
    before = parameters_of(autoencoder.decoder)
    fit([(autoencoder, survey(sdss))], Training(1, 8))
    assert all(torch.equal(a, b) for a, b in zip(before, autoencoder.decoder.parameters(), strict=True))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_is_frozen_for_the_run_and_instruments_are_of_neither(part):
    sdss = coarse(lsf=LSF.delta(3))
    (autoencoder,) = make_models(sdss)
    before = {name: value.detach().clone() for name, value in autoencoder.named_parameters()}
    fit([(autoencoder, survey(sdss))], Training(1, 8, freeze=part))
    changed = {name for name, value in autoencoder.named_parameters() if not torch.equal(value, before[name])}
    other = "decoder" if part == "encoder" else "encoder"
    assert {name.split(".")[0] for name in changed - {"encoder.instrument.lsf.weight"}} == {other}
    assert "encoder.instrument.lsf.weight" in changed
    assert all(value.requires_grad for value in autoencoder.parameters())


def test_a_model_with_nothing_to_train_is_refused(toys):
    sdss = coarse()
    frozen = toy(sdss)
    frozen.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train: freeze is 'decoder'"):
        fit([(frozen, survey(sdss))], Training(1, 8, freeze="decoder"))


@pytest.mark.parametrize(("symmetric", "nonnegative"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_learned_line_spread_function_keeps_its_sum_and_what_is_asked_of_it(symmetric, nonnegative, toys, tmp_path):
    sdss = coarse(lsf=LSF.delta(5, symmetric=symmetric, nonnegative=nonnegative))
    start = sdss.lsf.weight.detach().clone()
    assert start.flatten().tolist() == [0, 0, 1, 0, 0]
    fit([(toy(sdss), survey(sdss))], Training(5, 8, lsf_lr=0.02), tmp_path / "m.pt")
    kernel = sdss.lsf.weight.detach().flatten()
    assert not torch.equal(kernel, start.flatten())
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    assert torch.allclose(kernel, kernel.flip(0), atol=1e-7, rtol=0) or not symmetric
    assert bool((kernel >= 0).all()) or not nonnegative
    assert torch.equal(load_model(tmp_path / "m.pt", coarse())[0].encoder.instrument.lsf.weight.flatten(), kernel)


def test_the_line_spread_function_has_a_learning_rate_of_its_own(toys):
    steps = {}
    for lsf_lr in (0.0, 1e-4, None):
        sdss = coarse(lsf=LSF.delta(3))
        fit([(toy(sdss), survey(sdss))], Training(1, 30, 1e-2, schedule="constant", lsf_lr=lsf_lr))
        steps[lsf_lr] = float(sdss.lsf.weight.detach().flatten()[0].abs())
    # the first step of Adam is the learning rate; the sum is divided out then
    assert steps[0.0] == 0
    assert steps[1e-4] == pytest.approx(1e-4, rel=0.1)
    assert steps[None] == pytest.approx(1e-2, rel=0.1)


def test_clipping_limits_the_step(toys):
    """Plain gradients cannot be seen through Adam's scaling but by its eps."""
    sdss, moved = coarse(), {}
    for clip in (None, 1e-3):
        model = toy(sdss)
        before = parameters_of(model)
        fit([(model, survey(sdss))], Training(1, 30, 1.0, schedule="constant", eps=1.0, clip=clip))
        moved[clip] = (
            sum(float((a - b).square().sum()) for a, b in zip(before, parameters_of(model), strict=True)) ** 0.5
        )
    assert moved[1e-3] == pytest.approx(1e-3, rel=0.02)
    assert moved[None] > 10 * moved[1e-3]


def test_the_gradient_of_the_sum_is_that_of_the_mean_times_the_spectra(toys):
    sdss, steps = coarse(), {}
    n = sum(len(batch) for batch in survey(sdss).batches("train", 0, 30))
    large = 1e6  # beside every gradient, so that Adam's step is in proportion to it
    for summed, eps in ((False, large), (True, n * large), (True, large)):
        model = toy(sdss)
        before = parameters_of(model)[0]
        fit([(model, survey(sdss))], Training(1, 30, 1.0, schedule="constant", eps=eps, summed=summed))
        steps[summed, eps] = parameters_of(model)[0] - before
    torch.testing.assert_close(steps[True, n * large], steps[False, large], rtol=1e-2, atol=1e-7)
    torch.testing.assert_close(steps[True, large], n * steps[False, large], rtol=0.1, atol=1e-7)


def test_the_running_mean_is_what_is_validated_and_kept(tmp_path, toys):
    sdss, file = coarse(), tmp_path / "m.pt"
    model, plain = toy(sdss), toy(sdss)
    settings = {"epochs": 3, "batch_size": 8, "lr": 1e-2}
    history = fit([(model, survey(sdss))], Training(**settings, average=0.99), file)
    last = fit([(plain, survey(sdss))], Training(**settings))
    assert history["train"] == last["train"]
    assert history["valid"] != last["valid"]
    loaded, _ = load_model(file, sdss)
    assert equal(loaded, model)
    kept = torch.load(file, weights_only=True)["training"]["weights"][0]
    assert all(torch.equal(value, kept[name]) for name, value in plain.state_dict().items())
    batches = list(survey(sdss).batches("valid", 0, 8))
    loss = sum(float(loaded.loss(b.spec, b.w, z=b.z).detach()) for b in batches) / sum(map(len, batches))
    assert history["valid"][-1]["sdss"] == pytest.approx(loss, rel=1e-5)


def test_training_ends_without_progress_and_keeps_the_best_epoch(tmp_path, toys):
    sdss, file = coarse(), tmp_path / "m.pt"
    model = toy(sdss)
    # a rate that grows until nothing fits
    history = fit([(model, survey(sdss))], Training(60, 8, 5.0, patience=2), file)
    valid = [epoch["sdss"] for epoch in history["valid"]]
    best = int(np.argmin(valid))
    assert len(valid) == best + 3 < 60
    batches = list(survey(sdss).batches("valid", 0, 8))
    loss = sum(float(model.loss(b.spec, b.w, z=b.z).detach()) for b in batches) / sum(map(len, batches))
    assert valid[best] == pytest.approx(loss, rel=1e-5)
    assert equal(load_model(file, sdss)[0], model)
    again = toy(sdss)
    assert fit([(again, survey(sdss))], Training(60, 8, 5.0, patience=2), file) == history
    assert equal(again, model)
    longer = fit([(again, survey(sdss))], Training(60, 8, 5.0, patience=4), file)
    assert len(longer["valid"]) > len(valid)


def test_the_caller_hears_of_every_step_and_epoch(toys):
    sdss, steps, epochs = coarse(), [], []
    history = fit([(toy(sdss), survey(sdss))], SETTINGS, objective=ALL, on_step=steps.append, on_epoch=epochs.append)
    assert [(moment.epoch, moment.step, moment.steps, moment.epochs) for moment in steps] == [
        (epoch, step, 3, 2) for epoch in range(2) for step in range(3)
    ]
    assert [report.epoch for report in epochs] == [0, 1]
    for key in ("train", "valid", "train_terms", "valid_terms"):
        assert [getattr(report, key) for report in epochs] == history[key]
    assert set(history["train_terms"][0]) == {"sdss fidelity", "sdss similarity", "sdss consistency"}
    assert sum(history["valid_terms"][1].values()) == pytest.approx(history["valid"][1]["sdss"])
    assert all(report.seconds > 0 for report in epochs)


def test_stopping_during_validation_loses_no_step(tmp_path, toys):
    sdss, file = coarse(), tmp_path / "m.pt"
    whole, part = toy(sdss), toy(sdss)
    settings = Training(2, 8, average=0.9)
    expected = fit([(whole, survey(sdss))], settings)
    with pytest.raises(Stopped) as stopped:
        fit([(part, survey(sdss))], settings, file, stop=StopAt(4))
    assert (stopped.value.epoch, stopped.value.step) == (0, 3)
    assert fit([(part, survey(sdss))], settings, file) == expected
    assert equal(whole, part)


def test_non_finite_loss_stops_with_its_place():
    sdss = coarse()
    bad = survey(sdss)
    bad._flux[:, 5] = np.nan
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 0 on sdss: look"):
        fit([(make_models(sdss)[0], bad)], SETTINGS)


def test_non_finite_loss_in_validation_stops_with_its_place(toys, tmp_path):
    sdss = coarse()
    bad = survey(sdss)
    bad._flux[bad._rows["valid"], 5] = np.inf
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 0 on the spectra of sdss kept for validation"):
        fit([(toy(sdss), bad)], SETTINGS, tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("schedule", "cosine"),
        ("eps", 0.0),
        ("clip", -1.0),
        ("average", 1.0),
        ("patience", 0),
        ("freeze", "both"),
        ("lsf_lr", -1.0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"^{key} is .*, expected"):
        Training(**{"epochs": 1, key: value})


@torch.no_grad()
def test_a_trained_checkpoint_gives_the_same_numbers_upstream(tmp_path):
    sdss, file = SDSS(LSF.delta(5)), tmp_path / "m.pt"
    with torch.enable_grad():
        fit([(make_models(sdss)[0], survey(sdss, 9))], Training(1, 4, average=0.9, lsf_lr=1e-2), file)
    ours, _ = load_model(file, SDSS())
    theirs = upstream.load_model(str(file), UpstreamSDSS())
    spec, z = 1 + 0.1 * torch.randn(3, len(sdss.wave_obs)), torch.tensor([0.02, 0.1, 0.3])
    theirs.eval()
    torch.testing.assert_close(ours.encode(spec), theirs.encode(spec), rtol=1e-5, atol=1e-5)
    expected = theirs(spec, UpstreamSDSS(lsf=theirs.encoder.instrument.lsf), z=z)
    torch.testing.assert_close(ours(spec, z=z), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_is_stopped_and_resumed(tmp_path):
    sdss, file = coarse(lsf=LSF.delta(3)), tmp_path / "m.pt"
    settings = Training(4, 8, 5e-3, bf16=True, average=0.9, clip=1.0)
    model = make_models(sdss)[0].cuda()
    began = time.monotonic()
    with pytest.raises(Stopped):
        fit([(model, survey(sdss))], settings, file, ALL, stop=StopAt(5))
    history = fit([(model, survey(sdss))], settings, file, ALL)
    assert time.monotonic() - began < 60
    assert history["valid"][-1]["sdss"] < history["valid"][0]["sdss"]
    loaded, _ = load_model(file, coarse())
    assert equal(loaded, model.cpu())
