from __future__ import annotations

import pytest
import torch

from spender_core.average import RunningMean


def parameter(value=0.0):
    return torch.nn.Parameter(torch.tensor([value, 2 * value]))


def set_to(place, value):
    with torch.no_grad():
        place.copy_(torch.tensor([value, 2 * value]))


def test_the_mean_follows_the_parameters_by_its_decay():
    weight, expected = parameter(5.0), 5.0
    mean = RunningMean([weight], 0.5)
    for step, value in enumerate([1.0, -2.0, 4.0, 3.0, 3.0, 8.0, 1.0, 0.0, 2.0, 7.0]):
        set_to(weight, value)
        mean.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert mean.values[0].tolist() == pytest.approx([expected, 2 * expected])


def test_the_mean_is_applied_for_a_while_or_for_good():
    weight = parameter(1.0)
    mean = RunningMean([weight], 0.9)
    set_to(weight, 11.0)
    mean.update()
    with mean.applied():
        assert weight.tolist() == pytest.approx([10.0, 20.0])
    assert weight.tolist() == [11.0, 22.0]
    with pytest.raises(KeyError), mean.applied():
        raise KeyError
    assert weight.tolist() == [11.0, 22.0]
    mean.copy_to_parameters()
    assert weight.tolist() == pytest.approx([10.0, 20.0])


def test_a_mean_goes_on_from_its_state():
    weights = parameter(1.0), parameter(1.0)
    whole, first = (RunningMean([weight], 0.9) for weight in weights)
    for value in (2.0, 3.0):
        for weight, mean in zip(weights, (whole, first), strict=True):
            set_to(weight, value)
            mean.update()
    second = RunningMean([weights[1]], 0.9)
    second.restore(**first.state())
    for weight, mean in zip(weights, (whole, second), strict=True):
        set_to(weight, 9.0)
        mean.update()
    assert torch.equal(whole.values[0], second.values[0])
