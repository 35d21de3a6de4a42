"""Where a training run is written: its checkpoint, and beside it a log and a figure, at any URL that fsspec writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError, redacted, require_place


@dataclass(frozen=True)
class Output:
    """The checkpoint of a training run: what `spender_core.training.fit` writes and goes on from.

    url: of the file, a path or any fsspec URL. Raises ConfigError for a URL that holds more than a place, and for a
    folder.
    """

    url: str

    def __post_init__(self) -> None:
        require_place("--output", self.url, with_query=False)
        local = storage.local_path(self.url)
        _, path = ("", self.url) if local is not None else storage.filesystem(self.url)
        if (local is not None and local.is_dir()) or self.url.endswith("/") or (local is None and "/" not in path):
            raise ConfigError("--output", self.url, "a file, not a folder", "add a name, such as model.pt")
        if self.url.lower().endswith((".jsonl", ".png")):
            raise ConfigError("--output", self.url, "another ending, such as model.pt", "log and figure have this one")

    def __str__(self) -> str:
        return redacted(self.url)

    @property
    def log(self) -> str:
        """URL of the log: one JSON object per epoch and line."""
        return f"{self._stem}.jsonl"

    @property
    def curve(self) -> str:
        """URL of the figure of the learning curve."""
        return f"{self._stem}.png"

    @property
    def _stem(self) -> str:
        return re.sub(r"(?<=[^/])\.(pt|pth)\Z", "", self.url)

    def require_writable(self) -> None:
        """Raise ConfigError for a place that cannot be written."""
        folder = self.url.rpartition("/")[0]
        local = storage.local_path(self.url)
        storage.require_writable("--output", folder if local is None else str(local.absolute().parent))

    def exists(self) -> bool:
        """Whether there is a checkpoint."""
        return storage.exists(self.url)

    def read(self) -> bytes:
        """Return the bytes of the checkpoint."""
        return storage.read_bytes(self.url)

    def write(self, data: bytes) -> None:
        """Replace the checkpoint, whole or not at all."""
        storage.write_bytes(self.url, data)

    def read_log(self) -> list[dict[str, Any]]:
        """Return the records of the log, none where there is no log; a line that is damaged is left out."""
        try:
            lines = storage.read_bytes(self.log).decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        return [record for record in map(_record, lines) if record is not None]

    def write_log(self, records: Sequence[dict[str, Any]]) -> None:
        """Write the log, whole: object stores append nothing, and a few hundred lines are small."""
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        storage.write_bytes(self.log, text.encode())


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("epoch"), int) else None
