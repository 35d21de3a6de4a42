from __future__ import annotations

import copy

import pytest
import torch
from spender.data.desi import DESI as UpstreamDESI
from spender.data.sdss import BOSS as UpstreamBOSS
from spender.data.sdss import SDSS as UpstreamSDSS
from spender.instrument import LSF as UpstreamLSF

from spender_core import BOSS, DESI, LSF, SDSS, get_instrument

PAIRS = [(SDSS, UpstreamSDSS, 3921, 660), (BOSS, UpstreamBOSS, 4686, 1061), (DESI, UpstreamDESI, 7781, 1941)]


@pytest.mark.parametrize(("ours", "theirs", "bins", "masked"), PAIRS)
def test_grid_and_sky_mask_equal_upstream_bit_for_bit(ours, theirs, bins, masked):
    instrument = ours()
    assert instrument.wave_obs.shape == (bins,)
    assert instrument.wave_obs.dtype == theirs._wave_obs.dtype
    assert torch.equal(instrument.wave_obs, theirs._wave_obs)
    assert torch.equal(instrument.skyline_mask, theirs._skyline_mask)
    assert int(instrument.skyline_mask.sum()) == masked


@pytest.mark.parametrize("name", ["sdss", "boss"])
def test_logarithmic_grid_matches_its_origin_and_step(name):
    instrument = get_instrument(name)
    steps = (instrument.wave_obs.double().log10() - instrument.loglam0) / instrument.log_step
    assert (steps - torch.arange(len(steps))).abs().max() < 0.01


def test_unknown_instrument_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'hst' is not known; choose from sdss, boss, desi"):
        get_instrument("hst")


def test_lsf_conserves_flux_and_equals_upstream():
    kernel = torch.tensor([0.1, 0.5, 1.0, 0.7, 0.2])
    spectrum = torch.zeros(1, 1, 50)
    spectrum[..., 20] = 3.0
    ours, theirs = LSF(kernel), UpstreamLSF(kernel)
    assert torch.equal(ours(spectrum), theirs(spectrum))
    assert ours(spectrum).sum().item() == pytest.approx(3.0)
    # a line's response is the kernel itself, not its mirror image
    assert torch.allclose(ours(spectrum)[0, 0, 18:23], 3 * kernel / kernel.sum())


def test_observe_applies_lsf_then_calibration():
    instrument = SDSS(lsf=torch.tensor([1.0, 2.0, 1.0]), calibration=lambda wave, spectrum: 2 * spectrum)
    spectrum = torch.rand(2, 3921)
    assert torch.allclose(instrument.observe(spectrum), 2 * LSF(torch.tensor([1.0, 2, 1]))(spectrum[:, None])[:, 0])


def test_instrument_can_be_copied_without_sharing_its_lsf():
    instrument = SDSS(lsf=torch.tensor([1.0, 2.0, 1.0]))
    twin = copy.deepcopy(instrument)
    with torch.no_grad():
        twin.lsf.weight.zero_()
    assert instrument.lsf.weight.sum() == 4


def test_a_delta_changes_nothing_and_has_a_middle():
    spectrum = torch.randn(2, 1, 30)
    for taps in (1, 5):
        torch.testing.assert_close(LSF.delta(taps)(spectrum), spectrum)
    for taps in (0, 4):
        with pytest.raises(ValueError, match=f"taps is {taps}, expected an odd number"):
            LSF.delta(taps)


@pytest.mark.parametrize(
    ("symmetric", "nonnegative", "expected"),
    [
        (False, False, [-0.25, 1.0, 0.25]),
        (True, False, [0.0, 1.0, 0.0]),
        (False, True, [0.0, 0.8, 0.2]),
    ],
)
def test_a_kernel_is_projected_on_what_is_asked_of_it(symmetric, nonnegative, expected):
    kernel = torch.tensor([-0.5, 2.0, 0.5])
    lsf = LSF(kernel, symmetric=symmetric, nonnegative=nonnegative)
    lsf.project()
    assert lsf.weight.flatten().flip(0).tolist() == pytest.approx(expected)
    assert lsf.weight.requires_grad
    fixed = LSF(kernel, requires_grad=False, symmetric=True)
    fixed.project()
    assert torch.equal(fixed.weight.flatten().flip(0), kernel)
