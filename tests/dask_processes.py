"""Real Dask schedulers and workers for tests: processes of their own, stopped by their pid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STARTED = 60.0  # seconds


@contextmanager
def process(folder: Path, shown: tuple[str, ...], *arguments: str, **variables: str) -> Iterator[list[str]]:
    """Run a part of Dask until the context ends; gives what its first log lines tell."""
    log = folder / f"{arguments[0]}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "dask", *arguments]
        running = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, env={**os.environ, **variables})
    try:
        deadline = time.monotonic() + STARTED
        while True:
            found = [re.search(pattern, log.read_text()) for pattern in shown]
            if all(found):
                yield [match[1] for match in found if match]
                return
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    finally:
        running.terminate()
        running.wait(30)
