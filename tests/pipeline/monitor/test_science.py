"""The report's part on science: of what is encoded so far, in one file without network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import pipeline
from pipeline.monitor.science import corner, density, histogram, read_science, sky
from pipeline.store.root import read_plan
from tests.pipeline.conftest import MakeRun, model_config


def html_of(root: Path) -> str:
    return Path(pipeline.report(root, root.parent / "report.html")).read_text()


def test_it_shows_what_a_model_made(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    html = html_of(tmp_path / "run")
    part = html.split("Science: toy")[1]
    assert "18 spectra are encoded." in part
    for label in ("redshift", "chi2 per pixel", "latents against each other", "where the spectra lie on the sky"):
        assert f'aria-label="{label}"' in part
    assert re.search(r"GALAXY</td><td class=\"n\">6</td><td class=\"n\">33.3 %", part)
    assert "The worst fits" in part
    assert "26/300-51600-" in part
    assert not re.search(r"<(img|script|link)|url\(|https?://(?!data\.sdss)", html)


def test_a_run_that_goes_on_shows_its_done_chunks_alone(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(
        tmp_path / "run",
        models=[model_config("toy"), model_config("none")],
        without=[("encode toy", 1), ("encode toy", 4), *(("encode none", chunk) for chunk in range(5))],
    )
    root = str(tmp_path / "run")
    none, toy = read_science(root, read_plan(root))
    assert none.problem == "nothing is encoded yet"
    assert (toy.spectra, toy.shown) == (12, 12)
    assert [name for name, _, _ in toy.bits] == []
    html = html_of(tmp_path / "run")
    assert "12 spectra are encoded of 18." in html
    assert "Nothing to show: nothing is encoded yet." in html


def test_bits_are_counted_with_the_first_ids(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    import zarr

    store = zarr.open_group(tmp_path / "run" / "encodings" / "toy.zarr", mode="r+")
    quality = np.zeros(18, np.uint32)
    quality[[3, 5, 6, 7, 8, 9, 17]] = pipeline.open_run(tmp_path / "run").plan.unusable & 2
    store["quality"][:] = quality
    root = str(tmp_path / "run")
    (toy,) = read_science(root, read_plan(root))
    assert toy.bits == [("no_file", 7, [f"26/300-51600-{fiber}" for fiber in (4, 6, 7, 8, 9)])]
    assert sum(count for _, count, _ in toy.classes) == 11


def test_a_run_without_stores_says_why(tmp_path: Path, make_run: MakeRun) -> None:
    import shutil

    make_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "encodings")
    assert "there is no store" in html_of(tmp_path / "run")


def test_a_large_run_is_shown_by_some_of_its_chunks(tmp_path: Path, make_run: MakeRun, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.monitor.science.MOST", 8)
    monkeypatch.setattr("pipeline.results.tables.table.BLOCK", 4)
    make_run(tmp_path / "run")
    root = str(tmp_path / "run")
    (toy,) = read_science(root, read_plan(root))
    assert (toy.spectra, toy.shown) == (18, 8)


def test_pictures_of_nothing_are_none() -> None:
    assert histogram(np.array([np.nan]), "x") is None
    assert corner(np.full((3, 2), np.nan)) is None
    assert sky(np.array([np.nan]), np.array([0.0])) is None
    assert density(np.array([2.0]), np.array([2.0]), (0, 0, 1, 1), (2, 2)) == []


def test_a_histogram_counts_every_value() -> None:
    picture = histogram(np.array([0.0, 1, 1, 2, 900]), "x")
    assert picture is not None
    assert picture.paths[0][1].count("M") == 40
    assert [text for *_, text in picture.texts] == ["0", "8+", "x, median 1", "2 in the highest bin"]
