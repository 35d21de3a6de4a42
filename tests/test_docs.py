"""The site builds without warnings, needs no network to be read, and shows every public name, option and variable."""

from __future__ import annotations

import argparse
import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import pipeline
import spender_core
from pipeline.cli.main import VERBS, parser
from pipeline.planning.density import SCORES
from pipeline.planning.redshift import REDSHIFT_VARIABLES
from pipeline.planning.schema import OUTPUTS, SPECTRA_VARIABLES
from pipeline.spectra.quality import Quality
from pipeline.surveys.sdss.columns import COORDINATES

pytest.importorskip("sphinx", reason="the extra `docs` is not installed")

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[1]
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}


class Page(HTMLParser):
    """The ids of a page, what a browser loads for it, and where its links lead."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.ids: set[str] = set()
        self.loaded: set[str] = set()
        self.links: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif (tag, name) in LOADED and value:
                self.loaded.add(value)
            elif (tag, name) == ("a", "href") and value:
                self.links.add(value)

    def codes(self) -> set[str]:
        """What the page shows as code, each without its markup."""
        found = re.findall(r"<code[^>]*>(.*?)</code>", self.file.read_text(encoding="utf-8"), re.DOTALL)
        return {html.unescape(re.sub(r"<[^>]+>", "", each)).strip() for each in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Of a copy: a build writes beside the pages, and another one may be at work there.
    generated = shutil.ignore_patterns("_build", "repository", "api", "__pycache__")
    shutil.copytree(REPOSITORY / "docs", folder / "docs", ignore=generated)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    settings = ["-D", f"repository_root={REPOSITORY}"]
    built = subprocess.run(
        [*command, *settings, str(folder / "docs"), str(folder / "html")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in sorted(site.rglob("*.html")) if "_static" not in file.parts}


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    (commands,) = (each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    return dict(commands.choices)


def test_the_existing_pages_are_part_of_it(site: Path) -> None:
    pages = ["README.md", "CHANGELOG.md", "benchmarks/RESULTS.md", *map(str, REPOSITORY.glob("deploy/*.md"))]
    for page in [*pages, *map(str, REPOSITORY.glob("notebooks/*.ipynb"))]:
        relative = (REPOSITORY / page).relative_to(REPOSITORY)
        assert (site / "repository" / relative).with_suffix(".html").is_file()


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_a_section_with_every_option(verb: str, site: Path, pages: dict[Path, Page]) -> None:
    ids = pages[site / "reference" / "command_line.html"].ids
    shown = [action for action in command_parsers()[verb]._actions if action.help != argparse.SUPPRESS]
    assert f"spender-pipeline-{verb}" in ids
    for name in [name for action in shown for name in action.option_strings or [action.metavar]]:
        assert f"spender-pipeline-{verb}-{name}" in ids


def test_the_data_model_has_every_variable_coordinate_and_bit(site: Path, pages: dict[Path, Page]) -> None:
    shown = pages[site / "reference" / "data_model.html"].codes()
    assert shown >= {
        *SPECTRA_VARIABLES,
        *OUTPUTS,
        *REDSHIFT_VARIABLES,
        *SCORES,
        *COORDINATES,
        *(bit.name for bit in Quality),
    }


@pytest.mark.parametrize("package", [pipeline, spender_core])
def test_the_python_api_has_every_public_name(package: object, site: Path, pages: dict[Path, Page]) -> None:
    name = package.__name__
    page = pages[site / "reference" / "api" / f"{name}.html"]
    assert page.codes() >= set(package.__all__)
    elsewhere = {"pipeline": {"WeightsError"}}.get(name, set())
    assert page.ids >= {f"{name}.{each}" for each in set(package.__all__) - elsewhere}


def test_docstrings_leave_no_markup_behind(site: Path) -> None:
    for name in ("pipeline", "spender_core"):
        text = (site / "reference" / "api" / f"{name}.html").read_text(encoding="utf-8")
        article = re.sub(r"<[^>]+>", "", text.split("<article")[1].split("</article>")[0])
        assert "`" not in article
        assert "**" not in article.replace("**arguments", "")


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for page in pages.values():
        assert [each for each in page.loaded if each.startswith(("http:", "https:", "//"))] == []
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", text) == []


def test_links_within_the_site_lead_to_what_exists(pages: dict[Path, Page]) -> None:
    for page in pages.values():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.file.parent / unquote(parts.path)).resolve() if parts.path else page.file
            assert target.exists(), f"{page.file.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{page.file.name}: {link}"
