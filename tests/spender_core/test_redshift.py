from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from spender_core import redshift
from spender_core.instrument import DESI, SDSS, Instrument
from spender_core.redshift import APART, DELTA_CHI2, C, LogBins, RedshiftEstimator, ZWarning
from spender_core.templates import LOG_STEP, of_quasars, of_stars
from tests.spender_core.redshift_samples import embedded, galaxies

RANGE = (-0.002, 0.503)


@pytest.fixture(scope="module")
def estimator() -> RedshiftEstimator:
    return RedshiftEstimator(SDSS(), embedded()[2].templates, RANGE)


def test_a_model_of_quasars_is_not_compared_with_quasars_again() -> None:
    own = replace(embedded()[2].templates, kind="QSO")
    assert RedshiftEstimator(SDSS(), own, RANGE).kinds == ["QSO", "STAR"]


def test_redshifts_of_galaxies_are_found_without_the_catalog(estimator: RedshiftEstimator) -> None:
    sample = galaxies(24, noise=0.1)
    found = estimator(sample.flux, sample.ivar)
    velocity = C * (found.z - sample.z) / (1 + sample.z)
    assert velocity.abs().max() < 100
    assert velocity.abs().median() < 15
    assert (found.kind == 0).all()
    assert estimator.kinds == ["GALAXY", "QSO", "STAR"]
    assert not found.warning.any()
    assert (found.delta_chi2 > DELTA_CHI2).all()
    apart = C * ((1 + found.second) / (1 + found.z)).log().abs()
    assert (apart > 0.99 * APART).all()
    assert (C * found.error / (1 + found.z) < 60).all()


