"""Fixtures of the planner: a root, eight targets, a model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from pipeline import storage
from pipeline.catalog import targets
from pipeline.compute import planner
from pipeline.planning.plan import Plan
from pipeline.store.root import read_plan
from tests.running import random_checkpoint

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeTargets

ARCHIVE = "https://data.sdss.org/sas/dr17"
MakePlan = Callable[..., Plan]


@pytest.fixture(autouse=True)
def _storage_as_before() -> Iterator[None]:
    yield
    storage.configure(())


@pytest.fixture
def frame(make_targets: MakeTargets) -> pd.DataFrame:
    return make_targets(8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("models"))


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "run")


@pytest.fixture
def make_plan(root: str, frame: pd.DataFrame) -> MakePlan:
    """Give a maker of a new plan of eight targets on the grid of BOSS, without a model, with changes."""

    def make(**changes: Any) -> Plan:
        settings = {"source": ARCHIVE, "shard": 4, "instrument": "boss", **changes.pop("settings", {})}
        return planner.plan(root, **{"targets": frame, "settings": settings, **changes})

    return make


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template") / "run"


@pytest.fixture
def with_model(root: str, template: Path, frame: pd.DataFrame, checkpoint: Path) -> Plan:
    """Give the plan of a root on the grid of SDSS with a model that is named toy; it is made once and copied."""
    if not template.exists():
        settings = {"source": ARCHIVE, "shard": 4}
        planner.plan(str(template), targets=frame, settings=settings, models=[f"toy={checkpoint}"])
    shutil.copytree(template, root)
    return read_plan(root)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up a file after two retries instead of five: seconds instead of a quarter of a minute."""
    monkeypatch.setattr("pipeline.compute.settle.RETRIES", 2)


@pytest.fixture(scope="module")
def real(catalog: Path) -> pd.DataFrame:
    return targets.read_targets(str(catalog))
