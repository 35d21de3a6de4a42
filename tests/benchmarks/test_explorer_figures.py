"""The figures of the explorer, at a tiny size, and the pictures of the pages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.benchmarks.running import lines_of

pytest.importorskip("panel", reason="the extra `explorer` is not installed")

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on PATH: apt-get install chromium"),
]


def test_every_figure_is_taken_and_the_pictures_are_made(
    demo: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines_of("survey_store.py", tmp_path / "run", "--spectra", "700", "--latents", "5", "--whole", "22")
    images = ("--demo", demo[0], "--images", tmp_path / "images")
    lines = lines_of("explorer.py", tmp_path / "run", "--times", "1", *images)
    assert lines[0].startswith("| 700 points")
    assert len(lines) == 2 + 6 + 2 + 1
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"explorer.png", "explorer-dark.png"}
