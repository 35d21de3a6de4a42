"""Targets -> files of an archive or a mirror of it, fetched concurrently, transient faults retried."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd
from fsspec.asyn import AsyncFileSystem

from pipeline import storage
from pipeline.config import ConfigError

MAX_BACKOFF = 20.0
"""Seconds; the longest wait between two attempts."""

# Files fetched or under way per file in flight: one slow file must not leave the others' connections idle.
_AHEAD = 4
_PERMANENT_STATUS = frozenset({400, 401, 402, 403, 405, 406, 410, 411, 414, 416, 451, 501, 505})
_PERMANENT_ERRORS = (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_SECRETS = re.compile(r"//[^/@\s]*@|\?[^\s'\"]*")


class SourceError(RuntimeError):
    """A file that could not be fetched although it may exist: a fault of the source or of the way to it."""


def spec_lite_path(run2d: str, plate: int, mjd: int, fiberid: int) -> str:
    """Return where DR9-DR17 keep a spec-lite file, relative to the release root.

    Numeric reductions (26, 103, 104) are of SDSS-I/II, others (v5_13_2) of BOSS and eBOSS.
    """
    survey = "sdss" if run2d.isdecimal() else "eboss"
    name = f"spec-{plate:04d}-{mjd}-{fiberid:04d}.fits"
    return f"{survey}/spectro/redux/{run2d}/spectra/lite/{plate:04d}/{name}"


_LAYOUTS = {"spec-lite": spec_lite_path}


@dataclass(frozen=True)
class Source:
    """An archive's release root, and how to fetch files from it.

    url: the folder that holds `sdss/` and `eboss/`, any fsspec URL. layout: how files are arranged there.
    concurrency: files in flight at once. retries: further attempts after a transient fault, with exponential
    waits that start at about `backoff` seconds. timeout: seconds for one attempt over the network.
    """

    url: str
    layout: str = "spec-lite"
    concurrency: int = 8
    retries: int = 4
    timeout: float = 60.0
    backoff: float = 0.5

    def __post_init__(self) -> None:
        if self.layout not in _LAYOUTS:
            raise ConfigError("layout", self.layout, f"one of {', '.join(_LAYOUTS)}")
        if self.concurrency < 1:
            raise ConfigError("concurrency", self.concurrency, "a whole number of at least 1")
        if self.retries < 0:
            raise ConfigError("retries", self.retries, "a whole number of at least 0")

    def path(self, row: Mapping[str, Any]) -> str:
        """Return a target's path relative to `url`. row: gives run2d, plate, mjd, fiberid by name."""
        return _LAYOUTS[self.layout](str(row["run2d"]), int(row["plate"]), int(row["mjd"]), int(row["fiberid"]))

    def paths(self, targets: pd.DataFrame) -> list[str]:
        """Return the paths of all rows of a targets table, in order."""
        columns = (targets[name].tolist() for name in ("run2d", "plate", "mjd", "fiberid"))
        return [_LAYOUTS[self.layout](*ids) for ids in zip(*columns, strict=True)]

    def fetch(self, paths: Sequence[str]) -> list[bytes | FileNotFoundError]:
        """Fetch files, in the order of `paths`; for one that the source does not have, its FileNotFoundError.

        Raises SourceError, naming the file, when one cannot be fetched after all retries or access is denied; the
        others of the call are then given up.
        """
        return list(self.stream(paths))

    def stream(self, paths: Iterable[str]) -> Iterator[bytes | FileNotFoundError]:
        """Fetch files as `fetch` does, one by one: what waits in memory is bounded by `concurrency`, not by `paths`."""
        waiting: deque[Future[bytes | FileNotFoundError]] = deque()
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            for path in paths:
                waiting.append(pool.submit(self._fetch_one, path))
                if len(waiting) > _AHEAD * self.concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def require_some(self, paths: Sequence[str]) -> None:
        """Refuse a source that has none of these files: a wrong root would make every target one without a file.

        Raises ConfigError, also where the source cannot be reached.
        """
        expected = "a release root, the folder that holds sdss/ and eboss/"
        url = _SECRETS.sub(_redact, self.url)
        try:
            if any(isinstance(content, bytes) for content in self.stream(paths)):
                return
        except SourceError as error:
            raise ConfigError("source", url, expected, str(error)) from error
        raise ConfigError("source", url, expected, f"it has none of {len(paths)} files tried, such as {paths[0]}")

    def _fetch_one(self, path: str) -> bytes | FileNotFoundError:
        for attempt in itertools.count():
            try:
                return self._read(path)
            except FileNotFoundError:
                return FileNotFoundError(path)
            except Exception as error:
                # every backend raises classes of its own, and no fault of theirs may pass for a missing file
                if attempt == self.retries or _is_permanent(error):
                    reason = f"{type(error).__name__}: {_SECRETS.sub(_redact, str(error))}"
                    raise SourceError(f"{path}: {reason} (attempt {attempt + 1})") from error
            wait = min(self.backoff * 2**attempt, MAX_BACKOFF)
            time.sleep(wait * random.uniform(0.5, 1.0))
        raise AssertionError("itertools.count() ended")

    def _read(self, path: str) -> bytes:
        fs, inner = storage.filesystem(storage.join(self.url, path))
        if isinstance(fs, AsyncFileSystem):
            # fsspec's bridge to its event loop takes the limit; without one a dead connection holds the chunk
            return bytes(fs.cat_file(inner, timeout=self.timeout))
        return bytes(fs.cat_file(inner))


def _is_permanent(error: Exception) -> bool:
    return isinstance(error, _PERMANENT_ERRORS) or getattr(error, "status", None) in _PERMANENT_STATUS


def _redact(match: re.Match[str]) -> str:
    """Keep credentials and signatures in URLs out of messages."""
    return "//***@" if match[0].startswith("//") else "?***"
