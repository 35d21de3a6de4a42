"""What the README shows can be typed."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import pipeline
import spender_core
from pipeline.cli.main import parser

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DEPLOY = [file.read_text(encoding="utf-8") for file in sorted((REPOSITORY / "deploy").glob("*.md"))]
COMMANDS, *OF_DEPLOY = (
    re.findall(r"^ {4}spender-pipeline (.+)$", text.replace("\\\n", " "), re.MULTILINE) for text in (README, *DEPLOY)
)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


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


@pytest.mark.parametrize("command", [*COMMANDS, *sum(OF_DEPLOY, [])])
def test_commands_have_the_options_that_it_shows(command: str) -> None:
    words = shlex.split(command, comments=True)
    assert parser().parse_args(words).command == words[0]


def test_targets_of_the_make_file_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    shown = set(re.findall(r"^ {4}make (\w+)", README, re.MULTILINE))
    assert shown == {"demo", "test"}
    assert shown <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("code", PYTHON)
def test_python_examples_name_what_there_is(code: str) -> None:
    packages = {"pipeline": pipeline, "spender_core": spender_core}
    used = [
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in packages
    ]
    assert used
    for package, name in used:
        assert hasattr(packages[package], name), f"{package}.{name}"


def test_linked_files_exist_and_the_picture_is_small() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (REPOSITORY / link).exists(), link
    for image in (REPOSITORY / "notebooks" / "images").iterdir():
        assert image.stat().st_size < 300_000


def test_its_map_is_the_tree() -> None:
    tree = README.split("## What lies where")[1].split("A run on disk")[0]
    listed = {
        name.rstrip("/") for line in re.findall(r"^ {6}(\S.*?)  +\S", tree, re.MULTILINE) for name in line.split()
    }
    there = [path for path in (REPOSITORY / "pipeline").iterdir() if path.suffix in ("", ".py") and path.name[0] != "_"]
    assert listed == {path.name for path in there}
    folders = set(re.findall(r"^ {4}(\w+)/", tree, re.MULTILINE))
    assert folders == {"spender_core", "pipeline", "deploy", "docs", "benchmarks", "notebooks", "tests"}
    assert all((REPOSITORY / folder).is_dir() for folder in folders)
