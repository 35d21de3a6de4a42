"""A survey in two layouts, fetched gently: the same store from spec-lite files and from plates."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.catalog import targets
from pipeline.compute import preflight
from pipeline.mock import release as mock_release
from pipeline.mock import spectra as mock
from pipeline.planning.plan import Plan
from pipeline.store import arrays as dataset
from pipeline.surveys.sdss.survey import SDSS
from tests.galaxies import flat_galaxies

N, FIBERS = 60, 25


class Recording(SimpleHTTPRequestHandler):
    """Serves a folder and keeps when it was asked for spectra, and by how many at once."""

    times: list[float] = []
    running = most = 0
    lock = threading.Lock()

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        with Recording.lock:
            Recording.times.append(time.monotonic())
            Recording.running += 1
            Recording.most = max(Recording.most, Recording.running)
        try:
            time.sleep(0.02)
            super().do_GET()
        finally:
            with Recording.lock:
                Recording.running -= 1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("release")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock, "FIBERS", FIBERS)
        mock_release.write_plates(root, flat_galaxies, N, seed=1)
        mock_release.write_catalog(mock_release.write_spectra(root, flat_galaxies, N, seed=1), root / "catalog.fits")
    return root


@pytest.fixture
def server(release: Path) -> Iterator[str]:
    Recording.times, Recording.most = [], 0
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Recording, directory=str(release))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def ingest(root: Path, release: Path, workers: int | None = None, **settings: object) -> Plan:
    """Plan and ingest the mock release, from its folder or from a server of it."""
    selected = pipeline.select_targets(release / "catalog.fits")
    plan = pipeline.plan(root, targets=selected, shard=10, **{"source": release, **settings})  # type: ignore[arg-type]
    pipeline.run(root, stages=["ingest"], workers=workers, serial=workers is None)
    return plan


def test_plates_and_spec_lite_files_land_the_same_spectra(release: Path, tmp_path: Path) -> None:
    found = {}
    for layout in ("spec-lite", "spPlate"):
        ingest(tmp_path / layout, release, layout=layout)
        url = dataset.spectra_url(str(tmp_path / layout))
        found[layout] = dataset.read_region(url, ("flux", "ivar", "norm", "quality"), 0, N)
    assert (found["spec-lite"]["ivar"] > 0).any(axis=1).all()
    for name, values in found["spec-lite"].items():
        np.testing.assert_array_equal(values, found["spPlate"][name], err_msg=name)


def test_plates_are_fetched_once_per_process_that_needs_them(release: Path, server: str, tmp_path: Path) -> None:
    plan = ingest(tmp_path / "run", release, source=server, layout="spPlate")
    plates = len(set(SDSS.paths("spPlate", targets.read_targets(str(release / "catalog.fits"))["target"])))
    assert len(plan.shards()) > plates
    # One look whether the source is right, at up to as many files as there are chunks, then each plate once.
    assert len(Recording.times) <= plates + preflight.PROBES


def test_all_workers_together_keep_to_the_rate_and_the_files_in_flight(
    release: Path, server: str, tmp_path: Path
) -> None:
    rate = 30
    ingest(tmp_path / "run", release, 2, source=server, max_requests_per_second=rate, max_requests=6, concurrency=3)
    fetched = sorted(Recording.times)[preflight.PROBES :]  # the client's own look at the source comes first
    assert len(fetched) >= N - preflight.PROBES
    # Two workers keep half the rate each, by clocks of their own: one more each may fall into any second.
    for early, late in zip(fetched, fetched[rate + 2 :], strict=False):
        assert late - early > 0.85
    assert 1 < Recording.most <= 6
