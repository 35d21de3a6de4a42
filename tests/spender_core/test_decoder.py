from __future__ import annotations

import pytest
import torch
from spender.data.sdss import SDSS as UpstreamSDSS
from spender.model import SpectrumDecoder as UpstreamDecoder

from spender_core import SDSS, SpectrumDecoder

WAVE_REST = torch.linspace(2523.0, 9332.0, 5881)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return SpectrumDecoder(WAVE_REST, n_latent=6).eval()


def test_observed_spectra_equal_upstream_with_lsf_and_calibration(decoder):
    kernel = torch.tensor([0.2, 1.0, 0.4])

    def tilt(wave, spectrum):
        return spectrum * (wave / 6000)

    theirs = UpstreamDecoder(WAVE_REST, 6).eval()
    theirs.load_state_dict(decoder.state_dict())
    s, z = torch.randn(4, 6), torch.tensor([0.0, 0.05, 0.2, 0.49])
    with torch.no_grad():
        expected = theirs(s, instrument=UpstreamSDSS(lsf=kernel, calibration=tilt), z=z)
        found = decoder(s, instrument=SDSS(lsf=kernel, calibration=tilt), z=z)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_speculator_with_gamma_one_is_the_identity(decoder):
    with torch.no_grad():
        decoder.mlp[1].gamma.fill_(1)
        x = torch.randn(3, 64)
        assert torch.allclose(decoder.mlp[1](x), x)


def test_without_instrument_the_restframe_grid_is_observed(decoder):
    rest = decoder.decode(torch.randn(2, 6)).detach()
    observed, valid = decoder.observe(rest)
    assert observed.shape == rest.shape
    assert torch.allclose(observed[valid], rest[valid], atol=1e-4)
    assert int((~valid).sum()) == 4  # the outermost bins of each lie on the edge


def test_bins_outside_of_the_model_are_zero_not_extrapolated(decoder):
    rest = decoder.decode(torch.randn(1, 6)).detach()
    spectrum, valid = decoder.observe(rest, SDSS(), torch.tensor([0.8]))
    assert 0 < int(valid.sum()) < 3921
    assert (spectrum[~valid] == 0).all()


def test_loaded_grid_replaces_the_one_that_was_built_with():
    torch.manual_seed(0)
    other = SpectrumDecoder(torch.linspace(2600.0, 9400.0, 5881), n_latent=6)
    twin = SpectrumDecoder(WAVE_REST, n_latent=6)
    twin.load_state_dict(other.state_dict())
    s, z = torch.randn(2, 6), torch.tensor([0.1, 0.3])
    with torch.no_grad():
        assert torch.equal(twin(s, SDSS(), z), other(s, SDSS(), z))


def test_wrong_number_of_redshifts_is_refused(decoder):
    with pytest.raises(ValueError, match=r"z has shape \(3,\), expected \(2,\)"):
        decoder.transform(torch.ones(2, 5881), SDSS(), torch.zeros(3))
