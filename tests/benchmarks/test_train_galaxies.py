"""The scripts behind `sdss-galaxies`: mocks, fits, phases, and the figures that it is judged by."""

from __future__ import annotations

from dataclasses import replace

import emission
import invariance
import numpy as np
import oxygen
import pandas as pd
import pytest
import science_training
import torch
import train_galaxies
from altered import Pairs
from fits import fit_galaxies
from galaxies import read_components, read_galaxies, rest_grid
from guided import Basis, Guided, Lines, Paired, Shares, Teacher
from mocks import Fits, Fitted, Noise, Prior
from stars import Stars, _continuation
from train_galaxies import Plan, Prepared, folds, kept_aside

from spender_core.instrument import SDSS
from spender_core.weights import load_model

pytestmark = pytest.mark.long
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def galaxies(shared_data):
    return read_galaxies(shared_data)


@pytest.fixture(scope="module")
def stars(shared_data):
    """Templates in place of MaStar's, which are not here: mixtures of the eigenspectra that fits of galaxies have."""
    components = read_components(shared_data, "spEigenGal-55740.fits")
    weights = (
        np.random.default_rng(3).normal(0, 0.2, (8, 4)) * np.abs(components).mean(1)[0] / np.abs(components).mean(1)
    )
    weights[:, 0] = 1
    templates = np.maximum(weights @ components, 0).astype(np.float32)
    templates[:, rest_grid() < 3640] = 0
    templates /= templates[:, (rest_grid() > 5300) & (rest_grid() < 5850)].mean(1, keepdims=True)
    wave = rest_grid().astype(np.float64)
    return Stars(templates[:5], templates[5:], *_continuation(shared_data / "templates/spEigenGal-55740.fits", wave))


@pytest.fixture(scope="module")
def prepared(galaxies, stars):
    rows = np.flatnonzero(galaxies.clean)
    noise = Noise.of(galaxies, np.flatnonzero(~galaxies.clean))
    fits, chi2 = fit_galaxies(galaxies, rows, Prior(stars, noise, 1, 0, CPU))
    assert np.isfinite(chi2).all()
    return Prepared(galaxies, stars, fits, rows)


def test_a_line_has_its_flux_at_any_width():
    log_wave = torch.from_numpy(rest_grid()).double().log10()
    sigma = torch.tensor([70.0, 300.0, 2000.0])
    flux = torch.tensor([[2.0], [2.0], [2.0]])
    lines = emission.render(flux, sigma, log_wave, torch.tensor([5008.24], dtype=torch.float64))
    width = np.gradient(rest_grid().astype(np.float64))
    np.testing.assert_allclose((lines.double().numpy() * width).sum(1), 2.0, rtol=2e-3)


def test_line_ratios_keep_to_atomic_physics():
    ratios, width, kind = emission.draw_ratios(4000, torch.Generator().manual_seed(1))
    column = emission.NAMES.index
    assert (ratios > -1e-9).all()
    assert (width >= 0).all()
    pairs = (("OIII5008", "OIII4960", 2.98), ("NII6585", "NII6550", 3.0), ("Halpha", "Hbeta", 2.86))
    for strong, weak, ratio in pairs:
        found = ratios[:, column(strong)] / ratios[:, column(weak)]
        assert found.median() == pytest.approx(ratio, rel=0.02)
    # star-forming galaxies below the border of Kauffmann et al. (2003), Seyferts above, but for scatter
    x, y = ratios[:, column("NII6585")].log10(), (ratios[:, column("OIII5008")] * 2.86).log10()
    below = y < 0.61 / (x - 0.05).clamp(max=-1e-3) + 1.3
    assert below[kind == 0].float().mean() > 0.75
    assert below[kind == 1].float().mean() < 0.35


def test_prior_mocks_are_normalized_and_know_their_restframe(galaxies, stars):
    mocks = Prior(stars, Noise.of(galaxies, np.flatnonzero(~galaxies.clean)), 2, 5, CPU)
    batch = mocks.draw(48, mocks.generator((1, 2)))
    again = mocks.draw(48, mocks.generator((1, 2)))
    assert torch.equal(batch.spec, again.spec)
    assert batch.truth is not None
    assert torch.isfinite(batch.spec).all()
    assert torch.isfinite(batch.truth).all()
    assert ((batch.z >= 0) & (batch.z <= 0.5)).all()
    model, _ = load_model("sdss-demo", SDSS())
    clean = model.decoder.transform(batch.truth, SDSS(), batch.z)
    chi2 = (batch.w * (batch.spec - clean).square()).sum(1) / (batch.w > 0).sum(1)
    assert chi2.median() == pytest.approx(1.0, abs=0.2)  # the noise is what the weights say
    later = list(mocks.batches("train", 0, 8, begin=1))
    assert torch.equal(later[0].spec, list(mocks.batches("train", 0, 8))[1].spec)


