"""Exact neighbors, against float64 for every row."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.results.latents import neighbors
from pipeline.results.latents.neighbors import metric_of, nearest


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "ROWS", 64)
    monkeypatch.setattr(neighbors, "AT_ONCE", 3)


def sample(n: int = 1000, size: int = 5, seed: int = 0) -> NDArray[np.float32]:
    """Give whitened latents with rows left out, some far away, and some that are there several times."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(n, size)).astype(np.float32)
    values[random.random(n) < 0.1] = np.nan
    values[::97] *= 100
    values[[5, 505, 905]] = values[3]
    return values


def brute(
    values: NDArray[np.float32], query: NDArray[np.float32], n: int, own: int, metric: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    difference = values.astype(np.float64) - query.astype(np.float64)
    measured = difference if metric is None else difference @ metric
    distance = np.sqrt(np.einsum("ij,ij->i", measured, measured))
    distance[own] = np.nan
    order = [row for row in np.lexsort((np.arange(len(values)), distance)) if np.isfinite(distance[row])][:n]
    return np.array(order), distance[order]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 20, 150])
def test_they_are_those_of_float64_for_any_number_of_queries(seed: int, n: int) -> None:
    values = sample(seed=seed)
    rows = np.flatnonzero(np.isfinite(values[:, 0]))[[0, 3, 97, 500, 7, 11, 400]]
    for chosen in (rows, rows[2:3]):
        found, distance = nearest(values, values[chosen], n, leave_out=chosen)
        for k, row in enumerate(chosen):
            expected, distances = brute(values, values[row], n, row)
            np.testing.assert_array_equal(found[k], expected)
            np.testing.assert_array_equal(distance[k], distances)


def test_equal_distances_are_in_the_order_of_the_run() -> None:
    values = sample()
    found, distance = nearest(values, values[[505]], 3, leave_out=np.array([505]))
    assert found[0].tolist() == [3, 5, 905]
    assert distance[0].tolist() == [0, 0, 0]


def test_where_there_are_fewer_all_are_found() -> None:
    values = sample()[:30]
    found, _ = nearest(values, values[[3]], 50, leave_out=np.array([3]))
    assert len(found[0]) == int(np.isfinite(values[:, 0]).sum()) - 1
    assert nearest(np.full((4, 2), np.nan, np.float32), np.zeros((1, 2), np.float32), 3)[0].shape == (1, 0)


@pytest.mark.parametrize("stretch", [1.0, 1000.0])
def test_a_metric_of_its_own(stretch: float) -> None:
    values, random = sample(), np.random.default_rng(1)
    axes = random.normal(size=(5, 5)) * [1, 1, 1, 1, stretch]
    covariance, whitening = axes @ axes.T, np.diag(random.uniform(0.5, 2, 5))
    metric = metric_of(covariance, whitening)
    assert metric is not None
    found, distance = nearest(values, values[[700]], 20, leave_out=np.array([700]), metric=metric)
    expected, _ = brute(values, values[700], 20, 700, metric)
    np.testing.assert_array_equal(found[0], expected)
    difference = (values[found[0]].astype(np.float64) - values[700].astype(np.float64)) @ np.linalg.inv(whitening)
    mahalanobis = np.sqrt(np.einsum("ij,jk,ik->i", difference, np.linalg.inv(covariance), difference))
    np.testing.assert_allclose(distance[0], mahalanobis, rtol=1e-6)


def test_a_covariance_that_is_none_gives_no_metric() -> None:
    assert metric_of(np.full((2, 2), np.nan), np.eye(2)) is None
    assert metric_of(-np.eye(2), np.eye(2)) is None
