from __future__ import annotations

import pytest
import torch

from spender_core.schedule import one_cycle


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 10, 333])
def test_the_cycle_is_that_of_torch(steps):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=steps)
    for step in range(steps):
        rate, beta = one_cycle(step, steps)
        group = optimizer.param_groups[0]
        assert 2 * rate == pytest.approx(group["lr"], rel=1e-9)
        assert beta == pytest.approx(group["betas"][0], rel=1e-9)
        optimizer.step()
        if step + 1 < steps:
            torchs.step()
