from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[2]


def test_chunking_runs_without_data_and_ends_with_its_ratio(tmp_path: Path) -> None:
    script = REPOSITORY / "benchmarks" / "chunking.py"
    command = [sys.executable, script, "--spectra", "8", "--chunks", "1", "8", "--data", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"ratio: \d+\.\d+", lines[-1])
    assert sum(line.startswith("chosen") for line in lines) == 4
