from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spender.data.sdss import SDSS as UpstreamSDSS

from spender_core import DESI, SDSS
from spender_core.augment import Augmentation, augmented

WAVE = SDSS().wave_obs
STILL = Augmentation(dz=0, noisy=0, block=0)


def to_redshift(z):
    """Move all spectra to this redshift and change nothing else."""
    return Augmentation(dz=9, z_low=z, z_high=z, noisy=0, block=0)


def spectra(n=6, wave=WAVE, seed=0, masked=0.02):
    """Give smooth spectra with noise, weights with gaps, and redshifts, as a survey has them."""
    rng = np.random.default_rng(seed)
    flux = 1 + 0.3 * np.sin(np.asarray(wave) / 300 + rng.uniform(0, 6, (n, 1))) + rng.normal(0, 0.1, (n, len(wave)))
    w = rng.uniform(50, 150, flux.shape) * (rng.uniform(size=flux.shape) > masked)
    return torch.tensor(flux).float(), torch.tensor(w).float(), torch.tensor(rng.uniform(0.02, 0.48, n)).float()


def copies(parts, augmentation, rows=None, seed=0, epoch=0, wave=WAVE):
    rows = torch.arange(len(parts[0])) if rows is None else rows
    return augmented(*parts, rows, wave, augmentation, seed, epoch)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@given(st.permutations(range(6)), st.integers(1, 6))
def test_copy_depends_on_seed_epoch_and_row_only(order, count):
    # odd lengths, so that vectorized and single elements change places
    wave = WAVE[:997]
    parts, rows = spectra(wave=wave), torch.tensor([5, 0, 2**40, 17, 3, 1])
    everything = Augmentation(degrade=1)
    whole = copies(parts, everything, rows, 11, 4, wave)
    take = torch.tensor(order[:count])
    batch = copies([part[take] for part in parts], everything, rows[take], 11, 4, wave)
    assert same(batch, [part[take] for part in whole])


@pytest.mark.parametrize("changed", [{"seed": 1}, {"epoch": 1}, {"rows": torch.arange(1, 7)}])
def test_another_seed_epoch_or_row_gives_another_copy(changed):
    parts = spectra()
    one, other = copies(parts, Augmentation.SDSS), copies(parts, Augmentation.SDSS, **changed)
    assert (one[2] != other[2]).all()
    assert ((one[0] != other[0]).sum(dim=1) > 100).all()


