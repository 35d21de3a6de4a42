"""What is shown of a training run, and the log and the figure that it leaves beside its checkpoint."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from pipeline import storage
from pipeline.training.curve import draw
from pipeline.training.output import Output
from spender_core.objective import Moment
from spender_core.settings import EpochReport, History

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of text, and needs no advice
    from tqdm.auto import tqdm

DRAW_SECONDS = 60.0
"""Least time between two figures of a run that is under way."""


class Watch:
    """Reports a training run: a bar on a terminal, else a line per epoch; log and figure beside the checkpoint.

    stream: where to show it, None for nowhere. `on_step` and `on_epoch` are what `fit` calls.
    """

    def __init__(self, output: Output, stream: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._output, self._stream, self._clock = output, stream, clock
        self._is_terminal = stream is not None and stream.isatty() and _has_room(stream)
        self._bar: tqdm[None] | None = None
        self._records: list[dict[str, Any]] | None = None
        self._begun = False
        self._steps = 0
        self._drawn = clock()

    def on_step(self, moment: Moment) -> None:
        """Count a step that is done."""
        self._steps = moment.steps
        if not self._begun:
            self._begun = True
            done = moment.epoch * moment.steps + moment.step
            if done:
                self.say(f"resumed in epoch {moment.epoch + 1}, after {moment.step} of its {moment.steps} steps")
            if self._is_terminal:
                total = moment.epochs * moment.steps
                self._bar = tqdm(total=total, initial=done, unit="step", file=self._stream, dynamic_ncols=True)
        if self._bar is not None:
            self._bar.update()

    def on_epoch(self, report: EpochReport) -> None:
        """Show an epoch that is over, and add it to the log; now and then, draw the figure."""
        record = {
            "epoch": report.epoch + 1,
            "steps": (report.epoch + 1) * self._steps,
            "rate": report.lr,
            "train": report.train,
            "valid": report.valid,
            "train_terms": report.train_terms,
            "valid_terms": report.valid_terms,
            "seconds": round(report.seconds, 3),
        }
        if self._records is None:
            self._records = self._output.read_log()
        # what an earlier process logged and did not save is done again
        self._records = [each for each in self._records if each["epoch"] < record["epoch"]] + [record]
        self._output.write_log(self._records)
        if self._bar is not None:
            self._bar.set_postfix_str(_losses(report.valid or report.train))
        else:
            seconds = f"rate {report.lr:.2e}, {report.seconds:.1f} s"
            self.say(f"epoch {report.epoch + 1} of {report.epochs}: {_summary(record)}; {seconds}")
        if self._clock() - self._drawn >= DRAW_SECONDS:
            self._draw(self._records)

    def say(self, text: str) -> None:
        """Show a line, above the bar if there is one."""
        if self._stream is None:
            return
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def end(self, history: History | None = None) -> None:
        """Draw the figure and leave the bar as it is. history: of all epochs, which an earlier log may lack."""
        if self._bar is not None:
            self._bar.close()
        records = self._records or []
        if history is not None and len(records) < len(history["train"]):
            records = _records(history)
        if records:
            self._draw(records)

    def _draw(self, records: list[dict[str, Any]]) -> None:
        self._drawn = self._clock()
        storage.write_bytes(self._output.curve, draw(records))


def _has_room(stream: TextIO) -> bool:
    """Tell whether a terminal has a size: under some containers' it is 0 x 0, and tqdm would show nothing."""
    try:
        return 0 not in os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return True


def _records(history: History) -> list[dict[str, Any]]:
    """Return a checkpoint's history as records of a log, without times and rates."""
    epochs = range(len(history["train"]))
    return [{"epoch": i + 1, **{key: values[i] for key, values in history.items() if i < len(values)}} for i in epochs]


def _summary(record: Mapping[str, Any]) -> str:
    """Return the losses of both splits, each with its terms where it has several."""
    parts = []
    for split in ("train", "valid"):
        losses = []
        for name, loss in record[split].items():
            start = f"{name} "
            every = record[f"{split}_terms"]
            terms = {key.removeprefix(start): value for key, value in every.items() if key.startswith(start)}
            losses.append(f"{name} {loss:.4g}" + (f" ({_losses(terms)})" if len(terms) > 1 else ""))
        if losses:
            parts.append(f"{split} {', '.join(losses)}")
    return "; ".join(parts)


def _losses(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