def test_another_kind_must_fit_clearly_better(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = galaxies(8, noise=1.0)
    templates = embedded()[2].templates
    twice = RedshiftEstimator(SDSS(), templates, RANGE, others=[(replace(templates, kind="QSO"), RANGE)])
    monkeypatch.setattr(redshift, "DEGREE", 0)
    own = RedshiftEstimator(SDSS(), templates, RANGE, others=[(replace(templates, kind="QSO"), RANGE)])
    for each in (twice, own):  # the same templates, but a parabola, taken together in pairs of pixels
        assert (each(sample.flux, sample.ivar).kind == 0).all()
    monkeypatch.setattr(redshift, "OTHERS", -1e4)
    found = own(sample.flux, sample.ivar)
    assert (found.kind == 1).all()
    chi2 = own.curves(sample.flux, sample.ivar)[1].amin(dim=1)
    torch.testing.assert_close(found.chi2, chi2, rtol=0.05, atol=0)  # what is reported is not set back


def test_nothing_depends_on_the_scale_of_the_flux(estimator: RedshiftEstimator) -> None:
    sample = galaxies(6, noise=0.3)
    scale = torch.logspace(-3, 3, 6)[:, None]
    one, other = estimator(sample.flux, sample.ivar), estimator(sample.flux * scale, sample.ivar / scale**2)
    torch.testing.assert_close(one.z, other.z, atol=1e-8, rtol=0)
    torch.testing.assert_close(one.chi2, other.chi2, rtol=1e-5, atol=0)
    torch.testing.assert_close(one.kind, other.kind)


def test_nothing_depends_on_the_spectra_beside(estimator: RedshiftEstimator) -> None:
    sample = galaxies(20, noise=0.3)
    alone = estimator(sample.flux[17:18], sample.ivar[17:18])
    torch.testing.assert_close(estimator(sample.flux, sample.ivar).z[17:18], alone.z, rtol=0, atol=1e-11)


def test_near_a_redshift_only_its_window_is_looked_at(estimator: RedshiftEstimator) -> None:
    sample = galaxies(4, noise=0.1)
    offset = torch.tensor([0.0, 500.0, 5000.0, math.nan]) / C
    found = estimator(sample.flux, sample.ivar, near=sample.z * (1 + offset) + offset, window=1000.0)
    velocity = (C * (found.z - sample.z) / (1 + sample.z)).abs()
    assert (velocity[:2] < 100).all()
    assert 3900 < velocity[2] < 6100 or found.warning[2] & ZWarning.NODATA
    assert found.warning[3] == ZWarning.NODATA
    assert torch.isnan(found.z[3])


def test_spectra_without_data_are_told(estimator: RedshiftEstimator) -> None:
    sample = galaxies(3, noise=0.3)
    sample.ivar[0] = 0
    sample.ivar[1, 300:] = 0
    sample.flux[0] = torch.nan
    found = estimator(sample.flux, sample.ivar)
    assert found.warning[0] == ZWarning.NODATA
    assert found.kind[0] == -1
    assert all(torch.isnan(each[0]) for each in (found.z, found.error, found.chi2, found.delta_chi2, found.second))
    assert found.warning[1] & ZWarning.LITTLE_COVERAGE
    assert not found.warning[2]


def test_noise_is_no_redshift(estimator: RedshiftEstimator) -> None:
    random = torch.Generator().manual_seed(9)
    found = estimator(torch.randn(40, 3921, generator=random), torch.ones(40, 3921))
    assert (found.warning & ZWarning.SMALL_DELTA_CHI2 != 0).sum() >= 39


def test_a_redshift_at_the_end_of_the_range_is_told() -> None:
    sample = galaxies(12, noise=0.1)
    short = RedshiftEstimator(SDSS(), embedded()[2].templates, (0.0, float(sample.z.median())), others=[])
    found = short(sample.flux, sample.ivar)
    outside = sample.z > sample.z.median() + 0.002
    inside = sample.z < sample.z.median() - 0.002
    assert not (found.warning[inside] & ZWarning.Z_FITLIMIT).any()
    at_the_end = (found.z - sample.z.median()).abs() < 5e-4
    assert ((found.warning & ZWarning.Z_FITLIMIT != 0) == at_the_end)[outside].all()


@pytest.mark.parametrize("kind", ["QSO", "STAR"])
def test_other_kinds_of_objects_are_told_from_galaxies(estimator: RedshiftEstimator, kind: str) -> None:
    templates, z = (of_quasars(), 1.6) if kind == "QSO" else (of_stars(), 0.0003)
    place = round((3.578 - math.log10(1 + z) - templates.start) / LOG_STEP)
    flux = templates.flux[3 if kind == "STAR" else 0, place : place + 3921][None]
    flux = flux / flux.std()
    random = torch.Generator().manual_seed(8)
    found = estimator(flux + 0.1 * torch.randn(flux.shape, generator=random), torch.full_like(flux, 100.0))
    assert estimator.kinds[found.kind.item()] == kind
    assert abs(found.z.item() - z) < 1e-3 * (1 + z)


def test_a_linear_grid_is_scanned_as_well() -> None:
    sample = galaxies(8, noise=0.1, instrument=DESI())
    found = RedshiftEstimator(DESI(), embedded()[2].templates, RANGE)(sample.flux, sample.ivar)
    assert (C * (found.z - sample.z) / (1 + sample.z)).abs().max() < 100


def test_a_logarithmic_grid_of_pixels_keeps_all_weight() -> None:
    bins = LogBins(DESI())
    random = torch.Generator().manual_seed(6)
    ivar, flux = torch.rand(2, 7781, generator=random), torch.randn(2, 7781, generator=random)
    total, w, wy = bins(flux, ivar)
    torch.testing.assert_close(w.sum(dim=1), ivar.double().sum(dim=1))
    torch.testing.assert_close(wy.sum(dim=1), (ivar.double() * flux.double()).sum(dim=1))
    torch.testing.assert_close(total, (ivar.double() * flux.double() ** 2).sum(dim=1))


def test_a_grid_without_a_rule_is_refused() -> None:
    wave = 4000 + torch.arange(500) ** 1.5
    with pytest.raises(ValueError, match="uniform neither"):
        RedshiftEstimator(Instrument("odd", wave), embedded()[2].templates, RANGE)
