"""For tests of plans: settings, plan again, and read what a root holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.compute import planner
from pipeline.config import SurveyConfig
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan


def survey(**changes: object) -> SurveyConfig:
    return SurveyConfig.from_dict({"source": "https://data.sdss.org/sas/dr17", "targets": "t.parquet", **changes})


def model(**changes: object) -> ModelConfig:
    values = {"name": "m", "checkpoint": "m.pt", "sha256": "ab" * 32, "n_latent": 6, "n_rest": 7000, "micro_batch": 16}
    return ModelConfig.from_dict({**values, **changes})


def replan(root: str, **changes: Any) -> Plan:
    return planner.plan(root, **{"targets": None, "settings": {}, **changes})


def content(root: str) -> dict[str, bytes]:
    """Read the files of a root."""
    return {file.name: file.read_bytes() for file in Path(root).iterdir() if file.is_file()}
