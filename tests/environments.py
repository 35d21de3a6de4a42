"""Python environments that lack packages, or have other versions of them: virtual environments of links to our own."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]


def make(folder: Path, roots: Iterable[str], versions: Mapping[str, str] | None = None, *, ours: bool = False) -> Path:
    """Make an environment of some distributions with all that they require; return its interpreter.

    versions: others than the real ones, in what pip has noted of distributions. ours: with this package, too.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for name in _required(roots):
        _link(importlib.metadata.distribution(name), site, (versions or {}).get(name))
    if ours:
        (site / "ours.pth").write_text(f"{REPOSITORY}\n")
    return folder / "bin" / "python"


def _required(roots: Iterable[str]) -> set[str]:
    """Find what distributions require, without their extras, and these."""
    found: set[str] = set()
    left = list(roots)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.append(requirement.name)
    return found


def _link(distribution: importlib.metadata.Distribution, site: Path, version: str | None) -> None:
    """Link what a distribution has installed; its metadata are copied where they are to name another version."""
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in sorted(tops):
        real = Path(str(distribution.locate_file(top)))
        if version is not None and top.endswith(".dist-info"):
            name, _, rest = top.partition("-")
            copied = site / f"{name}-{version}.dist-info"
            shutil.copytree(real, copied)
            text = (copied / "METADATA").read_text()
            (copied / "METADATA").write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", text, count=1))
        elif not (site / top).exists():
            (site / top).symlink_to(real)


def command(python: Path) -> tuple[str, ...]:
    """Return what starts Dask in an environment, without what PYTHONPATH names."""
    return (str(python), "-I", "-m", "dask")