def test_lines_that_a_galaxy_does_not_show_are_filled_up_to_their_limit():
    n = len(emission.NAMES)
    flux, limit = torch.zeros(10, n), torch.full((10, n), torch.inf)
    ha, oii = emission.NAMES.index("Halpha"), emission.NAMES.index("OII3727")
    flux[:, ha] = torch.arange(1.0, 11.0)
    flux[:9, oii] = 0.5 * flux[:9, ha]
    limit[8:, oii] = 2.0
    one = torch.ones(10)
    filled = Fits(torch.ones(10, 3), one, flux, limit, one, torch.zeros(10, 2), one).of(np.arange(10)).flux
    assert filled[9, oii] == 2.0  # half of 10, but 2 would have been seen
    assert torch.equal(filled[:9, oii], flux[:9, oii])


def test_lines_measure_widths_over_the_true_continuum():
    wave = torch.from_numpy(rest_grid())
    lines = Lines(wave)

    def spectrum(width: float, level: float) -> torch.Tensor:
        profile = torch.exp(-0.5 * ((wave - 3728.5) / 2.5) ** 2) / (2.5 * (2 * torch.pi) ** 0.5)
        return (level * (1 + 0.0005 * (wave - 3728.5) + width * profile))[None]

    expected = np.arcsinh(10 / Lines.SOFT)
    assert lines(spectrum(10, 1.5), spectrum(10, 1.5))[0, 0].item() == pytest.approx(expected, rel=0.02)
    assert lines(spectrum(10, 1.5), spectrum(10, 1.5))[0, 1:].abs().max() < 0.05  # no other line
    # a spectrum twice as bright has the widths of the truth it is compared with doubled
    doubled = np.arcsinh(20 / Lines.SOFT)
    assert lines(spectrum(10, 3.0), spectrum(10, 1.5))[0, 0].item() == pytest.approx(doubled, rel=0.02)


@pytest.fixture
def pairs(prepared):
    rows = prepared.rows[:6]
    noise, fits = Noise.of(prepared.galaxies, rows), prepared.fits.of(np.arange(6))
    mocks = Fitted(prepared.stars, noise, fits, 2, 3, CPU), Prior(prepared.stars, noise, 2, 3, CPU)
    return Pairs(prepared.galaxies, rows, *mocks, seed=3, shares=SHARES)


SHARES = Shares(pairs=4, hidden=4, real=2)


def test_pairs_are_the_same_spectra_at_other_redshifts(pairs):
    batch = next(pairs.batches("train", 0, SHARES.total))
    assert len(batch.spec) == SHARES.total == 16
    assert batch.truth is not None
    assert len(batch.truth) == SHARES.pairs + SHARES.hidden
    n = SHARES.pairs
    for i in range(n):
        shift = round(float(torch.log10((1 + batch.z[n + i]) / (1 + batch.z[i]))) / 1e-4)
        place = torch.arange(batch.spec.shape[1]) - shift
        both = (place >= 0) & (place < len(place)) & (batch.w[n + i] > 0)
        sigma = batch.w[n + i][both].rsqrt()
        difference = batch.spec[n + i][both] - batch.spec[i][place[both]]
        assert (difference.abs() < 6 * sigma).all()  # the noise added is at most 1.2 times what was there
    again = list(pairs.batches("train", 0, SHARES.total, begin=1))
    assert torch.equal(again[0].spec, list(pairs.batches("train", 0, SHARES.total))[1].spec)
    with pytest.raises(ValueError, match="16 spectra, not 8"):
        next(pairs.batches("train", 0, 8))


