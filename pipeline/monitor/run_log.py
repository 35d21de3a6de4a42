"""The log of a run: one JSON object per line, in ROOT, for people, programs and the report.

    <root>/logs/<UTC start>-<random>.jsonl
        {"event": "run", ...}       what was asked for, and how many chunks there are
        {"event": "done", ...}      one for each chunk: its summary, with seconds by phase, bytes, retries, the worker
        {"event": "failed", ...}    or the reason why not
        {"event": "note", ...}      what concerns the run as a whole, such as that it waits for workers
        {"event": "end", ...}       the totals; a log without it is of a run that goes on, or was killed

Logs are no part of the result: nothing but the report reads them, and they may be removed at any time.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline import storage

if TYPE_CHECKING:
    from pipeline.compute.stages.tasks import Outcome

logger = logging.getLogger(__name__)

KEEP_SECONDS = 60.0
"""Least time between two writes: object stores know no appending, so that the whole log is written each time."""

Line = dict[str, Any]

_CHUNK = frozenset({"stage", "model", "chunk"})
_KEYS = {
    "run": frozenset({"command", "total", "already"}),
    "done": _CHUNK | {"spectra"},
    "failed": _CHUNK | {"reason"},
    "note": frozenset({"text"}),
    "end": frozenset({"done", "failed"}),
}


_COUNTS = ("total", "already", "chunk", "spectra", "fetched", "requests", "retries")


class Journal:
    """Writes the log of one run, as its progress; a run with nothing to do writes none.

    A log that cannot be written is a warning, never the end of a run. asked: JSON-ready facts for the first line.
    """

    def __init__(self, root: str, asked: Mapping[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = _folder(root)
        self._asked = asked
        self._clock = clock
        self._started = self._kept = clock()
        self._url: str | None = None
        self._lines: list[str] = []
        self._done = self._failed = self._spectra = 0

    def start(self, total: int, done_before: int) -> None:
        """Begin the log, unless all is done."""
        if total == done_before:
            return
        self._started = self._clock()
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.jsonl"
        self._url = storage.join(self._folder, name)
        self._add("run", {**self._asked, "total": total, "already": done_before})
        self._keep()

    def advance(self, outcome: Outcome) -> None:
        """Add a chunk's line; keep the log if that was a while ago."""
        task = outcome.task
        of = {"stage": task.stage, "model": task.model, "chunk": task.shard.index}
        if outcome.record is None:
            self._failed += 1
            self._add("failed", {**of, "reason": outcome.reason})
        else:
            self._done += 1
            self._spectra += int(outcome.record["spectra"])
            # a task that was found done gives its marker
            left_out = ("checksums", "spectra_checksums", "packages", "fingerprint")
            self._add("done", {**of, **{key: value for key, value in outcome.record.items() if key not in left_out}})
        if self._clock() - self._kept >= KEEP_SECONDS:
            self._keep()

    def say(self, text: str) -> None:
        """Add a note, and keep it at once: the run may be in need of help."""
        self._add("note", {"text": text})
        self._keep()

    def close(self) -> None:
        """Add the totals, however the run ended, and keep the log."""
        if self._url is None:
            return
        seconds = round(self._clock() - self._started, 3)
        totals = {"done": self._done, "failed": self._failed, "spectra": self._spectra, "seconds": seconds}
        self._add("end", totals)
        self._keep()

    def _add(self, event: str, values: Line) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._lines.append(json.dumps({"event": event, "at": at, **values}, ensure_ascii=False))

    def _keep(self) -> None:
        if self._url is None:
            return
        self._kept = self._clock()
        try:
            storage.write_bytes(self._url, "".join(f"{line}\n" for line in self._lines).encode())
        except OSError as error:
            logger.warning("the run's log could not be written: %s", error)


@dataclass(frozen=True)
class Log:
    """What a run's log holds. unread: malformed lines. ended: False if the run is still going or was killed.

    asked: the first line. done, failed: the lines of chunks. Every line has "at", a datetime.
    """

    name: str
    asked: Line
    done: list[Line]
    failed: list[Line]
    last: Line
    ended: bool
    unread: int


def read_logs(root: str) -> list[Log]:
    """Read the logs of all runs in ROOT, oldest first; a file that does not begin as a log is none."""
    folder = _folder(root)
    names = [name for name in storage.list_names(folder) if name.endswith(".jsonl")]
    logs = (_parse(name, storage.read_bytes(storage.join(folder, name))) for name in names)
    return sorted((log for log in logs if log is not None), key=lambda log: log.asked["at"])


def _folder(root: str) -> str:
    return storage.join(root, "logs")


def _parse(name: str, content: bytes) -> Log | None:
    texts = content.decode(errors="replace").splitlines()
    lines = [line for line in map(_line, texts) if line is not None]
    if not lines or lines[0]["event"] != "run":
        return None
    done = [line for line in lines if line["event"] == "done"]
    failed = [line for line in lines if line["event"] == "failed"]
    return Log(name, lines[0], done, failed, lines[-1], lines[-1]["event"] == "end", len(texts) - len(lines))


def _line(text: str) -> Line | None:
    try:
        line = json.loads(text)
        line["at"] = datetime.fromisoformat(line["at"]).astimezone(UTC)
        complete = _KEYS[line["event"]] <= set(line)
    except (ValueError, TypeError, KeyError):
        return None
    return line if complete and _is_of_its_types(line) else None


def _is_of_its_types(line: Line) -> bool:
    """Tell whether the values that the report adds up are numbers; timings come with the chunk's time and place."""
    counts = all(isinstance(line.get(key, 0), int) and line.get(key, 0) >= 0 for key in _COUNTS)
    counts = counts and isinstance(line.get("stage", ""), str) and isinstance(line.get("model") or "", str)
    if line["event"] != "done" or "seconds" not in line:
        return counts
    seconds, texts = line["seconds"], (line.get("started"), line.get("worker"))
    timed = isinstance(seconds, dict) and all(isinstance(value, (int, float)) for value in seconds.values())
    return counts and timed and all(isinstance(text, str) for text in texts)
