"""A plan of 100 spectra with one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.planning.plan import Plan
from tests.planner import model, survey

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeTargets


@pytest.fixture
def plan(make_targets: MakeTargets) -> Plan:
    return Plan.create(survey(), make_targets(100)).with_model(model())
