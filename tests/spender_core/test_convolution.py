"""The fast convolutions against torch's plain layers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from spender_core import SDSS, SpectrumEncoder
from spender_core.convolution import TiledConvolution, first_stage, second_stage, third_stage, transforms
from spender_core.instrument import Instrument

# float32 sums of a few thousand terms in another order; measured: up to 2e-6 of the largest value
CLOSE = 1e-5

SLOPES = {"positive": (0.05, 0.5), "zero": (0.0, 0.0), "negative": (-0.5, -0.05), "mixed": (-0.5, 0.5)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=SLOPES)
def slope(request):
    return lambda n: torch.empty(n).uniform_(*SLOPES[request.param])


def assert_close(found, expected, tolerance=CLOSE):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def plain(convolution, slope, pool=None):
    """The layers as published: convolution, instance norm, PReLU, max-pool."""
    n = convolution.out_channels
    activation = nn.PReLU(n)
    activation.weight = nn.Parameter(slope)
    layers = [convolution, nn.InstanceNorm1d(n), activation]
    return nn.Sequential(*layers, *([nn.MaxPool1d(pool, padding=pool // 2)] if pool else []))


def set_slopes(encoder, slope):
    for stage in (encoder.conv1, encoder.conv2, encoder.conv3):
        with torch.no_grad():
            stage.slope.copy_(slope(len(stage.slope)))


def plain_features(encoder, spec):
    """The features by torch's own layers, for any dtype and with any gradient."""
    x = encoder.pool1(encoder.conv1(spec.unsqueeze(1)))
    value, key = encoder.conv3(encoder.pool2(encoder.conv2(x))).chunk(2, dim=1)
    return torch.sum(value * torch.softmax(key, dim=-1), dim=2)


@pytest.mark.parametrize("n_out", [1, 2, 5, 22])
@pytest.mark.parametrize("kernel", [1, 3, 11])
def test_transforms_convolve(n_out, kernel):
    x, w = torch.randn(n_out + kernel - 1).double(), torch.randn(kernel).double()
    expected = x.unfold(0, kernel, 1) @ w
    for size in (n_out + kernel - 1, n_out + kernel, n_out + kernel + 1):
        outputs, kernels, inputs = transforms(n_out, kernel, size)
        padded = functional.pad(x, (0, size - len(x)))
        assert_close(outputs @ ((kernels @ w) * (inputs @ padded)), expected, 1e-12)


@pytest.mark.parametrize("length", [1, 2, 7, 21, 22, 23, 72, 95, 96, 97, 98, 119, 201])
@pytest.mark.parametrize("kernel", [5, 11, 21])
def test_tiles_equal_the_layer_for_any_length(length, kernel):
    layer = TiledConvolution(3, 4, kernel, length)
    x = torch.randn(2, 3, length, requires_grad=True)
    expected = layer(x) - layer.bias[:, None]
    found = layer.tiled(x.permute(2, 0, 1), layer.spectra()).permute(1, 2, 0)
    assert_close(found, expected)
    weight = torch.randn_like(expected)
    ours = torch.autograd.grad((found * weight).sum(), (x, layer.weight))
    theirs = torch.autograd.grad((expected * weight).sum(), (x, layer.weight))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8, 11, 23, 100, 101, 102, 103, 104])
def test_first_stage_equals_the_layers_for_any_length(length, slope):
    layer = nn.Conv1d(1, 6, 5, padding=2)
    slopes = slope(6)
    spec = torch.randn(3, length)
    if length == 1:
        spec = torch.ones(3, 1)  # instance norm refuses a single position, which has no variance
        assert torch.isfinite(first_stage(spec, layer.weight, slopes, 5)).all()
        return
    expected = plain(layer, slopes, 5)(spec.unsqueeze(1)).permute(2, 0, 1)
    # a short spectrum's variance is small beside its level, which float32 layers feel
    assert_close(first_stage(spec, layer.weight, slopes, 5), expected, 1e-4 if length < 10 else CLOSE)


