from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.store import root as runs


def test_a_root_without_a_plan_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="spender-pipeline plan"):
        runs.read_plan(storage.join(str(tmp_path), "nothing"))
