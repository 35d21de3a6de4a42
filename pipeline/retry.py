"""Retry after transient faults, for catalogs and tasks. Archives have a loop that also follows a server's pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def retried(
    action: Callable[[], T],
    *,
    attempts: int,
    may_pass: Callable[[Exception], bool],
    failed: Callable[[Exception, int], None],
) -> T:
    """Do something, up to so many times, with pauses of 1, 2, 4, ... seconds between.

    may_pass: whether trying again may help. failed: is called with each fault that is not the last, and its number.
    Raises what the last attempt raised.
    """
    for number in range(1, attempts):
        try:
            return action()
        except Exception as error:
            if not may_pass(error):
                raise
            failed(error, number)
            time.sleep(2.0 ** (number - 1))
    return action()
