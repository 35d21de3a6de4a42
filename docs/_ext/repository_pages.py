"""Pages that live elsewhere in the repository: copied into the site's sources before each build.

`docs/repository` mirrors the repository's folders, so that links between pages, to pictures and to other files (which
become downloads) stay as they are. A link to a file that does not exist is a warning of MyST.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

FOLDER = "repository"
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def linked_files(page: Path) -> set[Path]:
    """Return the files that a page, Markdown or notebook, links to by a relative path."""
    targets = _LINK.findall(page.read_text(encoding="utf-8"))
    paths = {(page.parent / target).resolve() for target in targets if "://" not in target}
    return {path for path in paths if path.is_file()}


def find_files(repository: Path, patterns: Iterable[str]) -> set[Path]:
    """Return the pages of these glob patterns and the files of the repository that they link to."""
    pages = {page for pattern in patterns for page in repository.glob(pattern)}
    linked = {file for page in pages for file in linked_files(page)}
    return pages | {file for file in linked if file.is_relative_to(repository)}


def copy_files(files: Iterable[Path], repository: Path, folder: Path) -> None:
    """Make a folder hold copies of these files, and no others; files that did not change keep their time."""
    wanted = {folder / file.relative_to(repository): file for file in files}
    for target, file in wanted.items():
        content = file.read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for old in {path for path in folder.rglob("*") if path.is_file()} - set(wanted):
        old.unlink()


def _copy_pages(app: Sphinx, config: Config) -> None:
    repository = Path(config.repository_root).resolve()
    copy_files(find_files(repository, config.repository_pages), repository, Path(app.srcdir) / FOLDER)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the configuration values `repository_root` and `repository_pages`, a list of glob patterns below it."""
    app.add_config_value("repository_root", "..", "env", str)
    app.add_config_value("repository_pages", [], "env", list)
    app.connect("config-inited", _copy_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
