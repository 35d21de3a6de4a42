from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.scan import AlternativesScan, LinearScan, Scan, explained, fast_length, scan_of, summed
from spender_core.templates import LOG_STEP, Templates

START = 3.6


def templates(count: int = 3, length: int = 900, start: float = 3.5717, *, alternatives: bool = False) -> Templates:
    random = torch.Generator().manual_seed(2)
    rough = torch.randn(count, length, generator=random).cumsum(dim=1)
    return Templates("GALAXY", start, rough / rough.abs().amax(dim=1, keepdim=True) + 1, alternatives)


def spectra(n: int = 3, length: int = 400) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    w = 10 ** torch.empty(n, length, dtype=torch.float64).uniform_(-1, 3, generator=random)
    w[:, 50:80] = 0
    return w, torch.randn(n, length, generator=random, dtype=torch.float64) + 1


def least_squares(scan: Scan, t: Templates, w: Tensor, y: Tensor, shift: int) -> float:
    """How much a fit by NumPy takes away of sum w y^2 of one spectrum, at one redshift of a scan."""
    place = round((START - scan.log_stretch[shift].item() - t.start) / LOG_STEP) + np.arange(len(y))
    inside = (place >= 0) & (place < t.flux.shape[1])
    columns = np.zeros((len(t.flux), len(y)))
    columns[:, inside] = t.flux.numpy().astype(np.float64)[:, place[inside]]
    root = np.sqrt(w.numpy())
    x = np.linspace(-1, 1, len(y))
    sets = [[c, x**0, x, x**2] for c in columns] if t.alternatives else [[*columns, inside.astype(float)]]
    best = 0.0
    for each in sets:
        fitted = np.stack(each, axis=1) * root[:, None]
        solution = np.linalg.lstsq(fitted, root * y.numpy(), rcond=None)[0]
        best = max(best, float((w * y**2).sum()) - float(((root * y.numpy() - fitted @ solution) ** 2).sum()))
    return best


@pytest.mark.parametrize("alternatives", [False, True])
def test_a_scan_is_a_least_squares_fit_at_every_redshift(alternatives: bool) -> None:
    t = templates(alternatives=alternatives)
    w, y = spectra()
    scan = scan_of(t, START, w.shape[1], (0.0, 0.05))
    assert isinstance(scan, AlternativesScan if alternatives else LinearScan)
    gain = scan.gain(w, w * y)
    assert gain.shape == (3, len(scan.log_stretch))
    for row in range(3):
        expected = [least_squares(scan, t, w[row], y[row], m) for m in range(0, len(scan.log_stretch), 7)]
        np.testing.assert_allclose(gain[row, ::7], expected, rtol=1e-8)


def test_a_polynomial_beside_the_templates_is_one_of_the_observed_wavelengths() -> None:
    t = templates(length=300, start=3.6)
    w, y = spectra()
    scan = scan_of(t, START, w.shape[1], (0.0, 0.05), degree=2)
    x = np.linspace(-1, 1, w.shape[1])
    for m in (0, 100, len(scan.log_stretch) - 1):
        place = round((START - scan.log_stretch[m].item() - t.start) / LOG_STEP) + np.arange(w.shape[1])
        inside = (place >= 0) & (place < t.flux.shape[1])
        rows = [np.where(inside, each[place.clip(0, 299)], 0) for each in t.flux.numpy().astype(np.float64)]
        fitted = np.stack([*rows, inside, inside * x, inside * x**2], axis=1) * np.sqrt(w[0].numpy())[:, None]
        target = np.sqrt(w[0].numpy()) * y[0].numpy()
        left = target - fitted @ np.linalg.lstsq(fitted, target, rcond=None)[0]
        expected = float((target**2).sum() - (left**2).sum())
        assert scan.gain(w, w * y)[0, m].item() == pytest.approx(expected, rel=1e-8)


def test_pixels_that_templates_do_not_reach_keep_their_chi2() -> None:
    t = templates(length=300, start=3.6)
    w, y = spectra()
    scan = LinearScan(t, START, w.shape[1], (0.0, 0.1))
    gain = scan.gain(w, w * y)
    for m in (0, 200, len(scan.log_stretch) - 1):
        assert gain[0, m].item() == pytest.approx(least_squares(scan, t, w[0], y[0], m), rel=1e-8, abs=1e-6)
    assert (gain <= (w * y**2).sum(1, keepdim=True) * (1 + 1e-12)).all()


def test_the_redshifts_of_a_scan_hold_the_range_and_are_whole_pixels() -> None:
    scan = LinearScan(templates(start=3.57174), START, 400, (-0.002, 0.3))
    z = 10**scan.log_stretch - 1
    assert z[0] == pytest.approx(-0.002, abs=3e-4)
    assert z[-1] == pytest.approx(0.3, abs=4e-4)
    steps = (START - scan.log_stretch - 3.57174) / LOG_STEP
    torch.testing.assert_close(steps, steps.round(), atol=1e-6, rtol=0)


def test_taken_together_pixels_lose_no_weight() -> None:
    w, y = spectra(length=401)
    fine, coarse = (LinearScan(templates(), START, 401, (0.0, 0.05), binning) for binning in (1, 2))
    torch.testing.assert_close(summed(w, 2).sum(dim=1), w.sum(dim=1))
    assert coarse.step == 2 * fine.step
    assert len(coarse.log_stretch) == pytest.approx(len(fine.log_stretch) / 2, abs=1)
    smooth = torch.ones(1, 401, dtype=torch.float64)  # the constant alone makes it, taken together or not
    for scan in (fine, coarse):
        gain = scan.gain(w[:1], w[:1] * smooth)
        torch.testing.assert_close(gain, w[:1].sum().expand_as(gain))


def test_a_range_narrower_than_a_few_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="narrower than three pixels"):
        LinearScan(templates(), START, 400, (0.1, 0.1001))


def test_components_without_weight_or_made_up_by_others_are_left_out() -> None:
    random = torch.Generator().manual_seed(1)
    columns = torch.randn(3, 20, generator=random, dtype=torch.float64)
    columns = torch.cat([columns, columns[:1] + columns[1:2], torch.zeros(1, 20, dtype=torch.float64)])
    y = torch.randn(20, generator=random, dtype=torch.float64)
    matrix = {(i, j): columns[i] @ columns[j] for i in range(5) for j in range(i, 5)}
    found = explained(matrix, [c @ y for c in columns])
    solution = np.linalg.lstsq(columns[:3].numpy().T, y.numpy(), rcond=None)[0]
    assert found.item() == pytest.approx(float(np.sum((solution @ columns[:3].numpy()) ** 2)), rel=1e-10)


def test_lengths_of_transforms_have_small_factors() -> None:
    assert [fast_length(n) for n in (1, 7, 11, 5681, 5760)] == [1, 8, 12, 5760, 5760]
