"""The explorer with a whole survey, in a real browser: seconds until it opens, pans and shows a spectrum, and memory.

    python benchmarks/explorer.py ROOT [--times 5] [--demo DEMO --images FOLDER] [--write]

ROOT: a run that survey_store.py makes with `--whole 1`; a map by UMAP is stored in it at first. Chromium has to be on
PATH. Opening is from the command to the picture of the map in the browser; panning is from the end of a drag, or a turn
of the wheel, to the picture of that place; a click is to the figure of the spectrum. Memory is the most that the server
had. DEMO: a run that `spender-pipeline demo` makes, of which the pictures of the pages are taken. The last line is the
smallest of the limits over what was taken.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from playwright import sync_api
from science_training import write_section
from survey_store import FIRST_PLATE

import pipeline
from pipeline.explorer.columns import Columns
from pipeline.explorer.embedding import read_map
from pipeline.explorer.view import Map

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
LIMITS = {"map": 300.0, "open": 15.0, "pan": 1.0, "zoom": 1.0, "click": 1.0}  # seconds
MEMORY = 2e9  # bytes
NAMES = {
    "map": "the map by UMAP is made and stored",
    "open": "command to map in the browser",
    "pan": "the map is dragged",
    "zoom": "the wheel is turned",
    "click": "a click to the spectrum",
}
MODELS = "Bokeh.documents.flatMap(each => [...each._all_models.values()])"
SETTLED = f"""() => {{
    for (const figure of {MODELS}.filter(each => each.type === "Figure"))
        for (const drawn of figure.renderers)
            if (drawn.glyph && drawn.glyph.type === "ImageRGBA") {{
                const data = drawn.data_source.data, wide = figure.x_range.end - figure.x_range.start
                return data.x && Math.abs(data.x[0] - figure.x_range.start) < 1e-6 * wide
                    && Math.abs(data.dw[0] - wide) < 1e-6 * wide
            }}
    return false
}}"""
"""Whether the map's picture is the one of the ranges that are seen."""
PLACE = f"""([x, y]) => {{
    for (const figure of {MODELS}.filter(each => each.type === "Figure"))
        if (figure.renderers.some(drawn => drawn.glyph && drawn.glyph.type === "ImageRGBA")) {{
            const view = Bokeh.index.find_one(figure), canvas = view.canvas_view.el.getBoundingClientRect()
            return [canvas.x + view.frame.x_scale.compute(x), canvas.y + view.frame.y_scale.compute(y)]
        }}
}}"""
"""Where in the window a place of the map is."""
SPECTRUM = f"""() => {MODELS}.filter(each => (each.axis_label || "").startsWith("restframe wavelength"))
    .map(each => each.id).join()"""
"""Which figure of a restframe spectrum there is."""


