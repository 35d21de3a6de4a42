from __future__ import annotations

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.cli import main as cli
from pipeline.errors import ExitStatus
from pipeline.monitor import run_log as journal
from pipeline.monitor.report import duration, label, number, page, size, write_page
from pipeline.monitor.status import read_status
from pipeline.spectra.quality import MEANINGS, Quality
from pipeline.store import arrays as dataset
from pipeline.store import root as runs
from tests.running import break_file, make_root

pytestmark = pytest.mark.slow

VOID = {"meta", "br"}


class Outline(HTMLParser):
    """What a browser would see: elements that match, their attributes, the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def written(root: str, output: Path) -> Outline:
    write_page(root, str(output))
    html = output.read_text()
    outline = Outline(html)
    assert not {"script", "link", "img", "iframe", "object"} & outline.tags
    assert not re.search(r"url\(|@import", html), "nothing from elsewhere"
    assert not {name for name, _ in outline.attributes} & {"src", "href", "onload", "onclick"}
    outline.text = " ".join(outline.text.split())
    return outline


def test_a_run_that_has_not_begun(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    text = written(root, tmp_path / "report.html").text
    assert f"Nothing has been run yet. Next: spender-pipeline run {root}" in text
    assert plan.ingest_fingerprint in text
    assert plan.encode_fingerprint("random") in text
    assert (plan.models[0].sha256 or "no") in text


def test_a_finished_run_from_plan_ledger_and_logs_alone(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=117, shard=16)
    assert cli.main(["run", root, "--serial"]) == 0
    shutil.rmtree(dataset.spectra_url(root))
    shutil.rmtree(dataset.encodings_url(root, "random"))
    outline = written(root, tmp_path / "report.html")
    ingest, encode = read_status(root, plan)
    assert "8 of 8" in outline.text
    assert "polygon" in outline.tags, "the throughput is drawn"
    assert f"fiber_masked {MEANINGS[Quality.FIBER_MASKED]}" in outline.text
    assert ingest.quality["FIBER_MASKED"] == 9
    for name, count in encode.quality.items():
        assert re.search(rf"{name.lower()} .*? {count} {100 * count / 117:.1f} %", outline.text), name
    assert "No chunk has failed." in outline.text
    assert f":{os.getpid()}" in outline.text, "who did the slowest chunks"
    for phase in ("fetch", "normalize", "encode", "write"):
        assert re.search(rf"{phase} (\d+|<1) %", outline.text)
    (log,) = journal.read_logs(root)
    slowest = max(log.done, key=lambda line: sum(line["seconds"].values()))
    first = re.search(r"(ingest|encode random) \d{6}", outline.text.split("Slowest chunks")[1])
    assert first is not None
    assert first[0] == f"{label(slowest['stage'], slowest['model'])} {slowest['chunk']:06d}"


def test_failures_stand_with_their_reasons_and_mended_ones_are_counted(tmp_path: Path, mirror: Path) -> None:
    source = tmp_path / "sas"
    root, _ = make_root(tmp_path, mirror, source=str(source))
    shutil.copytree(mirror, source, ignore=shutil.ignore_patterns("eboss", "*dr17.fits"))
    file = next(source.rglob("spec-0266-51602-0003.fits"), None) or sorted(source.rglob("spec-0266*.fits"))[1]
    break_file(file)
    assert cli.main(["run", root, "--serial"]) == ExitStatus.SOME_FAILED
    outline = written(root, tmp_path / "report.html")
    assert "chunks have failed" in outline.text
    assert file.name in outline.text.split("Failures")[1]
    shutil.copyfile(next(mirror.rglob(file.name)), file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)
    assert cli.main(["run", root, "--serial"]) == 0
    text = written(root, tmp_path / "report.html").text
    assert "No chunk is failed now. 2 chunks failed in some run" in text
    assert "The time between runs is left out" in text


def test_a_run_without_logs_is_told_from_its_markers(tmp_path: Path, mirror: Path) -> None:
    root, _ = make_root(tmp_path, mirror)
    assert cli.main(["run", root, "--serial"]) == 0
    shutil.rmtree(Path(root) / "logs")
    outline = written(root, tmp_path / "report.html")
    assert "there are no logs of runs" in outline.text
    assert "3 of 3" in outline.text
    assert "No remarks." in outline.text


def test_markers_in_a_log_and_damaged_lines_are_no_obstacle(tmp_path: Path, mirror: Path) -> None:
    root, _ = make_root(tmp_path, mirror)
    assert cli.main(["ingest", root, "--serial"]) == 0
    (file,) = (Path(root) / "logs").iterdir()
    run, first, *_ = file.read_text().splitlines()
    marker = (
        '{"event": "done", "at": "2026-01-01T00:00:00Z", "stage": "ingest", "model": null, "chunk": 1, "spectra": 2}'
    )
    file.write_text(f"{run}\n{first}\n{marker}\nhalf a li")
    text = written(root, tmp_path / "report.html").text
    assert "1 line of the logs could not be read" in text
    assert "running, or killed" in text
    assert "Not all is done" in text


def test_text_from_outside_is_text(tmp_path: Path, mirror: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x>"
    root, plan = make_root(tmp_path, mirror, name="<b>run", source=f"https://host/{evil}")
    runs.ingest_ledger(root, plan).fail(1, {"reason": evil})
    writer = journal.Journal(root, {"command": evil})
    writer.start(total=3, done_before=0)
    writer.close()
    outline = written(root, tmp_path / "report.html")
    assert {"b", "img", "script"} & outline.tags == set()
    assert evil in outline.text


def test_a_page_can_be_written_to_any_url(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    write_page(root, "memory://pages/report.html")
    html = storage.read_bytes("memory://pages/report.html").decode()
    assert html.startswith("<!DOCTYPE html>")
    assert plan.ingest_fingerprint in page(root, plan, read_status(root, plan), [])


def test_the_command_names_the_file_and_refuses_what_is_no_run(
    tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = make_root(tmp_path, mirror)
    output = tmp_path / "report.html"
    assert cli.main(["report", root, "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert cli.main(["report", str(tmp_path / "nothing"), "--output", str(output)]) == ExitStatus.REFUSED
    assert "spender-pipeline plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written_as", "expected"),
    [
        (duration(0.0), "0 s"),
        (duration(0.0123), "12 ms"),
        (duration(2.34), "2.3 s"),
        (duration(59.97), "1 min"),
        (duration(61), "1 min 01 s"),
        (duration(3600), "1 h"),
        (duration(7290), "2 h 01 min"),
        (size(0), "0 B"),
        (size(56.9e6), "56.9 MB"),
        (size(2e12), "2 TB"),
        (number(4096), "4,096"),
        (number(31.24), "31.2"),
    ],
)
def test_numbers_read_well(written_as: str, expected: str) -> None:
    assert written_as == expected
