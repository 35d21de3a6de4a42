"""Ctrl-C and SIGTERM: never lost, and never in the middle of what must be whole."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_received: list[int] = []


class Terminated(BaseException):
    """SIGTERM: work ends as it does for Ctrl-C, worker processes included."""


@contextmanager
def answered() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt and SIGTERM raise Terminated while the context lasts (main thread only)."""
    _received.clear()
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        # A signal that arrived in a callback, where nothing can be raised: `check` raises it again.
        if not isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        with _handlers(_raise):
            yield
    finally:
        sys.unraisablehook = before
        _received.clear()


def check() -> None:
    """Raise for a signal whose exception was lost: Python drops one that is raised in a callback, as of the gc."""
    if _received:
        raise _exception(_received[0])


@contextmanager
def held() -> Iterator[None]:
    """Put signals off until the context is left."""
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    with _handlers(remember):
        yield
    if caught:
        signal.raise_signal(caught[0])


@contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Only note the first signal, for work that ends by itself when it is safe; the value tells whether one came.

    A second one raises at once. One that was noted raises when the context is left, unless something else does.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise _exception(number)

    with _handlers(note):
        yield lambda: bool(caught)
    if caught:
        signal.raise_signal(caught[0])
        raise _exception(caught[0])  # where it is ignored otherwise, as nohup does, work has ended all the same


@contextmanager
def _handlers(handler: signal._HANDLER) -> Iterator[None]:
    # Elsewhere Python allows no handlers, and none of these signals arrives there.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _raise(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise _exception(number)


def _exception(number: int) -> BaseException:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
