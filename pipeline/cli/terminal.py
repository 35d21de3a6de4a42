"""What commands write, without control characters: texts from catalogs, servers and files of others end there, too."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from pipeline.errors import printable


class _Printable:
    """A text stream that writes control characters as escapes; all else is the stream's own."""

    def __init__(self, stream: TextIO, keep: str = "\n") -> None:
        self._stream, self._keep = stream, keep

    def write(self, text: str) -> int:
        """Write text; the characters `keep` are passed on as they are."""
        self._stream.write(self._keep.join(map(printable, text.split(self._keep))))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines of text."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self._stream, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """Let no control character reach stdout or stderr, but for the carriage return of a progress bar."""
    out, err = _Printable(sys.stdout), _Printable(sys.stderr, keep="\r")
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        yield