def test_random_state_of_torch_and_numpy_is_left_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    copies(spectra(), Augmentation(degrade=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_source_is_left_alone():
    parts = spectra()
    before = [part.clone() for part in parts]
    copies(parts, Augmentation(degrade=1))
    assert same(parts, before)


def test_copy_without_changes_is_the_spectrum():
    flux, w, z = spectra()
    flux[:, :50], w[:, :50] = 0, 0  # the file begins later
    w[:, [50, -1]] = 100
    assert same(copies((flux, w, z), STILL), (flux, w, z))


@pytest.mark.parametrize("z_new", [0.0, 0.1, 0.31])
def test_flux_equals_upstream_where_there_are_data(z_new):
    flux, w, z = spectra()
    ours, weight, _ = copies((flux, w, z), to_redshift(z_new))
    theirs, _, _ = UpstreamSDSS.augment_spectra((flux, w, z), noise=False, mask=False, z_new=torch.full((6,), z_new))
    assert (weight > 0).float().mean() > 0.5
    # upstream places wavelengths in float32: 5e-4 of 1 Angstrom between pixels, of flux that differs by 0.6 at most
    assert (ours - theirs)[weight > 0].abs().max() < 1e-3


def test_flux_beyond_the_data_is_zero_where_upstream_extrapolates_it():
    flux, w, z = spectra()
    z[:] = 0.1
    theirs, their_weight, _ = UpstreamSDSS.augment_spectra(
        (flux, w, z), noise=False, mask=False, z_new=torch.tensor(0.4)
    )
    ours, weight, _ = copies((flux, w, z), to_redshift(0.4))
    beyond = WAVE < WAVE[0] * 1.4 / 1.1
    assert not their_weight[:, beyond].any()
    assert theirs[:, beyond].abs().max() > 10  # a line through two noisy pixels, 1000 of them further on
    assert not ours[:, beyond].any()
    assert not weight[:, beyond].any()


redshifts = st.floats(-0.02, 1.0)
augmentations = st.builds(
    Augmentation,
    dz=st.floats(0, 1),
    z_low=st.floats(-0.01, 0.1),
    z_high=st.floats(0.1, 1),
    noisy=st.floats(0, 1),
    noise=st.floats(0, 1),
    block=st.floats(0, 1),
    degrade=st.floats(0, 3),
)


@st.composite
def samples(draw):
    """Draw spectra on a grid of 40 bins, of weights that are equal or differ, some or all of them 0."""
    scale = draw(st.sampled_from([np.linspace, np.geomspace]))
    wave = scale(4000, 6000, 40)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    level, spread = draw(st.floats(-4, 4)), draw(st.sampled_from([0, 0.1, 4]))
    w = 10 ** (level + rng.uniform(-spread, spread, (3, 40))) * (rng.uniform(size=(3, 40)) > draw(st.floats(0, 1)))
    flux = rng.normal(size=(3, 40)) * 10 ** draw(st.floats(-3, 3))
    z = [draw(redshifts) for _ in range(3)]
    return [torch.tensor(part, dtype=torch.float32) for part in (flux, w, z)], torch.tensor(wave)


def neighbours(wave, z, z_new):
    """Give the pixels below and above each bin's place in its source, -1 and len(wave) beyond the ends."""
    at = wave * ((1 + z) / (1 + z_new))
    return np.searchsorted(wave, at, side="right") - 1, np.searchsorted(wave, at, side="left")


@pytest.mark.slow
@given(samples(), augmentations, st.integers(0, 2**63), st.integers(0, 1000))
def test_weight_is_never_above_the_sources_and_nothing_is_extrapolated(sample, augmentation, seed, epoch):
    (flux, w, z), wave = sample
    flux_new, w_new, z_new = (part.numpy() for part in copies((flux, w, z), augmentation, None, seed, epoch, wave))
    assert np.isfinite(flux_new).all()
    assert (z_new >= np.float32(augmentation.z_low)).all()
    assert (z_new <= np.float32(augmentation.z_high)).all()
    for row in range(3):
        below, above = neighbours(wave.numpy(), float(z[row]), float(z_new[row]))
        padded = np.append(w[row].numpy(), np.float32(0))  # -1 and the length alike: no pixel, no weight
        assert (w_new[row] <= np.maximum(padded[below], padded[above])).all()
        assert not w_new[row][(padded[below] == 0) | (padded[above] == 0)].any()
        valid = np.flatnonzero(padded > 0)
        data = (below >= valid.min()) & (above <= valid.max()) if len(valid) else np.zeros(40, bool)
        assert not flux_new[row][~data].any()


@given(samples(), st.floats(0, 1))
def test_flux_and_weight_lie_between_those_of_the_neighbours(sample, z_new):
    (flux, w, z), wave = sample
    flux_new, w_new, moved = (part.numpy() for part in copies((flux, w, z), to_redshift(z_new), wave=wave))
    for row in range(3):
        below, above = neighbours(wave.numpy(), float(z[row]), float(moved[row]))
        has = w_new[row] > 0
        for new, source in ((flux_new[row], flux[row].numpy()), (w_new[row], w[row].numpy())):
            ends = source[below[has]], source[above[has]]
            slack = 1e-6 * np.maximum(*np.abs(ends))
            assert (new[has] >= np.minimum(*ends) - slack).all()
            assert (new[has] <= np.maximum(*ends) + slack).all()


def test_variance_is_interpolated_as_the_flux_is():
    wave = torch.tensor([4000.0, 4400.0, 5000.0])  # 4400 x 1.0 / 1.05 lies 0.476 of the way between the first two
    flux, w, z = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[1.0, 4.0, 9.0]]), torch.tensor([0.0])
    flux_new, w_new, _ = copies((flux, w, z), to_redshift(0.05), wave=wave)
    t = (4400 / 1.05 - 4000) / 400
    assert flux_new[0, 1].item() == pytest.approx(1 + 2 * t, rel=1e-6)
    assert w_new[0, 1].item() == pytest.approx(1 / ((1 - t) + t / 4), rel=1e-6)


def test_a_masked_pixel_takes_the_weight_of_both_bins_beside_its_place():
    flux, w, z = torch.ones(1, len(WAVE)), torch.ones(1, len(WAVE)), torch.tensor([0.1])
    w[0, 2000] = 0
    flux_new, w_new, _ = copies((flux, w, z), to_redshift(0.12))
    place = WAVE[2000] * 1.12 / 1.1
    inside = (WAVE > WAVE[5] * 1.12 / 1.1) & (w_new[0] == 0)
    assert WAVE[inside].tolist() == [WAVE[WAVE < place].max(), WAVE[WAVE > place].min()]
    assert (flux_new[0, inside] == 1).all()


def test_spectrum_without_valid_pixels_becomes_zero():
    flux, _, z = spectra()
    flux_new, w_new, _ = copies((flux, torch.zeros_like(flux), z), Augmentation(degrade=1))
    assert not flux_new.any()
    assert not w_new.any()