@contextmanager
def explorer(root: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Start the explorer, and give its address and its process."""
    command = [sys.executable, "-m", "pipeline", "explore", str(root), "--no-browser", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(line.strip() for line in process.stdout if line.startswith("http")), process.pid
        finally:
            process.send_signal(signal.SIGINT)


def peak(pid: int) -> float:
    """Return the most bytes that a process has had resident."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024.0


def opened(browser: sync_api.Browser, url: str, *, dark: bool = False) -> sync_api.Page:
    """Open a page and wait for the picture of its map."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    if dark:
        page.wait_for_url(re.compile("theme=dark"))
    page.get_by_text("spectra shown").wait_for()
    page.wait_for_function(SETTLED)
    return page


def seconds(page: sync_api.Page, what: str, **options: str) -> float:
    """Return how long it takes from now until something is so in a page."""
    start = time.perf_counter()
    page.wait_for_function(what, **options)
    return time.perf_counter() - start


def move(page: sync_api.Page, times: int) -> dict[str, float]:
    """Drag the map and turn the wheel some times; return the most seconds of each."""
    found = {"pan": 0.0, "zoom": 0.0}
    box = page.locator(".bk-Figure").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for number in range(times):
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 120 * (-1) ** number, y + 30, steps=5)
        page.mouse.up()
        found["pan"] = max(found["pan"], seconds(page, SETTLED))
        page.wait_for_timeout(1000)
        page.mouse.wheel(0, -240 if number % 2 else 240)
        page.wait_for_timeout(20)  # until the browser has turned it
        found["zoom"] = max(found["zoom"], seconds(page, SETTLED))
        page.wait_for_timeout(1000)
    return found


def click(page: sync_api.Page, places: NDArray[np.float32]) -> float:
    """Click on points of the map, shape (n, 2), and return the most seconds until a spectrum is drawn."""
    most = 0.0
    for place in places.tolist():
        before = page.evaluate(SPECTRUM)
        x, y = page.evaluate(PLACE, place)
        start = time.perf_counter()
        page.mouse.click(x, y)
        page.wait_for_function(f"before => ({SPECTRUM})() !== before", arg=before)
        most = max(most, time.perf_counter() - start)
        page.wait_for_timeout(1500)  # for its neighbors
    return most


def places_of(root: Path, times: int) -> NDArray[np.float32]:
    """Return places of spectra of the first plate on the map that the page opens with, none of them at its edge."""
    table = pipeline.open_run(root).results()
    chart = Map(Columns(table), read_map(table))
    view = chart.first_view()
    plate = chart.columns.number("plate") == FIRST_PLATE
    points = np.column_stack([chart.axis(view.x), chart.axis(view.y)])[plate]
    points = points[np.isfinite(points).all(axis=1)]
    inner = points[np.abs(points - np.median(points, axis=0)).sum(axis=1).argsort()][: len(points) // 2]
    return inner[:: len(inner) // times][:times]


def measure(root: Path, times: int) -> dict[str, float]:
    """Measure a survey; returns seconds by name, the points, and the memory in bytes."""
    start = time.perf_counter()
    with explorer(root, "--make-map"):
        found = {"map": time.perf_counter() - start}
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        start = time.perf_counter()
        with explorer(root) as (url, pid):
            page = opened(browser, url)
            found["open"] = time.perf_counter() - start
            page.wait_for_timeout(2000)
            found |= move(page, times)
            page.goto(url + f'&filters={{"plate":[{FIRST_PLATE},{FIRST_PLATE}]}}')  # of a chunk that has spectra
            page.get_by_text("filter:").wait_for()
            page.wait_for_function(SETTLED)
            found |= {"click": click(page, places_of(root, times)), "memory": peak(pid)}
        browser.close()
    return found | {"points": pipeline.open_run(root).plan.n_spectra}


def pictures(demo: Path, folder: Path) -> None:
    """Write the pictures of the pages: the demo's outliers, one of them open, on a light page and on a dark one."""
    folder.mkdir(parents=True, exist_ok=True)
    with explorer(demo) as (url, _), sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, dark in (("explorer", False), ("explorer-dark", True)):
            page = opened(browser, url, dark=dark)
            page.get_by_placeholder("id, or ra dec").fill("2488-54149-1")
            page.keyboard.press("Enter")
            page.wait_for_function(f"() => ({SPECTRUM})() !== ''")
            if not dark:
                page.get_by_text("Outliers", exact=True).click()
                page.get_by_text("list the 50 rarest").click()
            page.wait_for_timeout(3000)
            file = folder / f"{name}.png"
            page.screenshot(path=file)
            print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")
        browser.close()


def report(found: dict[str, float]) -> str:
    """Write what was measured in Markdown."""
    rows = [f"| {found['points']:,.0f} points, load {os.getloadavg()[0]:.1f} | limit | taken |", "|---|---|---|"]
    rows += [f"| {said} | {LIMITS[name]:g} s | {found[name]:.2f} s |" for name, said in NAMES.items()]
    rows.append(f"| memory of the server, at most | {MEMORY / 1e6:.0f} MB | {found['memory'] / 1e6:.0f} MB |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print the table, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--times", type=int, default=5, help="drags, turns and clicks, of which the slowest counts")
    parser.add_argument("--demo", type=Path, help="run of which pictures are taken")
    parser.add_argument("--images", type=Path, help="folder for the pictures")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    args = parser.parse_args()
    if (args.demo is None) != (args.images is None):
        parser.error("--demo and --images go together")
    found = measure(args.root, args.times)
    print(report(found))
    if args.write:
        write_section(RESULTS, "explorer", report(found), "explorer.py")
    if args.demo is not None:
        pictures(args.demo, args.images)
    ratios = [limit / found[name] for name, limit in LIMITS.items()]
    print(f"ratio: {min(*ratios, MEMORY / found['memory']):.2f}")


if __name__ == "__main__":
    main()
