"""The page on training can be followed: its commands run, in order, and its table of presets is that of the code."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import parser
from pipeline.results.run import open_run
from spender_core.objective import Losses
from spender_core.presets import PRESETS
from spender_core.settings import Settings

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
FOLLOWED = [PAGE.split(f"## {title}\n")[1].split("\n## ")[0] for title in ("A first model", "Real spectra")]


def commands(text: str) -> list[list[str]]:
    """The arguments of the commands that a part of the page shows."""
    return [shlex.split(line) for line in re.findall(r"^ {4}.*?(?:spender-pipeline|-m pipeline) (.+)$", text, re.M)]


def test_options_that_it_names_exist() -> None:
    named = set(re.findall(r"`(--[a-z0-9-]+)", PAGE)) - {"--nnodes", "--rdzv-endpoint"}
    (verbs,) = (action for action in parser()._actions if hasattr(action, "choices") and action.dest == "command")
    known = set(verbs.choices["train"]._option_string_actions) | {"--model"}  # type: ignore[index, call-overload]
    assert named <= known
    assert len(named) > 15


def test_its_table_of_presets_is_what_they_are() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (`.+) \|$", PAGE, re.MULTILINE)
    table = {row[0]: row[1:4] for row in rows}
    made = [(Settings(100), Losses()), PRESETS["paper1"], PRESETS["paper2"]]
    expected = {
        "epochs": [str(settings.epochs) for settings, _ in made],
        "batch size": [str(settings.batch_size) for settings, _ in made],
        "peak learning rate": [f"{settings.lr:g}" for settings, _ in made],
        "one cycle of it, by": [settings.schedule for settings, _ in made],
        "clipping of the gradient": ["none" if s.clip is None else f"{s.clip:g}" for s, _ in made],
        "similarity loss": [f"{losses.similarity:g}" for _, losses in made],
        "consistency loss": [f"{losses.consistency:g}" for _, losses in made],
    }
    for name, values in expected.items():
        assert list(table[name]) == values, name
    assert (table["its form"][0], table["its form"][2]) == (made[0][1].form, made[2][1].form)
    slope = made[2][1].slope
    in_cycles = f"0 to {slope.top:g} in cycles of {slope.cycle} epochs, 0 in the last {slope.last}"
    assert table["its slope k"][2] == in_cycles
    assert table["its slope k"][0] == f"{made[0][1].slope.value:g}"


@pytest.mark.long
def test_it_can_be_followed_from_a_run_to_encodings(tmp_path: Path, demo: tuple[Path, str], mirror: Path) -> None:
    shutil.copytree(demo[0], tmp_path / "demo")
    (tmp_path / "mirror").symlink_to(mirror)
    for words in [words for part in FOLLOWED for words in commands(part)]:
        command = [sys.executable, "-m", "pipeline", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    for name in ("first", "mine"):
        assert {file.suffix for file in tmp_path.glob(f"{name}.*")} == {".pt", ".jsonl", ".png"}
    assert (tmp_path / "row0.png").exists()
    assert (tmp_path / "galaxy0.png").exists()
    run = open_run(tmp_path / "galaxies")
    before, after = (run.encodings(name)["chi2"].load() for name in ("sdss-galaxies", "mine"))
    assert float(after.median()) < 1.5 * float(before.median())
    assert not after.equals(before)
