"""Mock spectra: an SDSS-like spectrograph over any restframe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.mock import spectra as mock
from tests.galaxies import flat_galaxies


def test_the_first_spectra_of_a_longer_survey_are_those_of_a_shorter_one() -> None:
    short, longer = list(mock.draw(flat_galaxies, 2, seed=5)), list(mock.draw(flat_galaxies, 4, seed=5))
    for one, other in zip(short, longer, strict=False):
        np.testing.assert_array_equal(one.spectrum.flux, other.spectrum.flux)
        assert (one.plate, one.fiberid, one.ra, one.dec) == (other.plate, other.fiberid, other.ra, other.dec)


def test_every_spectrum_lies_on_the_axis_of_its_plate() -> None:
    for target in mock.draw(flat_galaxies, 10):
        steps = (target.spectrum.loglam - mock.AXIS[0]) / mock.LOG_STEP
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
        assert steps[0] > -0.5
        assert steps[-1] < len(mock.AXIS) - 0.5


def test_the_sky_has_its_lines() -> None:
    sky, wavelength = mock._sky(), 10**mock.AXIS
    near = np.abs(wavelength - 5578.9) < 3  # [O I], in vacuum
    assert sky[near].max() > 10 * np.median(sky)


def test_a_redshift_that_the_restframe_does_not_cover_is_refused() -> None:
    rng = np.random.default_rng(0)
    wavelength, flux = flat_galaxies(rng, 1)
    with pytest.raises(ValueError, match=r"does not cover redshift 0\.9"):
        mock.observe(rng, wavelength, flux[0], 0.9, 10.0)


def test_latents_are_drawn_between_neighbors_and_none_of_them_twice() -> None:
    rng = np.random.default_rng(2)
    sample = np.concatenate([rng.normal(size=(20, 3)), [[50, 0, 0], [50, 1, 0], [50, 0, 1], [50, 1, 1]]])
    drawn = mock.interpolated(sample.astype(np.float32))(np.random.default_rng(3), 500)
    assert (drawn.shape, drawn.dtype) == ((500, 3), np.float32)
    assert len(np.unique(drawn, axis=0)) == 500
    apart = drawn[:, 0] > 25
    assert 50 < apart.sum() < 120, "each of the sample is drawn from alike"
    np.testing.assert_allclose(drawn[apart, 0], 50)
    for part, ends in ((drawn[apart], sample[20:]), (drawn[~apart], sample[:20])):
        assert (part >= ends.min(axis=0) - 1e-6).all()
        assert (part <= ends.max(axis=0) + 1e-6).all()


def test_decoder_is_a_source_of_restframes() -> None:
    from spender_core.autoencoder import SpectrumAutoencoder
    from spender_core.instrument import SDSS

    torch.manual_seed(0)
    model = SpectrumAutoencoder(SDSS(), torch.linspace(2350, 9500, 3000), n_latent=3)

    def latents(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
        return rng.normal(size=(n, 3)).astype(np.float32)

    restframes = mock.decoded(model, latents)
    wavelength, flux = restframes(np.random.default_rng(1), 4)
    assert wavelength.shape == (3000,)
    assert flux.shape == (4, 3000)
    first, second = mock.draw(restframes, 2)
    assert not np.array_equal(first.spectrum.flux[:3000], second.spectrum.flux[:3000])
