from __future__ import annotations

import gc
import signal
import threading

import pytest

from pipeline import signals as interrupt


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, interrupt.Terminated)]
)
def test_a_signal_is_answered_by_its_exception(number: signal.Signals, error: type[BaseException]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(error), interrupt.answered():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_signal_is_held_until_the_end_of_what_must_be_whole() -> None:
    whole = False

    def work() -> None:
        nonlocal whole
        with interrupt.held():
            signal.raise_signal(signal.SIGINT)
            whole = True

    with interrupt.answered(), pytest.raises(KeyboardInterrupt):
        work()
    assert whole


def test_a_signal_that_is_noted_is_raised_when_work_has_ended_by_itself() -> None:
    steps = 0

    def work() -> None:
        nonlocal steps
        with interrupt.noted() as is_asked_to_stop:
            while not is_asked_to_stop():
                steps += 1
                if steps == 3:
                    signal.raise_signal(signal.SIGTERM)
            steps += 10

    with interrupt.answered(), pytest.raises(interrupt.Terminated):
        work()
    assert steps == 13


def test_a_second_signal_is_raised_at_once() -> None:
    def work() -> None:
        with interrupt.noted():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second signal was lost")

    with interrupt.answered(), pytest.raises(KeyboardInterrupt):
        work()


def test_an_error_is_not_hidden_by_a_signal_that_was_noted() -> None:
    def work() -> None:
        with interrupt.noted():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("broken")

    with interrupt.answered(), pytest.raises(ValueError, match="broken"):
        work()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_that_a_callback_swallowed_is_raised_at_the_next_check() -> None:
    def callback(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    with interrupt.answered():
        interrupt.check()
        gc.callbacks.append(callback)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(callback)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    with interrupt.answered():
        interrupt.check()


def test_other_threads_are_left_alone() -> None:
    done: list[bool] = []

    def work() -> None:
        with interrupt.answered(), interrupt.held():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_in_other_threads_nothing_is_noted() -> None:
    done: list[bool] = []

    def work() -> None:
        with interrupt.noted() as is_asked_to_stop:
            done.append(is_asked_to_stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [False]


def test_a_signal_in_a_finalizer_is_raised_later_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Fragile:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def use() -> None:
        with interrupt.answered():
            fragile = Fragile()
            del fragile  # the exception of the signal is lost in here
            interrupt.check()

    with pytest.raises(KeyboardInterrupt):
        use()
    assert capsys.readouterr().err == ""
