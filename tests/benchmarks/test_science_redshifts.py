"""The script that judges redshifts, at tiny sizes, and what it is made of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import redshift_figures
import science_redshifts
import torch
from eigen_scan import EigenScan
from redshift_figures import Sizes
from redshift_mocks import EigenGalaxies, Noises, noised
from science_redshifts import JUDGED, SET, Sample

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def sample(shared_data):
    return Sample.read(shared_data)


@pytest.fixture(scope="module")
def noises(sample):
    return Noises.of(sample.data, sample.galaxies, JUDGED)


def test_mocks_look_like_their_galaxies(sample):
    rows = sample.rows[:12]
    mocks = EigenGalaxies(sample.data, sample.galaxies, rows)
    for i, row in enumerate(rows):
        flux, ivar = sample.galaxies.flux[row], sample.galaxies.ivar[row]
        left = (np.sqrt(ivar) * np.abs(flux - mocks.at(i, float(sample.galaxies.z[row]))))[ivar > 0]
        assert np.median(left) < 1.5  # 0.7 for noise alone


def test_mocks_have_the_noise_and_the_redshifts_that_they_say(sample, noises):
    mocks = EigenGalaxies(sample.data, sample.galaxies, sample.rows[:6])
    spectra = mocks.observe(np.full(60, 4.0), noises, 3)
    again = mocks.observe(np.full(60, 4.0), noises, 3)
    assert torch.equal(spectra.flux, again.flux)
    near = sample.galaxies.z[spectra.who]
    assert (np.abs(spectra.z - near) <= 0.1 + 1e-6).all()
    level = torch.where(spectra.ivar > 0, spectra.flux.abs() * spectra.ivar.sqrt(), torch.nan).nanmedian(dim=1).values
    assert level.median() == pytest.approx(4, rel=0.1)


def test_sky_and_noise_are_what_their_inverse_variance_says(noises):
    rng = torch.Generator().manual_seed(1)
    for residuals in (0.0, 1.0):
        flux, ivar, _ = noises.draw(100, rng, residuals)
        chi2 = (ivar * flux.square()).sum(1) / (ivar > 0).sum(1)
        assert chi2.median() == pytest.approx(1, abs=0.02 if not residuals else 0.4)
        assert torch.isfinite(flux[ivar > 0]).all()


def test_noised_galaxies_have_the_sn_and_keep_their_variance(sample, noises):
    spectra = noised(sample.galaxies, sample.rows, 3.0, 128, noises, 5)
    assert (spectra.sn == 3.0).all()
    own = torch.from_numpy(sample.galaxies.ivar[spectra.who])
    assert (spectra.ivar <= own * (1 + 1e-6)).all()
    assert ((spectra.added > 0) & (spectra.added < 1)).all()
    assert len(noised(sample.galaxies, sample.rows[:8], 1.5, 0, noises, 5, each=3)) % 3 == 0


def test_noise_that_constants_are_set_by_is_not_judged_with(sample, noises):
    other = Noises.of(sample.data, sample.galaxies, SET)
    keys = {row.numpy().tobytes() for row in other.sky.nan_to_num()}
    assert not keys & {row.numpy().tobytes() for row in noises.sky.nan_to_num()}


def test_eigenspectra_find_the_catalogs_redshifts(sample):
    peer: EigenScan = sample.peer
    some = redshift_figures.real(sample.galaxies, sample.rows[sample.galaxies.sn[sample.rows] > 10][:5])
    velocity, _ = redshift_figures.by_eigenspectra(peer, some, 5)
    assert np.abs(velocity).max() < 150


def test_intervals_hold_the_figure():
    who = np.repeat(np.arange(20), 5)
    x = np.random.default_rng(0).normal(size=100)
    low, high = redshift_figures.interval(lambda i: float(x[i].mean()), who)
    assert low < x.mean() < high
    assert redshift_figures.share(0, 64).startswith("0 % (0 to 2.8")
    assert redshift_figures.nmad(np.random.default_rng(0).normal(size=20000)) == pytest.approx(1, abs=0.03)


@pytest.mark.timeout(900)
def test_every_figure_is_made_at_tiny_sizes(sample, noises):
    sizes = Sizes(
        accepted=48,
        sky=8,
        noised=16,
        peer=2,
        realizations=3,
        ellipsoids=16,
        refined=16,
        rounds=1,
        timed=2,
    )
    every, flagged = science_redshifts.figures(sample, [science_redshifts.shipped(sample)], noises, sizes)
    table = science_redshifts.tabulated(every)
    assert table.index.is_unique
    assert len(table) == len(pd.read_csv(science_redshifts.TABLE, index_col=0))
    assert science_redshifts.report(table).count("\n") == len(table) + 1
    assert flagged.count("ZWARNING") == 8


def test_the_committed_table_meets_what_is_required():
    table = pd.read_csv(science_redshifts.TABLE, index_col=0, keep_default_na=False)
    missed = [name for name, row in table.iterrows() if row.met == "no"]
    # there the encoder's is near the noise, see RESULTS.md
    assert missed == ["refined latents, z of the catalog: median reduced chi2 lower by"]
