"""Fixtures of all tests: where the real spectra lie."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client
from hypothesis import settings

from spender_core import architectures
from tests import clusters

# Under Python 3.11 workers that profile themselves hang now and then (dask/distributed issue 8616).
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "false"

# A test may be slow at its first example, on a busy machine more so.
settings.register_profile("pipeline", deadline=None)
settings.load_profile("pipeline")

REPOSITORY = Path(__file__).resolve().parents[1]

# What starts processes or servers, or computes for long, by folder and by fixture; marks at single tests add to it.
SLOW_FOLDERS = ("benchmarks", "deploy", "integration", "kubernetes")
SLOW_FIXTURES = frozenset(
    {"bench", "client", "cluster", "demo", "serve", "server", "slow_server", "submitted", "upstream", "wheel"}
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests."""
    for item in items:
        folder = item.path.relative_to(REPOSITORY / "tests").parts[0]
        fixtures = getattr(item, "fixturenames", ())
        if folder in SLOW_FOLDERS or not SLOW_FIXTURES.isdisjoint(fixtures):
            item.add_marker(pytest.mark.slow)


HOW_TO_GET_THE_DATA = (
    "no real SDSS spectra in {folder}: set SPENDER_TEST_DATA to a folder that has them, or fetch spec-lite files"
    " (www.sdss.org/dr17/data_access) each to its own path below sas/dr17, and their rows of specObj-dr17.fits"
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real files: ../shared/data, or $SPENDER_TEST_DATA."""
    folder = Path(os.environ.get("SPENDER_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "sas" / "dr17").is_dir():
        reason = HOW_TO_GET_THE_DATA.format(folder=folder)
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def mirror(shared_data: Path) -> Path:
    """Give the release root: the folder that holds sdss/ and eboss/."""
    return shared_data / "sas" / "dr17"


@pytest.fixture(scope="session")
def catalog(mirror: Path) -> Path:
    """Give the specObj catalog of the release root."""
    return mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the demo with few mock spectra; gives its folder and what it printed."""
    folder = tmp_path_factory.mktemp("newcomer")
    command = [sys.executable, "-c", "import sys; from pipeline.cli import demo; sys.exit(demo.main(mocks=30))"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "demo", done.stdout


@pytest.fixture(scope="session")
def threads() -> Iterator[Client]:
    """Give the client of the one cluster of this test process: four threads of it, for tests that kill no worker."""
    with clusters.in_process() as client:
        yield client


@pytest.fixture
def own_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after the test which architectures it made known to this process."""
    monkeypatch.setattr(architectures, "_registered", dict(architectures._registered))
