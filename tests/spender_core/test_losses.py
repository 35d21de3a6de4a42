from __future__ import annotations

import numpy as np
import torch

from spender_core.losses import fidelity


def test_fidelity_equals_its_definition():
    rng = np.random.default_rng(0)
    spec, model = rng.normal(size=(2, 3, 20))
    w = rng.uniform(size=(3, 20))
    expected = np.sum(0.5 * w * (spec - model) ** 2, axis=1) / 20
    found = fidelity(*(torch.from_numpy(x) for x in (spec, w, model)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_perfect_fit_has_half_the_valid_fraction():
    torch.manual_seed(0)
    w = torch.ones(400, 3921)
    w[:, :660] = 0
    noise = torch.randn(400, 3921)
    assert abs(fidelity(noise, w, torch.zeros_like(noise)).mean().item() - 0.416) < 0.005
