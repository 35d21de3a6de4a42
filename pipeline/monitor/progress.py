"""How a run shows what it is doing: a bar on a terminal, plain lines in a log, counters on a scheduler."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.compute.stages import metrics

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of text, and needs no advice
    from tqdm.auto import tqdm

if TYPE_CHECKING:
    from pipeline.compute.executor import Progress
    from pipeline.compute.stages.tasks import Outcome

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0
"""Least time between two lines of a log: a survey has thousands of chunks."""


def make_progress(stream: TextIO | None = None) -> Progress:
    """Return a bar if the stream (default stderr) is a terminal or a notebook's, else plain lines."""
    if stream is None and _in_notebook():
        return Bar(sys.stderr)
    stream = sys.stderr if stream is None else stream
    return Bar(stream) if stream.isatty() and _has_room(stream) else LogLines(stream)


def _in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook, where tqdm.auto draws its own kind of bar."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _has_room(stream: TextIO) -> bool:
    """Tell whether a terminal has a size: under some containers' it is 0 x 0, and tqdm would show nothing."""
    try:
        return 0 not in os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return True


class Bar:
    """Chunks done, with the rate and the time left; failures are written above the bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[None] | None = None

    def start(self, total: int, done_before: int) -> None:
        """Show the bar; chunks of earlier runs count as done but not in the rate."""
        self._bar = tqdm(total=total, initial=done_before, unit="chunk", file=self._stream, dynamic_ncols=True)

    def advance(self, outcome: Outcome) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        if outcome.reason is not None:
            self._bar.write(f"failed: {outcome.task}: {outcome.reason}", file=self._stream)
        self._bar.set_description(str(outcome.task), refresh=False)
        self._bar.update()

    def say(self, text: str) -> None:
        """Write a line above the bar, or where it will be."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class LogLines:
    """One line for each failure, and now and then one for how far the run is."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._total = self._ended = self._failed = self._spectra = 0
        self._started = self._shown = clock()

    def start(self, total: int, done_before: int) -> None:
        """Say what there is to do."""
        self._total, self._ended = total, done_before
        self._started = self._shown = self._clock()
        self.say(f"{total} chunks, {done_before} done before, {total - done_before} to do")

    def advance(self, outcome: Outcome) -> None:
        """Count a chunk; say so if it failed, was the last one, or the last line was a while ago."""
        self._ended += 1
        if outcome.record is None:
            self._failed += 1
            self.say(f"failed: {outcome.task}: {outcome.reason}")
        else:
            self._spectra += int(outcome.record["spectra"])
        if self._ended == self._total or self._clock() - self._shown >= LINE_SECONDS:
            self._shown = self._clock()
            seconds = max(self._shown - self._started, 1e-3)
            failed = f", {self._failed} failed" if self._failed else ""
            rate = f"{self._spectra / seconds:.1f} spectra/s"
            self.say(f"{outcome.task}: {self._ended} of {self._total} chunks{failed}, {rate}")

    def say(self, text: str) -> None:
        """Write a line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Say nothing more: the run's summary follows."""


class Tee:
    """Forwards each report to several objects, in order."""

    def __init__(self, *each: Progress) -> None:
        self._each = each

    def start(self, total: int, done_before: int) -> None:
        """Announce the number of chunks."""
        for each in self._each:
            each.start(total, done_before)

    def advance(self, outcome: Outcome) -> None:
        """Tell of a chunk that has ended."""
        for each in self._each:
            each.advance(outcome)

    def say(self, text: str) -> None:
        """Tell of the run as a whole."""
        for each in self._each:
            each.say(text)

    def close(self) -> None:
        """End the progress report."""
        for each in self._each:
            each.close()


class SchedulerCounters:
    """Has the scheduler count what ended, for its own /metrics: the client alone knows of tasks that died.

    there: runs a function in the scheduler's process, as `scheduler.on_scheduler` does.
    """

    def __init__(self, there: Callable[..., Any]) -> None:
        self._there: Callable[..., Any] | None = there

    def start(self, total: int, done_before: int) -> None:
        """Say how many chunks there are. What earlier runs did is done, but they counted it."""
        self._tell(metrics.begin, total, done_before)

    def advance(self, outcome: Outcome) -> None:
        """Count a chunk."""
        stage, model = outcome.task.stage, outcome.task.model
        if outcome.record is None:
            self._tell(metrics.fail, stage, model, metrics.SCHEDULER)
        else:
            self._tell(metrics.count, stage, model, outcome.record, metrics.SCHEDULER)

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the scheduler call a function; one that cannot is not asked again."""
        if self._there is None:
            return
        try:
            self._there(function, *arguments)
        except Exception as error:  # of whatever kind, such as that this package is not installed there
            logger.warning("the scheduler's counters were not updated: %s: %s", type(error).__name__, error)
            self._there = None

    def say(self, text: str) -> None:
        """Count nothing."""

    def close(self) -> None:
        """Leave the counters as they stand."""
