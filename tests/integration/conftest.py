"""Fixtures of the tests that disturb runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import bench as benches
from tests import clusters


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Iterator[benches.Bench]:
    with benches.start(tmp_path_factory.mktemp("faults"), mirror) as started:
        yield started


@pytest.fixture(scope="module")
def cluster(bench: benches.Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    with clusters.start(tmp_path_factory.mktemp("cluster")) as started:
        yield started
