from __future__ import annotations

import warnings

import pytest
import torch
from spender.data.sdss import SDSS as UpstreamSDSS
from spender.model import SpectrumAutoencoder as UpstreamAutoencoder

from spender_core import SDSS, SpectrumAutoencoder, fit_amplitude
from spender_core.losses import fidelity

WAVE_REST = torch.linspace(2523.0, 9332.0, 5881)


def close(found, expected):
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture
def spectra():
    generator = torch.Generator().manual_seed(3)
    spec = 1 + 0.2 * torch.randn(4, 3921, generator=generator)
    w = 25 * torch.rand(4, 3921, generator=generator)
    return spec, w, torch.tensor([0.001, 0.08, 0.3, 0.49])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SpectrumAutoencoder(SDSS(), WAVE_REST, n_latent=10).eval()


def test_forward_and_loss_equal_upstream(model, spectra):
    spec, w, z = spectra
    theirs = UpstreamAutoencoder(UpstreamSDSS(), WAVE_REST, n_latent=10).eval()
    theirs.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        expected = theirs._forward(spec, z=z)[:3]
        for found, wanted in zip(model._forward(spec, z=z), expected, strict=True):
            close(found, wanted)
        close(model(spec, z=z), expected[2])
        close(model.loss(spec, w, z=z), theirs.loss(spec, w, z=z))


def test_latents_given_are_not_encoded_again(model, spectra):
    spec, _, z = spectra
    s = torch.zeros(4, 10)
    assert model._forward(spec, z=z, s=s)[0] is s


def test_aux_is_the_redshift(spectra):
    spec, w, z = spectra
    torch.manual_seed(0)
    model = SpectrumAutoencoder(SDSS(), WAVE_REST, n_latent=4, n_aux=1).eval()
    with torch.no_grad():
        assert torch.equal(model._forward(spec, z=z)[0], model.encode(spec, aux=z.unsqueeze(1)))
    with pytest.raises(ValueError, match="z is missing"):
        model(spec)


def test_bins_outside_of_the_model_carry_no_weight(model, spectra):
    spec, w, _ = spectra
    z = torch.full((4,), 0.9)
    with torch.no_grad():
        _, _, reconstruction, valid = model.reconstruct(spec, z=z)
        assert not valid.all()
        close(model.loss(spec, w, z=z), fidelity(spec * valid, w * valid, reconstruction).sum())


def test_amplitude_is_the_least_squares_factor(spectra):
    spec, w, _ = spectra
    factor = torch.tensor([0.5, 1.0, 3.0, -2.0])
    close(fit_amplitude(factor[:, None] * spec, w, spec), factor)
    best = fit_amplitude(spec, w, torch.ones_like(spec))
    for trial in (best * 0.999, best * 1.001):
        assert (fidelity(spec, w, trial[:, None]) > fidelity(spec, w, best[:, None])).all()


def test_amplitude_without_weight_is_nan(spectra):
    assert fit_amplitude(spectra[0], torch.zeros(4, 3921), spectra[0]).isnan().all()


def test_instrument_without_the_models_lsf_warns_once(spectra):
    spec, _, z = spectra
    model = SpectrumAutoencoder(SDSS(lsf=torch.tensor([1.0, 2, 1])), WAVE_REST, n_latent=4).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(spec, z=z)
        assert not caught
        model(spec, instrument=SDSS(), z=z)
        model(spec, instrument=SDSS(), z=z)
    assert [str(warning.message).partition(",")[0] for warning in caught] == [
        "the instrument 'sdss' has no line spread function"
    ]
