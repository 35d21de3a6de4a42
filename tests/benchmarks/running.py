"""For tests of benchmarks: run one as its users do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def lines_of(script: str, *options: str | Path) -> list[str]:
    """Run a benchmark, and give the lines that it prints, of which the last is its ratio."""
    command = [sys.executable, REPOSITORY / "benchmarks" / script, *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"ratio: \d+\.\d+", lines[-1])
    return lines
