"""Whether an archive answers at all, found out soon: a fetch would retry for minutes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

from pipeline import storage
from pipeline.archive.answers import BadBody, NoAnswer, classify, in_words
from pipeline.archive.source import Source, SourceError
from pipeline.errors import ConfigError

PATIENCE = 15.0
"""Seconds for an archive to answer."""

_ATTEMPT, _PAUSE = 6.0, 1.0  # seconds


def require_answer(
    key: str, source: Source, path: str, remedy: str, patience: float = PATIENCE, *, others: Sequence[str] = ()
) -> None:
    """Refuse an archive that does not answer for so many seconds.

    That it lacks the file, denies it, is busy, or sends nothing or a web page in its place is an answer: what comes of
    it is for the fetch to say. A folder on a disk always answers. others: further files, asked for in turn, as one
    alone may be what a server is silent about. key, remedy: for the message. Raises ConfigError.
    """
    if storage.local_path(source.url) is not None:
        return
    began = time.monotonic()
    for asked in itertools.cycle((path, *others)):
        attempt = max(0.1, min(_ATTEMPT, began + patience - time.monotonic()))
        try:
            replace(source, first=80, retries=0, timeout=attempt, cache=None).fetch([asked])
            return
        except SourceError as error:
            fault = error.__cause__ or error
            if _is_answer(fault):
                return
            if time.monotonic() + _PAUSE >= began + patience:
                silent = isinstance(fault, NoAnswer)
                words = "no answer" if silent else f"{in_words(fault, source.url)}, again and again"
                reason = f"{asked}: {words} for {patience:.0f} s"
                raise ConfigError(key, source.url, "an archive that answers", f"{reason}; {remedy}") from error
        time.sleep(_PAUSE)


def _is_answer(fault: BaseException) -> bool:
    """Tell an answer, whatever it says, from silence and broken connections."""
    if isinstance(fault, BadBody) or not classify(fault).may_pass or getattr(fault, "status", None) is not None:
        return True
    return any(getattr(each, "response", None) for each in (fault, fault.__cause__))  # of S3
