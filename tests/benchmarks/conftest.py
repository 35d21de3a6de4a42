from __future__ import annotations

import sys
from pathlib import Path

# the scripts import each other by name, as they do when they are run
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
