from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spender.util import interp1d

from spender_core import SDSS
from spender_core.resample import resample, spacing, within

LINEAR = torch.linspace(2359.0, 9332.0, 7000)
LOGARITHMIC = (10 ** torch.linspace(3.40, 3.97, 5701, dtype=torch.float64)).float()
IRREGULAR = torch.cat((torch.linspace(2500.0, 5000.0, 3000), torch.linspace(5001.0, 9300.0, 1500)))
GRIDS = {"linear": LINEAR, "logarithmic": LOGARITHMIC, "irregular": IRREGULAR}


def spectra(n, wave, seed=0):
    return 1 + 0.3 * torch.randn(n, len(wave), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "logarithmic"), [("linear", False), ("logarithmic", True)])
def test_uniform_grids_are_recognized(name, logarithmic):
    found = spacing(GRIDS[name])
    assert found is not None
    assert found.logarithmic is logarithmic


def test_irregular_grid_has_no_spacing():
    assert spacing(IRREGULAR) is None


def test_decreasing_grid_is_refused():
    with pytest.raises(ValueError, match="not increasing"):
        spacing(LINEAR.flip(0))


@pytest.mark.parametrize("name", GRIDS)
def test_resample_equals_upstream(name):
    wave, obs = GRIDS[name], SDSS().wave_obs
    z = torch.tensor([-0.001, 0.0, 1e-4, 0.03, 0.1234, 0.35, 0.4999, 0.7, 1.5])
    rest = spectra(len(z), wave)
    ours = resample(rest, wave, obs, z, spacing(wave))
    theirs = interp1d(wave * (1 + z[:, None]), rest, obs)
    valid = within(wave, obs, z)
    assert valid.any(dim=1).all()
    assert (ours - theirs)[valid].abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", GRIDS)
def test_resample_agrees_with_float64_evaluation(name):
    # float32 wavelengths of 9000 A are known to 5e-4 A, a thousandth of a bin: that times the largest step between
    # bins bounds the error
    wave, obs = GRIDS[name], SDSS().wave_obs
    z = torch.tensor([0.02, 0.3])
    rest = spectra(2, wave)
    ours = resample(rest, wave, obs, z, spacing(wave))
    valid = within(wave, obs, z)
    for row in range(2):
        expected = np.interp(
            obs.double().numpy(), wave.double().numpy() * (1 + z[row].item()), rest[row].double().numpy()
        )
        error = np.abs(ours[row].numpy() - expected)[valid[row].numpy()]
        assert error.max() < 2e-3 * rest[row].diff().abs().max()


@given(st.lists(st.floats(-0.01, 0.9), min_size=1, max_size=5))
@pytest.mark.slow
def test_direct_index_equals_the_general_interpolation(redshifts):
    z = torch.tensor(redshifts, dtype=torch.float32)
    obs = SDSS().wave_obs[::7]
    rest = spectra(len(z), LOGARITHMIC, seed=1)
    direct = resample(rest, LOGARITHMIC, obs, z, spacing(LOGARITHMIC))
    general = resample(rest, LOGARITHMIC, obs, z, None)
    valid = within(LOGARITHMIC, obs, z)
    assert torch.allclose(direct[valid], general[valid], rtol=1e-5, atol=1e-5)


def test_bins_outside_of_the_model_are_invalid():
    z = torch.tensor([0.0, 1.0])
    valid = within(torch.tensor([4000.0, 5000.0]), torch.tensor([3999.0, 4000.0, 4500.0, 5000.0, 9000.0]), z)
    assert valid.tolist() == [[False, False, True, False, False], [False, False, False, False, True]]


@pytest.mark.timeout(60)  # torchinterp1d's own backward pass never returns
@pytest.mark.parametrize("grid", ["uniform", "irregular"])
def test_gradients_with_respect_to_spectrum_and_redshift(grid):
    wave = torch.linspace(4000.0, 6000.0, 41, dtype=torch.float64)
    obs = torch.linspace(4511.0, 6017.0, 23, dtype=torch.float64)
    rest = spectra(2, wave).double().requires_grad_()
    z = torch.tensor([0.031, 0.0713], dtype=torch.float64, requires_grad=True)
    found = spacing(wave) if grid == "uniform" else None
    assert torch.autograd.gradcheck(lambda r, x: resample(r, wave, obs, x, found), (rest, z))
