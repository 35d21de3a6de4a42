"""The README shows a survey from its targets to its report, and what it says of the repository is so."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DEPLOY = [file.read_text(encoding="utf-8") for file in sorted((REPOSITORY / "deploy").glob("*.md"))]
COMMANDS, *OF_DEPLOY = (
    re.findall(r"^ {4}spender-pipeline (.+)$", text.replace("\\\n", " "), re.MULTILINE) for text in (README, *DEPLOY)
)


def test_it_shows_every_step_of_a_survey() -> None:
    assert {command.split()[0] for command in COMMANDS} >= {
        "targets",
        "plan",
        "run",
        "status",
        "verify",
        "report",
        "plot",
    }


def test_the_pages_on_clusters_show_how_to_submit_and_scale() -> None:
    assert {"targets", "plan", "submit", "status", "scale", "run"} <= {each.split()[0] for each in sum(OF_DEPLOY, [])}


def test_targets_of_the_make_file_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    shown = set(re.findall(r"^ {4}make (\w+)", README, re.MULTILINE))
    assert shown == {"demo", "test"}
    assert shown <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


def test_it_fits_five_minutes() -> None:
    assert len(README.splitlines()) < 110


def test_its_picture_and_those_of_the_pages_are_small() -> None:
    for image in (REPOSITORY / "notebooks" / "images").iterdir():
        assert image.stat().st_size < 300_000


def test_the_map_for_contributors_is_the_tree() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text.split("## What lies where")[1].split("A run on disk")[0]
    listed = {
        name.rstrip("/") for line in re.findall(r"^ {6}(\S.*?)  +\S", tree, re.MULTILINE) for name in line.split()
    }
    there = [path for path in (REPOSITORY / "pipeline").iterdir() if path.suffix in ("", ".py") and path.name[0] != "_"]
    assert listed == {path.name for path in there}
    folders = set(re.findall(r"^ {4}(\w+)/", tree, re.MULTILINE))
    assert folders == {"spender_core", "pipeline", "deploy", "docs", "benchmarks", "notebooks", "tests"}
    assert all((REPOSITORY / folder).is_dir() for folder in folders)