@pytest.mark.parametrize("length", [2, 5, 6, 7, 11, 12, 16, 17, 18, 22, 23, 71, 72, 73])
def test_second_and_third_stage_equal_the_layers_for_any_length(length, slope):
    layer = TiledConvolution(4, 6, 11, length)
    slopes = slope(6)
    x = torch.randn(2, 4, length)

    def convolved():
        return layer.tiled(x.permute(2, 0, 1), layer.spectra())

    expected = plain(layer, slopes, 11)(x).permute(2, 0, 1)
    assert_close(second_stage(convolved(), slopes, 11), expected)
    assert_close(third_stage(convolved(), slopes), plain(layer, slopes)(x).permute(2, 0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [*range(1, 10), 33, 65])
def test_features_equal_the_layers_for_any_batch(batch, slope):
    encoder = SpectrumEncoder(SDSS(), 6)
    set_slopes(encoder, slope)
    spec = 1 + 0.3 * torch.randn(batch, 3921)
    with torch.no_grad():
        assert_close(encoder.features(spec), plain_features(encoder, spec))


@pytest.mark.slow
@pytest.mark.parametrize("length", [331, 1000, 3923, 4686, 7781])
def test_features_equal_the_layers_for_any_grid(length):
    encoder = SpectrumEncoder(Instrument("own", torch.linspace(4000, 9000, length)), 6)
    spec = 1 + 0.3 * torch.randn(2, length)
    with torch.no_grad():
        assert_close(encoder.features(spec), plain_features(encoder, spec))


@pytest.mark.slow
@pytest.mark.parametrize("slope_of", ["positive", "negative", "mixed"])
def test_gradients_equal_those_in_float64(slope_of):
    # Where two pixels of a pooling window are equal to rounding, either may be the maximum and take the gradient: with
    # this seed there is none. At slopes of exactly 0 all pixels below 0 are such.
    encoder = SpectrumEncoder(SDSS(), 6)
    set_slopes(encoder, lambda n: torch.empty(n).uniform_(*SLOPES[slope_of]))
    exact = copy.deepcopy(encoder).double()
    spec = 1 + 0.3 * torch.randn(2, 3921)
    weight = torch.randn(2, 256)
    (encoder.features(spec) * weight).sum().backward()
    (plain_features(exact, spec.double()) * weight).sum().backward()
    for name in (f"conv{i}.{layer}.weight" for i in (1, 2, 3) for layer in (0, 2)):
        assert_close(encoder.get_parameter(name).grad, exact.get_parameter(name).grad.float(), 1e-4)


@pytest.mark.slow
def test_gradient_of_equal_pixels_is_given_once():
    # a flat spectrum: all pixels of a window are equal, and its gradient must not be multiplied by their number
    encoder = SpectrumEncoder(SDSS(), 6)
    spec = torch.ones(2, 3921)
    spec[:, :1000] = 0
    spec[:, 2000:2010] = 2
    encoder.features(spec).sum().backward()
    found = encoder.conv1.weight.grad.clone()
    encoder.zero_grad()
    plain_features(encoder, spec).sum().backward()
    assert_close(found, encoder.conv1.weight.grad, 1e-3)


def test_spectra_are_made_anew_however_the_weights_change():
    layer = TiledConvolution(3, 4, 11, 50)
    x = torch.randn(50, 2, 3)

    def error():
        with torch.no_grad():
            expected = layer(x.permute(1, 2, 0)).permute(2, 0, 1) - layer.bias
            return (layer.tiled(x, layer.spectra()) - expected).abs().max()

    assert error() < CLOSE
    layer.weight.data[0, 0, 0] += 1
    assert error() < CLOSE
    layer.load_state_dict(TiledConvolution(3, 4, 11, 50).state_dict())
    assert error() < CLOSE
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.mul_(2)
    assert error() < CLOSE


def test_state_is_that_of_the_plain_layer():
    assert set(TiledConvolution(3, 4, 11, 50).state_dict()) == set(nn.Conv1d(3, 4, 11).state_dict())


def test_gradient_with_respect_to_spectra_is_that_of_the_layers():
    encoder = SpectrumEncoder(SDSS(), 6)
    spec = (1 + 0.3 * torch.randn(1, 3921)).requires_grad_()
    (found,) = torch.autograd.grad(encoder.features(spec).sum(), spec)
    (expected,) = torch.autograd.grad(plain_features(encoder, spec).sum(), spec)
    assert torch.equal(found, expected)


def test_no_spectra_have_no_features():
    encoder = SpectrumEncoder(SDSS(), 6)
    assert encoder(torch.zeros(0, 3921)).shape == (0, 6)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["bfloat16", "half", "meta"])
def test_weights_loaded_after_a_change_of_type_or_device_count_in_full(way):
    encoder = SpectrumEncoder(SDSS(), 6).eval()
    spec = 1 + 0.3 * torch.randn(2, 3921)
    if way == "meta":
        with torch.device("meta"):
            other = SpectrumEncoder(SDSS(), 6)
        other = other.to_empty(device="cpu").eval()
        other.instrument = encoder.instrument
    else:
        other = getattr(copy.deepcopy(encoder), way)().float()
    other.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        assert torch.equal(other.features(spec), encoder.features(spec))


def test_what_can_be_made_again_is_not_pickled():
    layer = TiledConvolution(32, 32, 11, 50)
    before = len(pickle.dumps(layer))
    with torch.no_grad():
        layer.tiled(torch.randn(50, 2, 32), layer.spectra())
    assert len(pickle.dumps(layer)) == before
