from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import retry
from pipeline.retry import retried


class Action:
    """Raises so many times, then returns; counts its calls."""

    def __init__(self, *faults: BaseException) -> None:
        self.faults = list(faults)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        return f"done at call {self.calls}"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the seconds of every pause; nobody waits for them."""
    seconds: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", seconds.append)
    return seconds


def attempt(
    action: Action,
    attempts: int = 3,
    may_pass: Callable[[Exception], bool] = lambda error: True,
    seen: list[tuple[Exception, int]] | None = None,
) -> str:
    failed = [] if seen is None else seen
    return retried(
        action, attempts=attempts, may_pass=may_pass, failed=lambda error, number: failed.append((error, number))
    )


def test_what_succeeds_at_once_is_done_once_without_a_pause(pauses: list[float]) -> None:
    action = Action()
    assert attempt(action) == "done at call 1"
    assert (action.calls, pauses) == (1, [])


def test_what_passes_is_tried_until_it_succeeds(pauses: list[float]) -> None:
    action = Action(OSError("first"), OSError("second"))
    assert attempt(action, attempts=5) == "done at call 3"
    assert pauses == [1.0, 2.0]


def test_the_last_attempts_error_is_raised(pauses: list[float]) -> None:
    action = Action(OSError("first"), OSError("second"), OSError("third"), OSError("fourth"))
    with pytest.raises(OSError, match="third"):
        attempt(action, attempts=3)
    assert (action.calls, pauses) == (3, [1.0, 2.0])


def test_each_fault_but_the_last_is_reported_with_its_number(pauses: list[float]) -> None:
    seen: list[tuple[Exception, int]] = []
    with pytest.raises(OSError, match="c"):
        attempt(Action(OSError("a"), OSError("b"), OSError("c")), seen=seen)
    assert [(str(error), number) for error, number in seen] == [("a", 1), ("b", 2)]


def test_a_fault_is_reported_before_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: order.append(f"pause {seconds:.0f}"))
    retried(
        Action(OSError()),
        attempts=2,
        may_pass=lambda error: True,
        failed=lambda error, number: order.append(f"report {number}"),
    )
    assert order == ["report 1", "pause 1"]


def test_a_permanent_fault_is_raised_at_once_and_not_reported(pauses: list[float]) -> None:
    seen: list[tuple[Exception, int]] = []
    action = Action(ValueError("wrong setting"))
    with pytest.raises(ValueError, match="wrong setting"):
        attempt(action, may_pass=lambda error: isinstance(error, OSError), seen=seen)
    assert (action.calls, pauses, seen) == (1, [], [])


def test_a_permanent_fault_after_one_that_may_pass_ends_the_attempts(pauses: list[float]) -> None:
    action = Action(OSError("no answer"), ValueError("wrong setting"))
    with pytest.raises(ValueError, match="wrong setting"):
        attempt(action, attempts=9, may_pass=lambda error: isinstance(error, OSError))
    assert (action.calls, pauses) == (2, [1.0])


def test_one_attempt_never_pauses(pauses: list[float]) -> None:
    action = Action(OSError("no answer"))
    with pytest.raises(OSError, match="no answer"):
        attempt(action, attempts=1)
    assert (action.calls, pauses) == (1, [])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_never_tried_again(pauses: list[float], error: type[BaseException]) -> None:
    action = Action(error())
    with pytest.raises(error):
        attempt(action)
    assert (action.calls, pauses) == (1, [])


@given(attempts=st.integers(1, 12), faults=st.integers(0, 12))
def test_pauses_double_and_attempts_are_never_more_than_allowed(attempts: int, faults: int) -> None:
    pauses: list[float] = []
    action = Action(*(OSError(f"fault {number}") for number in range(1, faults + 1)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(retry.time, "sleep", pauses.append)
        if faults < attempts:
            assert attempt(action, attempts) == f"done at call {faults + 1}"
        else:
            with pytest.raises(OSError, match=rf"fault {attempts}\Z"):
                attempt(action, attempts)
    assert action.calls == min(faults + 1, attempts)
    assert pauses == [2.0**k for k in range(action.calls - 1)]
