"""For tests of the planner: plan again, and read what a root holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.compute import planner
from pipeline.planning.plan import Plan


def replan(root: str, **changes: Any) -> Plan:
    return planner.plan(root, **{"targets": None, "settings": {}, **changes})


def content(root: str) -> dict[str, bytes]:
    """Read the files of a root."""
    return {file.name: file.read_bytes() for file in Path(root).iterdir()}
