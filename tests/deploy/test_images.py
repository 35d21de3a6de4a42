"""The two images differ in torch alone, and take nothing along that is not the package's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = REPOSITORY / "deploy" / "images"


def instructions(name: str) -> list[str]:
    text = re.sub(r"^#.*\n", "", (IMAGES / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n(?=[A-Z])", text.replace("\\\n", " ")) if part.strip()]


def test_the_images_differ_in_torch_and_their_description_alone() -> None:
    cpu, gpu = (instructions(f"{name}.Dockerfile") for name in ("cpu", "gpu"))
    other = [line for line in cpu if line not in gpu] + [line for line in gpu if line not in cpu]
    assert len(other) == 6
    assert all(re.search(r"torch|TORCH_INDEX|requirements.txt|cuda-|image.description", line) for line in other), other


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_images_are_of_no_user_and_of_an_exact_base(name: str) -> None:
    lines = instructions(f"{name}.Dockerfile")
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert re.fullmatch(r"ARG BASE=\S+:\d+\.\d+\.\d+-\S+", next(line for line in lines if line.startswith("ARG BASE")))


def test_only_what_the_package_is_made_of_goes_into_images() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    taken = {line[1:] for line in rules if line.startswith("!")}
    assert taken == {
        "LICENSE",
        "README.md",
        "constraints.txt",
        "pyproject.toml",
        "deploy/base",
        "pipeline",
        "spender_core",
    }
