from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.mock.spectra import smoothed
from spender_core.instrument import SDSS
from spender_core.latent_fit import Prior, _Problem, fit_latents
from spender_core.redshift import C
from spender_core.resample import resample, spacing
from tests.spender_core.redshift_samples import Galaxies, embedded, galaxies

pytestmark = pytest.mark.slow


def chi2_of_the_encoder(sample: Galaxies) -> tuple[Tensor, Tensor]:
    model, _, _ = embedded()
    with torch.no_grad():
        s, _, reconstruction, valid = model.reconstruct(sample.flux, z=sample.z)
    return s, (sample.ivar * valid * (sample.flux - reconstruction) ** 2).sum(dim=1)


@pytest.mark.parametrize("free_z", [False, True])
def test_a_fit_is_never_worse_than_the_encoder(free_z: bool) -> None:
    model, _, basis = embedded()
    sample = galaxies(16, noise=0.1)
    s, before = chi2_of_the_encoder(sample)
    with torch.inference_mode():
        fit = fit_latents(model, sample.flux, sample.ivar, s, sample.z, basis.prior, free_z=free_z)
    assert (fit.chi2 <= before * (1 + 1e-6)).all()
    n = torch.count_nonzero(sample.ivar, dim=1)
    assert (fit.chi2 / n).median() < (before / n).median()
    assert (fit.chi2 / n).median() == pytest.approx(1, abs=0.05)
    assert fit.latents.shape == s.shape
    assert fit.packed.shape == (16, 78)
    assert torch.equal(fit.packed[:, 2], fit.covariance[:, 1, 1])
    assert (torch.linalg.eigvalsh(fit.covariance) > 0).all()
    if free_z:
        assert (C * (fit.z - sample.z).abs() / fit.z_error / C < 6).all()
    else:
        assert torch.equal(fit.z, sample.z.double())
        assert not fit.z_error.any()


def test_the_derivatives_are_those_of_the_transform() -> None:
    model, _, basis = embedded()
    sample = galaxies(3, noise=0.2)
    problem = _Problem(model, sample.flux, sample.ivar, basis.prior)
    state = problem.at(sample.latents.double(), sample.z.double())
    _, vector = problem.normal(state, free_z=True)
    s, z = sample.latents.clone().requires_grad_(), sample.z.clone().requires_grad_()
    amplitude = state.amplitude.float()[:, None].clone().requires_grad_()
    observed, valid = model.decoder.observe(model.decode(s), SDSS(), z)
    half = 0.5 * (sample.ivar * valid * (sample.flux - amplitude * observed) ** 2).sum()
    gradients = torch.autograd.grad(half, [s, amplitude, z])
    expected = -torch.cat([gradients[0], gradients[1], gradients[2][:, None]], dim=1).double()
    scale = expected.abs().amax(dim=0, keepdim=True)
    # latents' derivatives are differences over 1 % of their spread
    assert ((vector - expected).abs() / scale)[:, :-1].max() < 0.03


def test_a_redshift_that_is_off_is_found_again() -> None:
    model, _, basis = embedded()
    sample = galaxies(6, noise=0.02)
    with torch.inference_mode():
        off = sample.z * 1.0 + 60 / C * (1 + sample.z) * torch.tensor([1.0, -1.0] * 3)
        fit = fit_latents(model, sample.flux, sample.ivar, sample.latents, off, basis.prior, free_z=True)
    assert (C * (fit.z - sample.z).abs() < 3).all()
    assert (C * fit.z_error < 5).all()


def test_the_observed_spectrum_is_differentiable_in_redshift() -> None:
    """Gradients with respect to z are those of finite differences, where no node of the restframe passes a pixel."""
    model, latents, _ = embedded()
    decoder = model.decoder
    restframe = decoder.decode(latents[:4]).double()
    wave = decoder.wave_rest.double()
    z = torch.tensor([0.03, 0.11, 0.2, 0.35], dtype=torch.float64, requires_grad=True)
    observed = resample(restframe, wave, SDSS().wave_obs.double(), z, spacing(wave))
    (gradient,) = torch.autograd.grad(observed[:, ::50].sum(), z)
    step = 1e-8
    with torch.no_grad():
        ends = [resample(restframe, wave, SDSS().wave_obs.double(), z + sign * step, spacing(wave)) for sign in (1, -1)]
    difference = ((ends[0] - ends[1])[:, ::50] / (2 * step)).sum(dim=1)
    torch.testing.assert_close(gradient, difference, rtol=1e-4, atol=1e-3)


def test_fitted_latents_scatter_about_the_truth_as_their_covariance_says() -> None:
    """68 % ellipsoids of 100 galaxies like those that the prior is of: 0.54 to 0.82 is 3 sigma."""
    model, latents, basis = embedded()
    random = torch.Generator().manual_seed(12)
    n = 100
    truth = torch.from_numpy(smoothed(latents.numpy())(np.random.default_rng(3), n))
    z = 0.05 + 0.3 * torch.rand(n, generator=random)
    with torch.inference_mode():
        clean = model.decoder(truth, SDSS(), z)
        flux = clean + 0.15 * torch.randn(clean.shape, generator=random)
        ivar = torch.full_like(flux, 0.15**-2) * (clean != 0)
        fit = fit_latents(model, flux, ivar, model.encode(flux), z, basis.prior)
    off = (fit.latents - truth).double()
    distance = (off * torch.linalg.solve(fit.covariance, off)).sum(dim=1)
    inside = (distance < 14.0).double().mean()  # chi2 of 12 degrees of freedom: 68.3 %
    assert 0.54 < inside < 0.82


def test_a_spectrum_without_pixels_keeps_its_latents_and_the_prior() -> None:
    model, _, basis = embedded()
    sample = galaxies(2, noise=0.2)
    sample.ivar[0] = 0
    s, _ = chi2_of_the_encoder(sample)
    with torch.inference_mode():
        fit = fit_latents(model, sample.flux, sample.ivar, s, sample.z, basis.prior, free_z=True)
    assert torch.isnan(fit.chi2[0])
    assert torch.isnan(fit.z_error[0])
    torch.testing.assert_close(fit.latents[0], s[0])
    torch.testing.assert_close(fit.covariance[0], basis.prior.covariance)
    assert torch.isfinite(fit.chi2[1])


def test_the_priors_covariance_can_be_inverted_whatever_the_sample() -> None:
    sample = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    sample[:, 3] = 1.0
    prior = Prior.of(sample)
    assert torch.linalg.eigvalsh(prior.covariance).min() > 0
    torch.testing.assert_close(prior.precision @ prior.covariance, torch.eye(8, dtype=torch.float64), atol=1e-6, rtol=0)
