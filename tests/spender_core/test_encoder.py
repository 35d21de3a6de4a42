from __future__ import annotations

import pytest
import torch
from spender.data.sdss import SDSS as UpstreamSDSS
from spender.model import SpectrumEncoder as UpstreamEncoder

from spender_core import SDSS, SpectrumEncoder


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


def test_unexpected_aux_is_refused(encoder):
    with pytest.raises(ValueError, match="takes no aux input"):
        encoder(torch.zeros(2, 3921), aux=torch.zeros(2, 1))


def test_missing_aux_is_refused():
    with pytest.raises(ValueError, match=r"aux=z.unsqueeze\(1\)"):
        SpectrumEncoder(SDSS(), 6, n_aux=1)(torch.zeros(2, 3921))


def test_aux_changes_the_latents():
    torch.manual_seed(0)
    encoder = SpectrumEncoder(SDSS(), 6, n_aux=1)
    spec = torch.randn(1, 3921).expand(2, -1)
    a, b = encoder(spec, aux=torch.tensor([[0.0], [0.4]]))
    assert not torch.allclose(a, b)
