"""The packed linear layer against nn.Linear."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional

from spender_core.packed import PackedLinear


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return PackedLinear(1024, 1100)


def error(layer, n=5):
    x = torch.randn(n, 1024)
    expected = functional.linear(x, layer.weight, layer.bias)
    return ((layer(x) - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("n", [0, *range(1, 10), 63, 64, 65])
def test_equals_the_plain_layer_for_any_batch(layer, n):
    with torch.no_grad():
        x = torch.randn(n, 1024)
        torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


def test_is_used_where_no_gradient_is_wanted(layer):
    with torch.no_grad():
        layer(torch.randn(2, 1024))
    assert layer._packed is not None


def test_follows_changed_weights(layer):
    with torch.no_grad():
        assert error(layer) < 1e-5
        layer.weight[3, 4] += 1
        assert error(layer) < 1e-5
        layer.load_state_dict(PackedLinear(1024, 1100).state_dict())
        assert error(layer) < 1e-5
        layer.weight.data.mul_(2)
        assert error(layer) < 1e-5
        layer.weight = torch.nn.Parameter(torch.randn(1100, 1024))
        assert error(layer) < 1e-5


def test_copies_and_pickles(layer):
    with torch.no_grad():
        x = torch.randn(3, 1024)
        expected = layer(x)
        assert torch.equal(copy.deepcopy(layer)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), expected)


def test_gradients_are_the_plain_layers(layer):
    x = torch.randn(3, 1024, requires_grad=True)
    layer(x).sum().backward()
    assert torch.equal(x.grad, layer.weight.sum(dim=0).expand(3, -1)) or torch.allclose(
        x.grad, layer.weight.sum(dim=0).expand(3, -1), atol=1e-5
    )
    assert layer.weight.grad is not None


def test_rows_do_not_depend_on_their_number(layer):
    with torch.no_grad():
        x = torch.randn(64, 1024)
        assert torch.equal(layer(x), layer(x.clone()))
