"""The site takes pages from the repository: links between them stay right, notebooks have outputs of an execution."""

from __future__ import annotations

import importlib.util
import json
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXTENSION = Path(__file__).resolve().parents[1] / "docs" / "_ext" / "repository_pages.py"


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    spec = importlib.util.spec_from_file_location("repository_pages", EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_notebook(file: Path, *sources: str, output: str = "") -> Path:
    cells = [{"cell_type": "code", "source": source, "outputs": [output] if output else []} for source in sources]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"cells": cells}))
    return file


@pytest.mark.parametrize(
    ("link", "on_the_site"),
    [
        ("[catalogs](docs/catalogs.md)", "[catalogs](../catalogs.md)"),
        ("[how to](../docs/howto/index.md#a)", "[how to](../../howto/index.md#a)"),
        ("![a picture](docs/images/a.png)", "![a picture](../images/a.png)"),
        ("[deploy](deploy/README.md)", "[deploy](deploy/README.md)"),
        ("[elsewhere](https://a.org/docs/b.md)", "[elsewhere](https://a.org/docs/b.md)"),
        ("see docs/catalogs.md", "see docs/catalogs.md"),
    ],
)
def test_links_into_the_site_lead_there(pages: ModuleType, tmp_path: Path, link: str, on_the_site: str) -> None:
    (tmp_path / "README.md").write_text(link)
    assert pages.content_of(tmp_path / "README.md", tmp_path / "executed").decode() == on_the_site


def test_a_notebook_is_taken_with_the_outputs_of_an_execution(pages: ModuleType, tmp_path: Path) -> None:
    file = write_notebook(tmp_path / "a.ipynb", "SPECTRA = 100", "run()")
    ran = write_notebook(tmp_path / "executed" / "a.ipynb", "SPECTRA = 10", "run()", output="a figure")
    assert pages.content_of(file, tmp_path / "executed") == ran.read_bytes()


def test_an_execution_of_other_code_is_not_taken(pages: ModuleType, tmp_path: Path) -> None:
    file = write_notebook(tmp_path / "a.ipynb", "SPECTRA = 100", "run(better=True)")
    write_notebook(tmp_path / "executed" / "a.ipynb", "SPECTRA = 100", "run()", output="a figure")
    assert pages.content_of(file, tmp_path / "executed") == file.read_bytes()


def test_pages_of_the_site_are_not_copied_again(pages: ModuleType, tmp_path: Path) -> None:
    for name in ("README.md", "docs/catalogs.md", "LICENSE"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[a](docs/catalogs.md) [b](LICENSE)" if name == "README.md" else "")
    assert pages.find_files(tmp_path, ["README.md"]) == {tmp_path / "README.md", tmp_path / "LICENSE"}


def test_what_the_repository_s_pages_link_to_is_part_of_the_site(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found without building it, as it takes too long for every change."""
    repository = EXTENSION.parents[2]
    monkeypatch.setattr(sys, "path", list(sys.path))  # conf.py changes it
    patterns = runpy.run_path(str(repository / "docs" / "conf.py"))["repository_pages"]
    docs = tmp_path / "docs"
    shutil.copytree(repository / "docs", docs, ignore=shutil.ignore_patterns("_build", "repository", "executed"))
    copies = docs / pages.FOLDER
    pages.copy_files(pages.find_files(repository, patterns), repository, copies, tmp_path / "executed")
    for page in copies.rglob("*.md"):
        for target in pages._LINK.findall(page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.relative_to(copies)}: {target}"
