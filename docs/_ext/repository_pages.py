"""Pages that live elsewhere in the repository: copied into the site's sources before each build.

`docs/repository` mirrors the repository's folders, so that links between pages, to pictures and to other files (which
become downloads) stay as they are; those to pages and pictures of `docs` lead to these. A link to a file that does not
exist is a warning of MyST. Notebooks, which have no outputs in the repository, are taken with those of an execution,
where the folder of executed ones has any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

FOLDER = "repository"
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
_INTO_DOCS = re.compile(r"(\]\((?:\.\./)*)docs/")


def linked_files(page: Path) -> set[Path]:
    """Return the files that a page, Markdown or notebook, links to by a relative path."""
    targets = _LINK.findall(page.read_text(encoding="utf-8"))
    paths = {(page.parent / target).resolve() for target in targets if "://" not in target}
    return {path for path in paths if path.is_file()}


def find_files(repository: Path, patterns: Iterable[str]) -> set[Path]:
    """Return the pages of these glob patterns and the files of the repository that they link to."""
    pages = {page for pattern in patterns for page in repository.glob(pattern)}
    linked = {file for page in pages for file in linked_files(page)}
    return pages | {
        file for file in linked if file.is_relative_to(repository) and repository / "docs" not in file.parents
    }


def code_of(notebook: Path) -> list[str]:
    """Return the code cells of a notebook but for the first, which holds sizes."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"][1:]


def content_of(file: Path, executed: Path) -> bytes:
    """Return what the site shows for a file; of a notebook, its execution, if that is one of the same code."""
    if file.suffix == ".ipynb":
        ran = executed / file.name
        return (ran if ran.is_file() and code_of(ran) == code_of(file) else file).read_bytes()
    if file.suffix == ".md":
        return _INTO_DOCS.sub(r"\1../", file.read_text(encoding="utf-8")).encode()
    return file.read_bytes()


def copy_files(files: Iterable[Path], repository: Path, folder: Path, executed: Path) -> None:
    """Make a folder hold copies of these files, and no others; files that did not change keep their time."""
    wanted = {folder / file.relative_to(repository): file for file in files}
    for target, file in wanted.items():
        content = content_of(file, executed)
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for old in {path for path in folder.rglob("*") if path.is_file()} - set(wanted):
        old.unlink()


def _copy_pages(app: Sphinx, config: Config) -> None:
    repository = Path(config.repository_root).resolve()
    files = find_files(repository, config.repository_pages)
    copy_files(files, repository, Path(app.srcdir) / FOLDER, repository / config.executed_notebooks)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register `repository_root`; below it `repository_pages`, glob patterns, and `executed_notebooks`, a folder."""
    app.add_config_value("repository_root", "..", "env", str)
    app.add_config_value("repository_pages", [], "env", list)
    app.add_config_value("executed_notebooks", "", "env", str)
    app.connect("config-inited", _copy_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
