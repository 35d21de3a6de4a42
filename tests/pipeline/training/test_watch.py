from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios
from pathlib import Path

import pytest

from pipeline.training.output import Output
from pipeline.training.watch import DRAW_SECONDS, Watch
from spender_core.objective import Moment
from spender_core.settings import EpochReport

STEPS = 5


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "m.pt"))


def report(epoch: int, epochs: int = 3, loss: float = 2.0, terms: bool = False) -> EpochReport:
    extra = {"sdss similarity": 0.5} if terms else {}
    made = {"sdss fidelity": loss, **extra}
    return EpochReport(epoch, epochs, {"sdss": loss}, {"sdss": loss + 1}, made, made, lr=1e-3, seconds=1.5)


def train(watch: Watch, *epochs: int, begin: int = 0) -> None:
    for epoch in epochs:
        for step in range(begin, STEPS):
            watch.on_step(Moment(epoch, 3, step, STEPS))
        begin = 0
        watch.on_epoch(report(epoch, loss=2.0 - epoch / 2))


def test_a_log_gets_a_line_per_epoch_and_nothing_per_step(output: Output) -> None:
    stream = io.StringIO()
    train(Watch(output, stream), 0, 1)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "epoch 1 of 3: train sdss 2; valid sdss 3; rate 1.00e-03, 1.5 s",
        "epoch 2 of 3: train sdss 1.5; valid sdss 2.5; rate 1.00e-03, 1.5 s",
    ]


def test_terms_are_shown_where_there_are_several(output: Output) -> None:
    stream = io.StringIO()
    Watch(output, stream).on_epoch(report(0, terms=True))
    assert "train sdss 2 (fidelity 2, similarity 0.5);" in stream.getvalue()


def test_nothing_is_shown_without_a_stream(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(output, None)
    watch.say("text")
    train(watch, 0)
    watch.end()
    assert capsys.readouterr() == ("", "")
    assert len(output.read_log()) == 1


def test_every_epoch_is_logged_with_its_losses(output: Output) -> None:
    train(Watch(output, None), 0, 1)
    first, second = output.read_log()
    assert first == {
        "epoch": 1,
        "steps": STEPS,
        "rate": 1e-3,
        "train": {"sdss": 2.0},
        "valid": {"sdss": 3.0},
        "train_terms": {"sdss fidelity": 2.0},
        "valid_terms": {"sdss fidelity": 2.0},
        "seconds": 1.5,
    }
    assert (second["epoch"], second["steps"], second["train"]) == (2, 2 * STEPS, {"sdss": 1.5})


def test_a_run_that_goes_on_says_where_and_keeps_the_log(output: Output) -> None:
    train(Watch(output, None), 0, 1)
    stream = io.StringIO()
    # the second epoch had been logged, and was not saved
    train(Watch(output, stream), 1, 2, begin=3)
    assert stream.getvalue().startswith("resumed in epoch 2, after 3 of its 5 steps\n")
    assert [record["epoch"] for record in output.read_log()] == [1, 2, 3]


def test_the_figure_is_drawn_now_and_then_and_at_the_end(output: Output, tmp_path: Path) -> None:
    clock, figure = Clock(), tmp_path / "m.png"
    watch = Watch(output, None, clock)
    train(watch, 0)
    assert not figure.exists()
    clock.now += DRAW_SECONDS
    train(watch, 1)
    drawn = figure.read_bytes()
    train(watch, 2)
    assert figure.read_bytes() == drawn
    watch.end()
    assert figure.read_bytes() != drawn


def test_the_figure_at_the_end_shows_what_a_lost_log_does_not(output: Output, tmp_path: Path) -> None:
    history = {"train": [{"sdss": 3.0 - i} for i in range(3)], "valid": [{"sdss": 3.0} for _ in range(3)]}
    pictures = []
    for known in (None, history):
        watch = Watch(output, None)
        train(watch, 2)
        watch.end(known)
        pictures.append((tmp_path / "m.png").read_bytes())
        (tmp_path / "m.jsonl").unlink()
    assert pictures[0] != pictures[1]


def test_a_terminal_gets_a_bar_with_the_latest_losses(output: Output) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        watch = Watch(output, stream)
        watch.say("restframe")
        train(watch, 0)
        watch.say("stopped")
        watch.end()
        shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert f"{STEPS}/{3 * STEPS}" in shown
    assert "sdss 3" in shown
    assert "restframe" in shown
    assert "stopped" in shown
    assert "epoch 1 of" not in shown
