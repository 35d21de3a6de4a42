from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from spender_core.architectures import describe
from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.basis import Basis, _kind, scannable
from spender_core.instrument import DESI, SDSS
from spender_core.redshift import C, RedshiftEstimator
from spender_core.templates import COMPONENTS, LOG_STEP, of_decoder
from tests.spender_core.redshift_samples import NAME, embedded, galaxies

pytestmark = pytest.mark.slow


def test_a_basis_is_read_as_it_was_written_and_no_other() -> None:
    basis = embedded()[2]
    data = basis.to_bytes()
    assert basis.to_bytes() == data
    sha256 = hashlib.sha256(data).hexdigest()
    read = Basis.from_bytes(data, sha256)
    assert torch.equal(read.templates.flux, basis.templates.flux)
    assert (read.templates.kind, read.templates.start) == (basis.templates.kind, basis.templates.start)
    assert torch.equal(read.prior.covariance, basis.prior.covariance)
    with pytest.raises(ValueError, match="damaged or was replaced"):
        Basis.from_bytes(data[:-1], sha256)
    for broken in (b"", data[:100], b"PK\x03\x04nonsense"):
        with pytest.raises(ValueError, match="not a file of templates"):
            Basis.from_bytes(broken)


def test_templates_make_what_the_decoder_makes() -> None:
    model, latents, basis = embedded()
    flux = basis.templates.flux.double()
    assert flux.shape[0] == COMPONENTS
    wave = 10 ** (basis.templates.start + LOG_STEP * np.arange(flux.shape[1]))
    assert wave[0] == pytest.approx(float(model.wave_rest[0]), rel=1e-6)
    assert wave[-1] <= float(model.wave_rest[-1]) * (1 + 1e-6)
    with torch.no_grad():
        spectra = model.decode(latents).numpy()
    left = []
    for each in spectra:
        y = np.interp(wave, model.wave_rest.numpy(), each)
        solution = np.linalg.lstsq(flux.numpy().T, y, rcond=None)[0]
        left.append(np.var(y - solution @ flux.numpy()) / np.var(y))
    assert np.median(left) < 0.02


def test_too_few_latents_are_refused() -> None:
    model, latents, _ = embedded()
    with pytest.raises(ValueError, match="5 latents are given, expected at least 6"):
        of_decoder(model, latents[:5])


def test_the_embedded_model_brings_its_latents_and_its_class() -> None:
    made = Basis.of_checkpoint(NAME, "sdss", (0.0, 0.5))
    assert made.templates.kind == "GALAXY"
    torch.testing.assert_close(made.templates.flux, embedded()[2].templates.flux)


def test_a_checkpoint_without_latents_is_given_galaxies_to_encode(tmp_path: Path) -> None:
    """Its templates find redshifts as those of its own latents do: here the embedded model without them."""
    model, _, _ = embedded()
    file = tmp_path / "bare.pt"
    torch.save({"model": [model.state_dict()], "losses": None, "instruments": ["sdss"], **describe(model)}, file)
    made = Basis.of_checkpoint(str(file), "sdss", (0.0, 0.5))
    again = Basis.of_checkpoint(str(file), "sdss", (0.0, 0.5))
    assert torch.equal(made.templates.flux, again.templates.flux)
    sample = galaxies(8, noise=0.1)
    found = RedshiftEstimator(SDSS(), made.templates, (-0.002, 0.5), others=[])(sample.flux, sample.ivar)
    assert (C * (found.z - sample.z) / (1 + sample.z)).abs().max() < 150


def test_a_model_that_takes_the_redshift_has_templates_as_well() -> None:
    assert Basis.of_checkpoint("sdss-demo", "sdss", (0.0, 0.5)).templates.flux.shape[0] == COMPONENTS


def test_a_model_covers_the_redshifts_of_its_domain_or_of_its_blue_end() -> None:
    wave = SDSS().wave_obs.numpy()
    rest = np.linspace(2523.0, 9300.0, 100)
    low, high = scannable(wave, rest)
    assert -0.01 < low < 0
    assert high == pytest.approx(0.5, abs=0.01)
    assert scannable(wave, rest, (0.1, 0.2)) == pytest.approx((0.1, 0.2), abs=0.004)
    with pytest.raises(ValueError, match="covers no range of redshifts"):
        scannable(wave, np.linspace(3790.0, 9300.0, 100))


def test_random_weights_on_another_grid_can_be_fitted_with(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = SpectrumAutoencoder(DESI(), torch.linspace(2400, 9800, 3000), n_latent=3)
    file = tmp_path / "desi.pt"
    torch.save({"model": [model.state_dict()], "losses": None, "instruments": ["desi"], **describe(model)}, file)
    assert Basis.of_checkpoint(str(file), "desi", (0.0, 0.4)).prior.mean.shape == (3,)


@pytest.mark.parametrize(
    ("classes", "kind"),
    [(["QSO"], "QSO"), (["STAR"], "STAR"), (["LRG"], "GALAXY"), (["GALAXY", "QSO"], "GALAXY"), (None, "GALAXY")],
)
def test_the_kind_of_a_checkpoint_is_one_that_there_are_templates_of(classes: list[str] | None, kind: str) -> None:
    assert _kind({"domain": {"classes": classes, "z": [0.0, 0.5]}}) == kind