def test_the_loss_on_pairs_falls_where_each_part_gets_better(pairs, galaxies, stars):
    torch.manual_seed(1)
    model, _ = load_model("sdss-galaxies", SDSS())
    model.requires_grad_(True)
    mocks = Prior(stars, Noise.of(galaxies, np.flatnonzero(~galaxies.clean)), 1, 5, CPU)
    teacher = Teacher(Basis.of(mocks, model.n_latent, seed=1, n=512)).requires_grad_(False)
    batch = next(pairs.batches("train", 0, SHARES.total))
    lines, variance = Lines(model.wave_rest), torch.ones(model.n_latent)
    objective = Paired(Guided(teacher, 0.3, 1e-4), lines, SHARES, variance)
    loss = objective(model, batch)
    loss.backward()
    assert model.encoder.mlp[0].weight.grad.abs().max() > 0
    assert model.decoder.mlp[0].weight.grad.abs().max() > 0
    # latents among galaxies vary more: the same distances count less
    assert Paired(Guided(teacher, 0.3, 1e-4), lines, SHARES, 100 * variance)(model, batch) < loss
    # real spectra with a tenth of the weight fit better
    m = SHARES.mocks
    w = torch.cat([batch.w[:m], 0.1 * batch.w[m:]])
    assert objective(model, replace(batch, w=w)) < loss


def test_kept_aside_are_sixteen_whole_objects(galaxies):
    rows = np.flatnonzero(galaxies.clean)
    kept = kept_aside(galaxies, rows)
    assert kept.sum() == train_galaxies.N_KEPT
    objects = galaxies.objects[rows]
    assert not set(objects[kept].tolist()) & set(objects[~kept].tolist())


def test_moved_spectra_have_their_lines_at_the_new_place():
    wave = SDSS().wave_obs.numpy().astype(np.float64)
    flux = np.exp(-0.5 * ((wave - 6000) / 8) ** 2).astype(np.float32)[None]
    for seed in range(4):
        spec, new = invariance.moved(flux, np.array([0.2], np.float32), np.random.default_rng(seed))
        assert wave[spec[0].argmax()] == pytest.approx(6000 * (1 + new[0]) / 1.2, abs=2)
        assert 0.1 <= new[0] <= 0.3


def test_equivalent_width_of_a_known_line():
    wave = rest_grid().astype(np.float64)
    flux = 2 + 10 * np.exp(-0.5 * ((wave - 3728.5) / 2.5) ** 2) / (2.5 * np.sqrt(2 * np.pi))
    assert oxygen.equivalent_width(wave, flux) == pytest.approx(5.0, rel=0.02)
    ivar = np.where((wave > 3717) & (wave < 3740), 0.0, 1.0)
    assert np.isnan(oxygen.equivalent_width(wave, flux, ivar))


@pytest.mark.timeout(1200)  # six models of three phases each
def test_training_and_figures_run_end_to_end(prepared, shared_data, tmp_path, monkeypatch, capsys):
    tiny = {"epochs": 1, "batch_size": 8}
    plan = Plan(
        decoder=3,
        encoder=replace(Plan.encoder, **tiny),
        joint=replace(Plan.joint, **tiny),
        real=replace(Plan.real, **tiny),
        hidden=replace(Plan.hidden, **tiny),
        pairs=replace(Plan.pairs, epochs=1),
        steps=1,
        hidden_steps=1,
        pair_steps=1,
    )
    monkeypatch.setattr(train_galaxies, "N_LATENT", 4)
    train_galaxies.train(prepared, plan, tmp_path, CPU)
    before = (tmp_path / "fold-3.pt").read_bytes()
    train_galaxies.train(prepared, plan, tmp_path, CPU)  # all is done
    assert (tmp_path / "fold-3.pt").read_bytes() == before
    train_galaxies.ship(prepared, tmp_path, tmp_path / "model.pt")
    assert "SHA-256" in capsys.readouterr().out

    monkeypatch.setattr(invariance, "N_MOCK", 20)
    monkeypatch.setattr(invariance, "DRAWS", 1)
    sample = science_training.Sample.read(shared_data)
    table = science_training.by_folds(sample, tmp_path)
    assert len(table) == 64
    assert table.notna().drop(columns=["oii_observed"]).all(axis=None)
    assert science_training.report(table).count("\n| ") == len(science_training.FIGURES)


def test_the_committed_table_has_every_galaxy_and_beats_what_is_required(galaxies):
    table = pd.read_csv(science_training.TABLE, index_col=0)
    rows = np.flatnonzero(galaxies.clean)
    assert table.index.tolist() == [galaxies.names[i] for i in rows]
    np.testing.assert_array_equal(table.fold, folds(galaxies.objects[rows]))
    np.testing.assert_array_equal(table.kept_aside, kept_aside(galaxies, rows))
    assert (table.chi2 < table.chi2_demo).sum() >= 48
    assert table.chi2.median() <= 1.38
    assert table.chi2[table.sn >= 10].median() <= 1.60
    assert (table.chi2 > 4).sum() <= 10
