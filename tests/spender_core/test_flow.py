"""Flows of latents: they integrate to one, begin as a Gaussian, and read upstream's states."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from spender_core.flow import AffineFlow, SplineFlow, whitening_of

MADE = {"members": 2, "bins": 4, "transforms": 2, "hidden": (8, 8)}


def upstream(n_latent: int = 6, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spender.flow import NeuralDensityEstimator

        bounds = {"bounds": [[0, 0]] * n_latent, "std": [0.05] * n_latent}
        flow: torch.nn.Module = NeuralDensityEstimator(dim=n_latent, initial_pos=bounds)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape))
    return flow.eval()


def test_whitening_takes_mean_and_covariance_away() -> None:
    torch.manual_seed(0)
    latents = torch.randn(500, 4) @ torch.randn(4, 4) + torch.randn(4)
    mean, whitening = whitening_of(latents)
    y = (latents.double() - mean) @ whitening.T
    assert torch.allclose(y.mean(dim=0), torch.zeros(4, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(torch.cov(y.T), torch.eye(4, dtype=torch.float64), atol=1e-5)


def test_too_small_a_sample_has_no_whitening() -> None:
    with pytest.raises(ValueError, match="3 spectra are too few for 4 latents, expected at least 8"):
        whitening_of(torch.randn(3, 4))
    with pytest.raises(ValueError, match="the same"):
        whitening_of(torch.ones(9, 4))


@pytest.mark.parametrize("n_latent", [1, 3])
def test_a_new_flow_is_the_gaussian_of_the_sample(n_latent: int) -> None:
    torch.manual_seed(0)
    latents = torch.randn(400, n_latent) @ torch.randn(n_latent, n_latent) + 3
    mean, whitening = whitening_of(latents)
    flow = SplineFlow(mean, whitening, **MADE)
    gaussian = torch.distributions.MultivariateNormal(mean, torch.linalg.inv(whitening.T @ whitening))
    assert torch.allclose(flow.log_prob(latents), gaussian.log_prob(latents.double()).float(), atol=1e-4)


def test_a_flow_is_normalized_in_units_of_the_latents() -> None:
    torch.manual_seed(1)
    flow = SplineFlow(torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.0], [0.5, 4.0]]), **MADE)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
    axis = torch.linspace(-6, 6, 601)
    x, y = torch.meshgrid(1 + axis / 2, -2 + axis / 2, indexing="ij")
    with torch.no_grad():
        p = flow.log_prob(torch.stack([x.flatten(), y.flatten()], dim=1)).exp()
    assert float(p.sum() * (0.02 / 2) ** 2) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("n_latent", [2, 6, 10])
def test_upstreams_states_give_its_log_p(n_latent: int) -> None:
    theirs = upstream(n_latent)
    state = theirs.state_dict()
    assert len(state) == 87
    ours = AffineFlow.of_state(state)
    assert (ours.n_latent, ours.steps) == (n_latent, 5)
    latents = 0.1 * torch.randn(2000, n_latent)
    with torch.no_grad():
        expected, found = theirs.log_prob(latents), ours.log_prob(latents)
    scale = 1e-5 * expected.abs().clamp(min=1)
    assert ((found - expected).abs() <= scale).all()


def test_upstreams_first_step_counts_in_the_volume() -> None:
    state = upstream(3).state_dict()
    zero = {key: torch.zeros_like(value) if key.endswith(("weight", "bias")) else value for key, value in state.items()}
    flow = AffineFlow.of_state(zero)
    scale = (math.log(2) + 1e-3) ** 5 * 20
    expected = 3 * (math.log(scale) - 0.5 * math.log(2 * math.pi))
    assert float(flow.log_prob(torch.zeros(1, 3))) == pytest.approx(expected, abs=1e-4)


def test_other_states_are_no_flows_of_upstream() -> None:
    state = upstream(3).state_dict()
    for broken in ({}, {"a": 1}, {key: value for key, value in state.items() if "final_layer.mask" not in key}):
        with pytest.raises(ValueError, match="not a flow of upstream's form, it lacks"):
            AffineFlow.of_state(broken)
