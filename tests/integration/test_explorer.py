"""The explorer in a real browser: headless Chromium, which Debian has (apt-get install chromium)."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import s3fs

import pipeline
from tests import s3

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="the test extra is not installed")
pytest.importorskip("panel", reason="the extra `explorer` is not installed")

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium"),
]
PATIENCE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, mirror: Path, catalog: Path) -> Path:
    """Give a run of the real spectra."""
    folder = tmp_path_factory.mktemp("explorer") / "run"
    pipeline.plan(
        folder, targets=pipeline.select_targets(catalog, where="Z > -1"), source=mirror, models="sdss-galaxies"
    )
    pipeline.run(folder, serial=True, progress=False)
    return folder


@contextmanager
def explored(root: Path | str, *options: str) -> Iterator[str]:
    """Give the address that `explore` prints; it ends in order by SIGINT, and has shown no fault till then."""
    command = [sys.executable, "-m", "pipeline", "explore", str(root), "--no-browser", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(line.strip() for line in process.stdout if line.startswith("http"))
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "ERROR" not in said


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[str]:
    before = files(root)
    with explored(root) as url:
        yield url
    assert files(root) == before


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Window:
    """A page of the explorer, what its console said, and what it asked of other servers."""

    def __init__(self, browser: sync_api.Browser, url: str, size: tuple[int, int] = (1400, 1200), **options: object):
        self.page = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options).new_page()
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda asked: self._note(asked.url))
        self.page.goto(url)
        self.page.locator("canvas").first.wait_for()
        self.page.get_by_text("spectra shown").wait_for(state="attached")

    def _note(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
            self.elsewhere.append(url)

    @property
    def map(self) -> tuple[float, float, float, float]:
        box = self.page.locator(".bk-Figure").first.bounding_box()
        assert box is not None
        return box["x"], box["y"], box["width"], box["height"]

    def on_map(self, x: float, y: float) -> tuple[float, float]:
        """Return where in the window a place of the map is; of its width and height."""
        left, top, width, height = self.map
        return left + x * width, top + y * height

    def find(self, text: str) -> None:
        self.page.get_by_placeholder("id, or ra dec").fill(text)
        self.page.keyboard.press("Enter")

    def drag(self, *places: tuple[float, float]) -> None:
        """Move with the button held from one place of the map to others; of its width and height."""
        x, y, width, height = self.map
        for number, place in enumerate(places):
            self.page.mouse.move(x + place[0] * width, y + place[1] * height, steps=10)
            if number == 0:
                self.page.mouse.down()
        self.page.mouse.up()

    def spectrum(self, target: str) -> sync_api.Locator:
        """Return where a window names the spectrum that it shows."""
        return self.page.locator("strong", has_text=target)

    def selected(self) -> int:
        self.page.get_by_text("Selection", exact=True).click()
        text = self.page.get_by_text(re.compile(r"\d spectra selected")).inner_text()
        return int(text.split(" ")[0].replace(",", ""))

    def done(self) -> None:
        assert self.errors == []
        assert self.elsewhere == []
        self.page.context.close()


@pytest.fixture
def window(browser: sync_api.Browser, served: str) -> Iterator[Window]:
    opened = Window(browser, served)
    yield opened
    opened.done()


def test_without_the_token_there_is_no_page(browser: sync_api.Browser, served: str) -> None:
    page = browser.new_context().new_page()
    for url in (served.split("?")[0], served[:-3] + "xyz"):
        answer = page.goto(url)
        assert answer is not None
        assert answer.status == 403
        assert "wants the token" in page.content()


def test_it_opens_on_a_map_of_all_spectra(window: Window, root: Path) -> None:
    window.page.get_by_text(f"{pipeline.open_run(root).plan.n_spectra} of").wait_for()
    window.page.get_by_text("GALAXY").first.wait_for()


def test_a_spectrum_is_found_by_id_and_by_position_and_the_url_restores_it(window: Window, served: str) -> None:
    window.find("266-51602-1")
    window.spectrum("26/266-51602-1").wait_for()
    window.page.wait_for_url(re.compile(r"row=\d+"))
    again = Window(window.page.context.browser, f"{served}&{window.page.url.split('&', 1)[1]}")
    again.spectrum("26/266-51602-1").wait_for()
    again.done()
    window.find("146.71 , -1.04")
    window.page.get_by_text("within 5 arcsec").wait_for()
    window.find("1-1-1")
    window.page.get_by_text("no target of this run has the id").wait_for()
    window.page.get_by_text("\u00d7", exact=True).click()
    window.page.get_by_text("no target of this run has the id").wait_for(state="hidden")


def test_box_and_lasso_select_and_the_selection_is_a_file(window: Window, root: Path, tmp_path: Path) -> None:
    window.page.get_by_title("Box Select").first.click()
    window.drag((0.16, 0.02), (0.85, 0.85))
    window.page.get_by_text("Selection", exact=True).click()
    window.page.get_by_text(re.compile(r"\d spectra selected")).wait_for()
    boxed = window.selected()
    assert boxed > 50
    window.page.get_by_title("Lasso Select").first.click()
    window.drag((0.16, 0.02), (0.4, 0.02), (0.4, 0.85), (0.16, 0.85), (0.16, 0.03))
    window.page.get_by_text(f"{boxed} spectra selected").wait_for(state="detached")
    lassoed = window.selected()
    assert 0 < lassoed < boxed
    with window.page.expect_download() as started:
        window.page.get_by_text("Ids", exact=True).click()
    ids = Path(started.value.path()).read_text().split()
    assert len(ids) == lassoed
    assert len(set(pipeline.open_run(root).find(ids).tolist())) == lassoed
    with window.page.expect_download() as started:
        window.page.get_by_text("Table (Parquet)").click()
    import pandas as pd

    assert pd.read_parquet(started.value.path())["target"].tolist() == ids


def test_color_and_filter_change_the_map_and_the_url(window: Window) -> None:
    before = window.page.locator("canvas").first.screenshot()
    choices = window.page.locator("select")
    choices.nth(2).select_option("z")
    window.page.wait_for_url(re.compile("color=z"))
    colored = changed(window, before)
    choices.nth(2).select_option("sn_median")  # at the same ranges
    changed(window, colored)
    choices.nth(3).select_option("sn_median")
    window.page.wait_for_timeout(2000)
    box = window.page.locator(".bk-Figure").first.bounding_box()  # of the histogram, in the sidebar
    assert box is not None
    assert box["x"] < 300
    for clicks, (x, y) in enumerate(((0.3, 0.5), (0.6, 0.5))):
        window.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=10)
        (window.page.mouse.up if clicks else window.page.mouse.down)()
    window.page.get_by_text("filter: sn_median >=").wait_for()
    window.page.wait_for_url(re.compile("filters=%7B%22sn_median"))


def changed(window: Window, before: bytes) -> bytes:
    """Return the picture of the map, once it is another one."""
    for _ in range(40):
        window.page.wait_for_timeout(250)
        picture = bytes(window.page.locator("canvas").first.screenshot())
        if picture != before:
            return picture
    raise AssertionError("the map has not changed")


def test_the_address_keeps_filters(browser: sync_api.Browser, served: str, root: Path) -> None:
    opened = Window(browser, f'{served}&filters={{"z":[0.1,0.2]}}')
    opened.page.get_by_text("z >= 0.1 and z <= 0.2").wait_for()
    kept = len(pipeline.open_run(root).table(where="z >= 0.1 and z <= 0.2"))
    opened.page.get_by_text(f"{kept} of").wait_for()
    opened.done()


def test_words_filter_and_the_address_has_them(window: Window, root: Path) -> None:
    window.page.locator("select").nth(3).select_option("class")
    window.page.get_by_role("checkbox", name="QSO").check()
    kept = len(pipeline.open_run(root).table(where="class == 'QSO'"))
    window.page.get_by_text(f"{kept} of").wait_for()
    window.page.wait_for_url(re.compile("filters=%7B%22class%22%3A%5B%22QSO"))
    window.page.get_by_text("clear filters").click()
    window.page.wait_for_url(lambda url: "filters" not in url)


def test_the_address_keeps_the_zoom_and_the_browser_goes_back(window: Window, served: str) -> None:
    window.page.mouse.move(*window.on_map(0.5, 0.5))
    window.page.mouse.wheel(0, -200)
    window.page.wait_for_url(re.compile("zoom="))
    zoomed = window.page.url
    window.page.locator("select").nth(0).select_option("z")
    window.page.wait_for_url(lambda url: "x=z" in url and "zoom" not in url)
    window.page.go_back()
    window.page.wait_for_url(lambda url: "zoom=" in url)
    sync_api.expect(window.page.locator("select").nth(0)).to_have_value("PCA 1")  # when it is loaded again
    again = Window(window.page.context.browser, f"{served}&{zoomed.split('&', 1)[1]}")
    again.page.wait_for_timeout(1500)
    assert again.page.url == zoomed
    again.done()


def test_nonsense_in_the_address_is_told(browser: sync_api.Browser, served: str) -> None:
    opened = Window(browser, served + "&x=nothing&row=1e9&zoom=3")
    opened.page.get_by_text("x=nothing: this run has no such column").wait_for()
    opened.page.get_by_text("row=1e9: expected a whole number").wait_for()
    opened.done()


def test_outliers_are_walked_through_by_keys_and_exported(window: Window, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "run")  # the index that outliers make lies in a run, and not in this one
    expected = pipeline.open_run(tmp_path / "run").outliers(50)["target"].tolist()
    window.page.keyboard.press("3")
    window.page.get_by_text("list the 50 rarest").click()
    window.page.get_by_text(re.compile("sigma from the mean")).first.wait_for()
    window.find("266-51602-1")
    window.spectrum("26/266-51602-1").wait_for()  # from now on keys are not typed into the field
    for number, target in enumerate(expected[:2], 1):
        window.page.keyboard.press("n")
        window.spectrum(target).wait_for()
        window.page.get_by_text(f"({number} of the 50 listed)").wait_for()
    for number in range(3):
        window.page.locator(".tabulator-row input[type=checkbox]").nth(number).check()
    window.page.get_by_text("select those that are checked").click()
    window.page.get_by_text("3 spectra selected").wait_for()
    with window.page.expect_download() as started:
        window.page.get_by_text("Ids", exact=True).click()
    assert Path(started.value.path()).read_text().split() == expected[:3]
    window.page.get_by_text("spectra shown").click()
    window.page.keyboard.press("Escape")
    window.page.get_by_text("0 spectra selected").wait_for()


def test_a_dark_system_and_a_narrow_screen(browser: sync_api.Browser, served: str) -> None:
    opened = Window(browser, served, (420, 900), color_scheme="dark")
    opened.page.wait_for_url(re.compile("theme=dark"))
    opened.page.locator("canvas").first.wait_for()
    opened.page.wait_for_function("() => !document.getElementById('sidebar').classList.contains('show')")
    assert not opened.page.get_by_text("spectra shown").is_visible()
    opened.page.keyboard.press("d")
    opened.page.wait_for_url(re.compile("theme=default"))
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 420
    x, _, width, _ = opened.map
    assert x + width <= 420
    opened.done()


def test_a_map_by_umap_is_made_once_and_is_what_is_shown_first(
    browser: sync_api.Browser, root: Path, tmp_path: Path
) -> None:
    own = tmp_path / "run"
    shutil.copytree(root, own)
    with explored(own, "--make-map"):
        assert (own / "maps" / "sdss-galaxies.umap.npz").is_file()
    before = files(own)
    with explored(own) as url:
        opened = Window(browser, url)
        assert opened.page.locator("select").nth(0).input_value() == "UMAP 1"
        opened.page.get_by_text("0 places are approximate").wait_for()
        opened.done()
    assert files(own) == before


def test_a_run_in_a_bucket_is_shown_as_one_on_a_disk(
    browser: sync_api.Browser, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3.serve(tmp_path / "s3") as server, s3.as_default(server):
        s3.client(server)
        s3fs.S3FileSystem().mkdir("explored")
        s3fs.S3FileSystem().put(str(root), "s3://explored/run", recursive=True)
        with explored("s3://explored/run") as url:
            opened = Window(browser, url)
            opened.page.get_by_text(f"{pipeline.open_run(root).plan.n_spectra} of").wait_for()
            opened.find("266-51602-1")
            opened.spectrum("26/266-51602-1").wait_for()
            opened.page.locator(".tabulator-row").first.wait_for()
            opened.done()


def test_two_windows_do_not_disturb_each_other(browser: sync_api.Browser, window: Window, served: str) -> None:
    other = Window(browser, served)
    window.find("266-51602-1")
    window.spectrum("26/266-51602-1").wait_for()
    other.find("266-51630-168")
    other.spectrum("26/266-51630-168").wait_for()
    assert other.spectrum("26/266-51602-1").count() == 0
    other.done()


def test_a_damaged_run_says_so_on_the_page(browser: sync_api.Browser, root: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(root, damaged)
    shutil.rmtree(damaged / "encodings" / "sdss-galaxies.zarr" / "restframe" / "c")
    for part in (damaged / "spectra.zarr" / "flux" / "c").rglob("*"):
        if part.is_file():
            part.write_bytes(b"nothing")
    with explored(damaged) as url:
        opened = Window(browser, url)
        opened.find("266-51602-1")
        opened.page.get_by_text("are damaged").first.wait_for()
        opened.done()


def test_a_page_says_when_its_server_has_ended(browser: sync_api.Browser, root: Path) -> None:
    with explored(root) as url:
        opened = Window(browser, url)
    opened.page.get_by_text("The explorer has ended, or cannot be reached any more").wait_for()
    opened.done()
