from __future__ import annotations

import pytest
import torch
from spender.data.sdss import SDSS as UpstreamSDSS
from spender.model import SpectrumEncoder as UpstreamEncoder

from spender_core import SDSS, SpectrumEncoder, load_model


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return SpectrumEncoder(SDSS(), n_latent=6).eval()


def test_latents_equal_upstream_for_any_prelu_slope(encoder):
    torch.manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, torch.nn.PReLU):
            torch.nn.init.uniform_(module.weight, -0.5, 0.5)
    theirs = UpstreamEncoder(UpstreamSDSS(), 6).eval()
    theirs.load_state_dict(encoder.state_dict(), strict=False)
    spec = 1 + 0.3 * torch.randn(5, 3921)
    with torch.no_grad():
        expected = theirs(spec)
        assert (encoder(spec) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_wrong_length_is_refused(encoder):
    with pytest.raises(ValueError, match=r"\(2, 4000\), expected \(N, 3921\): the sdss grid"):
        encoder(torch.zeros(2, 4000))


def test_an_aux_that_the_encoder_does_not_take_is_ignored_with_one_warning(encoder):
    spec, aux = torch.randn(2, 3921), torch.ones(2, 1)
    with torch.no_grad():
        expected = encoder(spec)
        with pytest.warns(UserWarning, match="takes no aux: what was given is ignored"):
            latents = encoder(spec, aux=aux)
        assert torch.equal(latents, expected)
        assert torch.equal(encoder(spec, aux=aux), expected)  # a second warning would be an error


@pytest.mark.parametrize("aux", [None, torch.zeros(2, 2)])
def test_a_missing_aux_and_one_of_another_width_are_refused(aux):
    with pytest.raises(ValueError, match=r"aux=z.unsqueeze\(1\)"):
        SpectrumEncoder(SDSS(), 6, n_aux=1)(torch.zeros(2, 3921), aux=aux)


def test_aux_changes_the_latents():
    torch.manual_seed(0)
    encoder = SpectrumEncoder(SDSS(), 6, n_aux=1)
    spec = torch.randn(1, 3921).expand(2, -1)
    a, b = encoder(spec, aux=torch.tensor([[0.0], [0.4]]))
    assert not torch.allclose(a, b)


def test_the_features_are_sums_with_the_attention(encoder):
    spec = 1 + 0.3 * torch.randn(3, 3921)
    hidden = []
    handle = encoder.conv3.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    with torch.no_grad():
        attention = encoder.attention(spec)
        handle.remove()
        features = encoder.features(spec)
    value, key = hidden[0].double().split(256, dim=1)
    exact = key.exp() / key.exp().sum(dim=-1, keepdim=True)
    assert attention.shape == (3, 256, 72)
    assert (attention - exact).abs().max() < 1e-6
    assert (attention.double().sum(dim=-1) - 1).abs().max() < 1e-6
    # the features come from the faster convolutions, the attention from the plain layers: float32 rounding apart
    assert (features - (value * attention).sum(dim=-1)).abs().max() < 1e-5 * features.abs().max()


def test_attention_is_as_upstreams(encoder):
    theirs = UpstreamEncoder(UpstreamSDSS(), 6).eval()
    theirs.load_state_dict(encoder.state_dict(), strict=False)
    spec = 1 + 0.3 * torch.randn(2, 3921)
    with torch.no_grad():
        _, key = theirs._downsample(spec)
        attention = encoder.attention(spec)
    expected = torch.softmax(key, dim=-1)
    assert (attention - expected).abs().max() < 1e-5 * expected.max()


@pytest.fixture
def looking_at_lines():
    """An encoder whose keys are the brightest pixel of each position, and whose values are zero."""
    encoder = SpectrumEncoder(SDSS(), n_latent=6).eval().double()
    with torch.no_grad():
        for stage in (encoder.conv1, encoder.conv2, encoder.conv3):
            stage.weight.zero_()
            stage.weight[:, 0, stage.weight.shape[2] // 2] = 1
            stage.get_parameter("0.bias").zero_()
        encoder.conv3.weight[:256].zero_()
    return encoder


@pytest.mark.parametrize("place", [30, 1000, 2001, 3890])
def test_a_planted_line_moves_the_attention_there(looking_at_lines, place):
    encoder, wave = looking_at_lines, SDSS().wave_obs
    plain = 1 + 0.01 * torch.randn(1, 3921, dtype=torch.float64)
    line = torch.exp(-0.5 * ((torch.arange(3921) - place) / 2.0) ** 2).double()
    before, after = encoder.attention(plain), encoder.attention(plain + line)
    found = encoder.attention_wave[after[0].argmax(dim=-1)]
    nearest = encoder.attention_wave[(encoder.attention_wave - wave[place]).abs().argmin()]
    assert torch.equal(found, nearest.expand(256))
    assert (after.amax(dim=-1) > 2 * before.amax(dim=-1)).all()


@pytest.mark.parametrize("wavelength", [4300.0, 5000.0, 6000.0, 7000.0, 8500.0])
def test_the_embedded_model_answers_to_a_line_where_its_positions_see_it(wavelength):
    encoder = load_model("sdss-demo", SDSS())[0].encoder
    wave = SDSS().wave_obs
    torch.manual_seed(3)
    plain = 1 + 0.1 * torch.randn(1, 3921)
    line = torch.exp(-0.5 * ((wave - wavelength) / 4) ** 2)
    with torch.no_grad():
        moved = (encoder.attention(plain + 3 * line) - encoder.attention(plain)).abs().sum(dim=(0, 1))
    most = encoder.attention_wave[moved.argmax()]
    assert (torch.log10(most / wavelength) / 1e-4).abs() < 1209 / 2


@pytest.mark.slow
def test_what_a_position_sees_is_as_wide_as_documented_and_centered(encoder):
    encoder = encoder.double()
    spec = torch.randn(1, 3921, dtype=torch.float64, requires_grad=True)
    for stage in (encoder.conv1, encoder.conv2, encoder.conv3):  # instance norms see the whole spectrum
        stage[1] = torch.nn.Identity()
    seen = torch.zeros(3921, dtype=torch.bool)
    hidden = encoder.conv3(encoder.pool2(encoder.conv2(encoder.pool1(encoder.conv1(spec.unsqueeze(1))))))
    for channel in range(0, 512, 8):  # a maximum passes on one pixel of its window, each channel another
        (gradient,) = torch.autograd.grad(hidden[0, channel, 30], spec, retain_graph=True)
        seen |= gradient[0] != 0
    (bins,) = seen.nonzero(as_tuple=True)
    assert SDSS().wave_obs[55 * 30] == encoder.attention_wave[30]
    assert 1100 < bins.max() - bins.min() + 1 <= 1209
    assert bins.min() >= 55 * 30 - 604
    assert bins.max() <= 55 * 30 + 604


def test_the_gradient_of_the_attention_is_that_of_a_growing_line(encoder):
    encoder = encoder.double()
    spec = 1 + 0.3 * torch.randn(2, 3921, dtype=torch.float64)
    line = torch.exp(-0.5 * ((SDSS().wave_obs.double() - 6564.6) / 4) ** 2)
    gradient = encoder.attention_gradient(spec, line)
    step = 1e-6  # small beside the distances between pixels, so that no maximum is another one
    with torch.no_grad():
        difference = (encoder.attention(spec + step * line) - encoder.attention(spec - step * line)) / (2 * step)
    assert gradient.shape == (2, 256, 72)
    assert (gradient - difference).abs().max() < 1e-4 * gradient.abs().max()
    assert gradient.sum(dim=-1).abs().max() < 1e-12
    assert not gradient.requires_grad


@pytest.mark.parametrize("n_aux", [0, 1])
def test_the_sensitivity_is_the_change_of_a_latent_by_a_pixel(n_aux):
    torch.manual_seed(0)
    encoder = SpectrumEncoder(SDSS(), 6, n_aux=n_aux).eval().double()
    spec = 1 + 0.3 * torch.randn(2, 3921, dtype=torch.float64)
    aux = torch.rand(2, 1, dtype=torch.float64) if n_aux else None
    sensitivity = encoder.sensitivity(spec, 4, aux)
    assert sensitivity.shape == spec.shape
    change = torch.zeros_like(spec)
    change[:, 1000:1010] = 1e-6
    with torch.no_grad():
        difference = (encoder(spec + change, aux) - encoder(spec - change, aux))[:, 4] / 2
    expected = (sensitivity * change).sum(dim=1)
    assert (difference - expected).abs().max() < 1e-4 * expected.abs().max()
    with torch.no_grad():  # also where nothing else is differentiated
        assert torch.equal(encoder.sensitivity(spec, 4, aux), sensitivity)


def test_a_latent_that_is_not_there_and_another_grid_are_refused(encoder):
    with pytest.raises(IndexError, match="latent is 6, expected 0 to 5"):
        encoder.sensitivity(torch.ones(1, 3921), 6)
    for call in (encoder.attention, lambda spec: encoder.attention_gradient(spec, torch.ones(3921))):
        with pytest.raises(ValueError, match=r"\(1, 4000\), expected \(N, 3921\)"):
            call(torch.ones(1, 4000))
