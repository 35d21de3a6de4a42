"""The script that judges densities, at tiny sizes, and what it is made of."""

from __future__ import annotations

import density
import numpy as np
import pytest

from tests.benchmarks.running import lines_of

pytestmark = pytest.mark.long


def test_auc_counts_pairs():
    inliers, outliers = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])
    pairs = [(1.0 if o > i else 0.5 if o == i else 0.0) for i in inliers for o in outliers]
    assert density.auc(inliers, outliers) == pytest.approx(np.mean(pairs))
    assert density.auc(inliers, np.array([np.inf, np.inf])) == 1


def test_a_mixture_of_gaussians_finds_its_components():
    random = np.random.default_rng(0)
    x = random.choice([-5.0, 5.0], (4000, 1)) + random.normal(size=(4000, 2))
    one, several = (density.Gaussians(x, n).log_prob(x).mean() for n in (1, 10))
    truth = np.log(0.5) - np.log(2 * np.pi) - 1
    assert one < truth - 0.3
    assert several == pytest.approx(truth, abs=0.05)


def test_all_tables_are_printed(shared_data):
    lines = lines_of("density.py", "--tiny", "--spectra", "2000", "--mocks", "300", "--data", shared_data)
    text = "\n".join(lines)
    for what in ("24 quasars against 16 unseen", "12 stars against 64", "53 all that are not clean", "a Gaussian"):
        assert what in text
    assert any(line.startswith("Least difference:") for line in lines)
    assert any(line.startswith("Without finite latents") for line in lines)