def test_noise_has_the_share_and_the_amplitude_asked_for_and_its_square_is_variance():
    flux, w, z = spectra(40)
    flux_new, w_new, _ = copies((flux, w, z), Augmentation(dz=0, block=0))
    n = (flux_new - flux) / flux.where(w > 0, torch.tensor(0.0)).amax(dim=1, keepdim=True)
    noisy = n != 0
    assert noisy.float().mean().item() == pytest.approx(0.05, abs=0.003)  # 5 sigma of 157,000 draws
    assert n[noisy].std().item() == pytest.approx(0.2, rel=0.05)
    both = noisy & (w > 0)
    expected = 1 / (1 / w.double() + (flux_new.double() - flux.double()).square())
    torch.testing.assert_close(w_new[both].double(), expected[both], rtol=1e-4, atol=0)
    assert torch.equal(w_new[~noisy], w[~noisy])


def test_a_masked_cosmic_ray_does_not_set_the_level_of_the_noise():
    flux, w, z = spectra()
    hit = flux.clone()
    hit[:, 1000], w[:, 1000] = 1e5, 0
    assert torch.equal(copies((hit, w, z), Augmentation(dz=0))[1], copies((flux, w, z), Augmentation(dz=0))[1])


def test_own_noise_deviates_as_the_lowered_weight_says():
    flux, w, z = spectra(400, masked=0.2)
    flux_new, w_new, _ = copies((flux, w, z), Augmentation(dz=0, noisy=0, block=0, degrade=2))
    added = 1 / w_new.double() - 1 / w.double()
    pull = ((flux_new - flux).double() / added.sqrt())[w > 0]
    assert pull.std().item() == pytest.approx(1, abs=0.01)
    factor = (added * w).sqrt().nanmean(dim=1)
    assert factor.max() <= 2.001
    assert factor.mean().item() == pytest.approx(1, abs=0.15)  # uniform in 0 to 2
    gaps = (w == 0) & (flux_new != 0)  # but for those at the ends
    assert torch.equal(flux_new[gaps], flux[gaps])


def test_block_is_contiguous_of_the_share_asked_for_and_anywhere():
    flux, w, z = torch.ones(300, 101), torch.ones(300, 101), torch.zeros(300)
    augmentation = Augmentation(dz=0, noisy=0, block=0.2)
    flux_new, w_new, _ = copies((flux, w, z), augmentation, wave=WAVE[:101])
    assert torch.equal(flux_new == 0, w_new == 0)
    starts = (w_new == 0).int().argmax(dim=1)
    for row, start in enumerate(starts):
        assert (w_new[row, start : start + 20] == 0).all()
        assert (w_new[row] == 0).sum() == 20
    assert (starts.min(), starts.max()) == (0, 81)


@pytest.mark.parametrize(
    ("augmentation", "z", "low", "high"),
    [
        (Augmentation.SDSS, 0.2, 0.0, 0.5),
        (Augmentation.SDSS, 0.7, 0.2, 0.5),
        (Augmentation.SDSS, 1.5, 0.5, 0.5),
        (Augmentation.DESI, 0.3, 0.0, 0.8),
        (Augmentation(dz=0.1), 0.3, 0.2, 0.4),
        (Augmentation(dz=0.1), 0.45, 0.35, 0.5),
    ],
)
def test_new_redshift_is_uniform_within_its_bounds(augmentation, z, low, high):
    flux, w = torch.ones(2000, 4), torch.ones(2000, 4)
    z_new = copies((flux, w, torch.full((2000,), z)), augmentation, wave=WAVE[:4])[2].sort().values
    expected = torch.linspace(low, high, 2000)
    assert (z_new - expected).abs().max() <= 0.045 * (high - low) + 1e-6  # Kolmogorov-Smirnov, chance 6e-4


def test_desi_copies_have_no_block():
    wave = DESI().wave_obs
    flux, w, z = torch.ones(2, len(wave)), torch.ones(2, len(wave)), torch.full((2,), 0.4)
    _, w_new, z_new = copies((flux, w, z), Augmentation.DESI, wave=wave)
    for row in range(2):
        source = wave * (1.4 / (1 + z_new[row].double()))
        inside = (source > wave[0] + 1e-6) & (source < wave[-1] - 1e-6)
        assert w_new[row, inside].all()


def test_dtypes_are_kept():
    flux, w, z = spectra()
    assert [part.dtype for part in copies((flux, w, z), Augmentation(degrade=1))] == [torch.float32] * 3
    doubles = copies((flux.double(), w.double(), z.double()), Augmentation(degrade=1))
    assert [part.dtype for part in doubles] == [torch.float64] * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dz": -0.1}, "dz is -0.1, expected 0 or more"),
        ({"noise": float("nan")}, "noise is nan, expected 0 or more"),
        ({"degrade": -1}, "degrade is -1, expected 0 or more"),
        ({"noisy": 5}, "noisy is 5, expected a share of the pixels, 0 to 1"),
        ({"block": -0.2}, "block is -0.2, expected a share of the pixels, 0 to 1"),
        ({"z_low": 0.6}, "z_low and z_high are 0.6 and 0.5, expected -1 < z_low <= z_high"),
        ({"z_low": -1}, "z_low and z_high are -1 and 0.5, expected -1 < z_low <= z_high"),
    ],
)
def test_senseless_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**values)
