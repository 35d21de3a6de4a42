"""`explore` without its packages, and of what cannot be shown, ends with a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import explore
from pipeline.cli.main import main
from tests.pipeline.conftest import MakeRun


def test_packages_that_are_missing_are_named(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run")
    monkeypatch.setattr(explore, "find_spec", lambda package: None if package == "umap" else object())
    assert main(["explore", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "what it needs is not installed: umap; pip install 'spender-pipeline[explorer]'" in said


def test_a_run_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", str(tmp_path)]) == 1
    assert "Traceback" not in capsys.readouterr().err
