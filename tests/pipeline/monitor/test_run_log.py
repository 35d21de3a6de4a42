from __future__ import annotations

import json
import logging
import re
from datetime import UTC
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.cli import main as cli
from pipeline.compute import executor, job
from pipeline.compute.stages.tasks import Outcome, Task
from pipeline.monitor import run_log as journal
from pipeline.monitor.progress import Tee
from pipeline.monitor.run_log import KEEP_SECONDS, Journal, read_logs
from pipeline.planning.partition import Shard
from pipeline.store import root as runs
from tests.running import file_hashes, make_root

pytestmark = pytest.mark.slow

ASKED = {"command": "run", "version": "1", "stages": ["ingest"], "models": []}


class Clock:
    """A clock that stands still unless set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def outcome(index: int, reason: str | None = None) -> Outcome:
    task = Task("ingest", None, Shard(index, 4 * index, 4 * index + 4))
    return Outcome(
        task,
        None
        if reason
        else {"spectra": 4, "seconds": {"fetch": 1.5}, "started": "2026-01-01T00:00:00+00:00", "worker": "host:1"},
        reason,
    )


def texts(root: Path) -> list[str]:
    (file,) = (root / "logs").iterdir()
    return file.read_text().splitlines()


def test_a_log_has_a_line_for_the_run_for_every_chunk_and_for_the_end(tmp_path: Path) -> None:
    writer = Journal(str(tmp_path), ASKED)
    writer.start(total=4, done_before=1)
    writer.advance(outcome(1))
    writer.advance(outcome(2, "no answer"))
    writer.advance(outcome(3))
    writer.close()
    (file,) = (tmp_path / "logs").iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}\.jsonl", file.name)
    run, *chunks, end = [json.loads(line) for line in texts(tmp_path)]
    assert run.items() >= {"event": "run", "total": 4, "already": 1, **ASKED}.items()
    assert [(line["event"], line["stage"], line["model"], line["chunk"]) for line in chunks] == [
        ("done", "ingest", None, 1),
        ("failed", "ingest", None, 2),
        ("done", "ingest", None, 3),
    ]
    assert chunks[0]["seconds"] == {"fetch": 1.5}
    assert chunks[1]["reason"] == "no answer"
    assert end.items() >= {"event": "end", "done": 2, "failed": 1, "spectra": 8}.items()
    (log,) = read_logs(str(tmp_path))
    assert (len(log.done), len(log.failed), log.ended, log.unread) == (2, 1, True, 0)
    assert log.asked["at"].tzinfo is UTC


def test_a_run_with_nothing_to_do_writes_no_log(tmp_path: Path) -> None:
    writer = Journal(str(tmp_path), ASKED)
    writer.start(total=4, done_before=4)
    writer.close()
    assert not (tmp_path / "logs").exists()
    assert read_logs(str(tmp_path)) == []


def test_a_log_is_written_at_most_every_minute_and_at_the_end(tmp_path: Path) -> None:
    clock = Clock()
    writer = Journal(str(tmp_path), ASKED, clock)
    writer.start(total=3, done_before=0)
    assert len(texts(tmp_path)) == 1
    clock.now = KEEP_SECONDS / 2
    writer.advance(outcome(0))
    assert len(texts(tmp_path)) == 1
    clock.now = KEEP_SECONDS
    writer.advance(outcome(1))
    assert len(texts(tmp_path)) == 3
    assert not read_logs(str(tmp_path))[0].ended
    writer.close()
    assert len(texts(tmp_path)) == 4


def test_a_log_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").write_text("a file in the folder's place")
    writer = Journal(str(tmp_path), ASKED)
    with caplog.at_level(logging.WARNING, logger="pipeline.monitor.run_log"):
        writer.start(total=1, done_before=0)
        writer.advance(outcome(0))
        writer.close()
    assert "log could not be written" in caplog.text


DONE = {"event": "done", "at": "2026-01-01", "stage": "ingest", "model": None, "chunk": 0, "spectra": 2}


def test_lines_that_are_no_lines_are_counted_and_other_files_are_left_alone(tmp_path: Path) -> None:
    writer = Journal(str(tmp_path), ASKED)
    writer.start(total=2, done_before=0)
    writer.advance(outcome(0))
    (file,) = (tmp_path / "logs").iterdir()
    first = texts(tmp_path)[0]
    bad = [
        "[1, 2]",
        '{"event": "done", "at": "2026-01-01"}',
        '{"event": "run"',
        '{"event": "else", "at": "2026-01-01"}',
        *(
            json.dumps(DONE | change)
            for change in (
                {"spectra": "many"},
                {"seconds": 3},
                {"seconds": {"fetch": 1.0}},
                {"seconds": {"fetch": "long"}, "started": "2026-01-01", "worker": "w"},
            )
        ),
    ]
    file.write_text("\n".join([first, *bad]))
    (tmp_path / "logs" / "notes.txt").write_text("mine")
    (tmp_path / "logs" / "other.jsonl").write_text('{"a": 1}\n')
    (log,) = read_logs(str(tmp_path))
    assert (log.unread, log.done, log.ended) == (8, [], False)


class Interrupts:
    """Ends a run after so many chunks, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self._left = after

    def start(self, total: int, done_before: int) -> None: ...

    def advance(self, outcome: Outcome) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt

    def close(self) -> None: ...


def test_an_interrupted_run_leaves_its_log(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    progress = Tee(Journal(root, ASKED), Interrupts(after=2))
    with pytest.raises(KeyboardInterrupt):
        executor.run(job.pending(root, plan, ("ingest",), []), None, progress)
    (log,) = read_logs(root)
    assert [line["chunk"] for line in log.done] == [0, 1]
    assert log.ended
    assert log.asked["total"] == 3


def test_the_command_logs_what_markers_never_hold(tmp_path: Path, mirror: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    assert cli.main(["run", root, "--serial"]) == 0
    assert cli.main(["run", root, "--serial"]) == 0, "all done: no second log"
    (log,) = read_logs(root)
    assert (
        log.asked.items() >= {"command": "run", "stages": ["ingest", "encode", "density"], "models": ["random"]}.items()
    )
    assert len(log.done) == 6
    ledgers = {"ingest": runs.ingest_ledger(root, plan), "encode": runs.encode_ledger(root, plan, "random")}
    for line in log.done:
        marker = ledgers[line["stage"]].read(line["chunk"])
        assert {"spectra", "quality", "start"} <= set(marker) & set(line)
        assert not {"seconds", "worker", "started", "written", "fetched", "requests", "retries", "at"} & set(marker)
        assert {"seconds", "worker", "started", "written"} <= set(line)
        assert not {"checksums", "packages"} & set(line)


def test_logs_are_no_part_of_the_result(tmp_path: Path, mirror: Path) -> None:
    for name in ("first", "second"):
        root, _ = make_root(tmp_path, mirror, name=name)
        assert cli.main(["run", root, "--serial"]) == 0
        assert storage.list_names(storage.join(root, "logs"))
        assert cli.main(["verify", root]) == 0
    assert file_hashes(tmp_path / "first") == file_hashes(tmp_path / "second")


def test_no_log_tells_of_the_environment(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    root, _ = make_root(tmp_path, mirror)
    assert cli.main(["ingest", root, "--serial"]) == 0
    assert "do-not-tell" not in "".join(texts(Path(root)))
    assert journal.read_logs(root)[0].asked["stages"] == ["ingest"]
