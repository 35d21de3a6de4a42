"""Reasons that a spectrum is odd, against a computation by hand of one spectrum after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.residuals import LONGEST_SPAN, RUN, Residuals, sums

EDGES = (0.0, 4000.0, 5000.0)
WAVE = torch.logspace(3.58, 3.80, 400)


def residuals(seed: int = 0, n: int = 6) -> Residuals:
    """Give noise with masked pixels, gaps and redshifts."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.rand(n, len(WAVE), generator=random) + 0.5
    weight[torch.rand(n, len(WAVE), generator=random) < 0.1] = 0
    weight[0, 100:180] = 0
    flux = 1 + torch.randn(n, len(WAVE), generator=random) / weight.clamp(min=0.5).sqrt()
    z = torch.linspace(0, 0.3, n)
    return Residuals(flux, weight, torch.ones(n, len(WAVE)), z, WAVE, EDGES)


def by_hand(flux: Tensor, weight: Tensor, model: Tensor) -> tuple[float, float]:
    """Look at each run of a spectrum; significance and middle of the worst one, in float64."""
    used = np.flatnonzero(weight.numpy() > 0)
    pull = ((flux - model).double() * weight.double().sqrt()).numpy()[used]
    best, found = -1.0, (np.nan, np.nan)
    runs = np.arange(len(used) - RUN + 1)
    for first in runs:
        sides = [pull[at : at + RUN].mean() for at in (first - RUN, first + RUN) if at in runs]
        error = np.sqrt(1 / RUN + (1 / (RUN * len(sides)) if sides else 0))
        offset = (pull[first : first + RUN].mean() - (np.mean(sides) if sides else 0)) / error
        own = slice(first, first + RUN)
        if used[own][-1] - used[own][0] >= LONGEST_SPAN or abs(offset) <= best:
            continue
        best = abs(offset)
        others = np.delete(pull, np.arange(first, first + RUN))
        scatter = max(1.0, np.sqrt(np.mean(others**2))) if len(others) else 1.0
        middle = WAVE.double().numpy()[used[own][RUN // 2 - 1 : RUN // 2 + 1]].mean()
        found = (offset / scatter, middle)
    return found


def test_the_worst_run_is_the_one_that_is_found_by_looking_at_each() -> None:
    for seed in range(5):
        found = residuals(seed)
        for i in range(len(found.z)):
            significance, wavelength = by_hand(found.flux[i], found.weight[i], found.reconstruction[i])
            assert found.run_significance[i].item() == pytest.approx(significance, rel=1e-5)
            assert found.run_wavelength[i].item() == pytest.approx(wavelength, rel=1e-6)


def test_an_offset_is_found_where_it_is_with_its_sign() -> None:
    for sign in (1, -1):
        found = residuals()
        found.flux[:, 300 : 300 + RUN] += sign * 4 / found.weight[:, 300 : 300 + RUN].clamp(min=0.5).sqrt()
        assert (found.run_significance.sign() == sign).all()
        assert ((found.run_wavelength - WAVE[310]).abs() < WAVE[312] - WAVE[308]).all()


def test_a_model_that_fits_badly_everywhere_has_no_significant_run() -> None:
    good, bad = residuals(), residuals()
    bad.flux.copy_(1 + 10 * (good.flux - 1))
    torch.testing.assert_close(bad.run_significance, good.run_significance, rtol=0.15, atol=0.0)


def test_a_continuum_that_the_model_misses_is_no_run() -> None:
    found = residuals()
    found.flux[:] += torch.linspace(-10, 10, len(WAVE))
    found.flux[:, 300 : 300 + RUN] += 6 * found.weight[:, 300 : 300 + RUN].clamp(min=0.5).rsqrt()
    assert ((found.run_wavelength - WAVE[310]).abs() < WAVE[314] - WAVE[306]).all()
    assert (found.region_chi2[:, 0] > 10).all()


@pytest.mark.parametrize("n", [20, 30, 45, 70])
def test_few_pixels_are_compared_with_what_there_is(n: int) -> None:
    found = residuals(n=2)
    found.weight[:, n + n // 5 :] = 0
    for i in range(2):
        expected = by_hand(found.flux[i], found.weight[i], found.reconstruction[i])
        assert found.run_significance[i].item() == pytest.approx(expected[0], rel=1e-4, nan_ok=True)


def test_runs_do_not_reach_over_wide_gaps() -> None:
    found = residuals(n=1)
    found.weight[:] = 0
    found.weight[:, :10] = 1
    found.weight[:, -10:] = 1
    assert found.run_significance.isnan().all()
    assert found.run_wavelength.isnan().all()


def test_too_few_pixels_have_no_run() -> None:
    found = residuals(n=2)
    found.weight[0, 19:] = 0
    found.weight[1] = 0
    assert found.run_significance.isnan().all()
    short = Residuals(*(torch.ones(3, 7) for _ in range(3)), torch.zeros(3), WAVE[:7], EDGES)
    assert short.run_wavelength.isnan().all()


def test_the_chi2_of_regions_is_that_of_their_pixels() -> None:
    found = residuals()
    for i in range(len(found.z)):
        rest = WAVE.double() / (1 + found.z[i].double())
        for number, (low, high) in enumerate(zip(EDGES, (*EDGES[1:], np.inf), strict=True)):
            inside = (rest > low) & (rest <= high) & (found.weight[i] > 0)
            expected = found.pull[i][inside].double().square().mean().item() if inside.sum() >= RUN else np.nan
            assert found.region_chi2[i, number].item() == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_a_spectrum_depends_on_none_beside_it() -> None:
    whole = residuals()
    for rows in ([3], [5, 3], [3, 0, 1, 2, 4, 5] * 6):
        parts = [each[rows] for each in (whole.flux, whole.weight, whole.reconstruction, whole.z)]
        part = Residuals(*parts, WAVE, EDGES)
        for name in ("region_chi2", "run_significance", "run_wavelength"):
            expected = getattr(whole, name)[rows]
            assert torch.equal(getattr(part, name).nan_to_num(-7), expected.nan_to_num(-7)), name


def test_sums_are_of_twenty_neighbors() -> None:
    values = torch.arange(60.0).reshape(2, 30)
    expected = values.unfold(1, RUN, 1).sum(dim=2)
    assert torch.equal(sums(values), expected)
