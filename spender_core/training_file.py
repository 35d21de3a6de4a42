"""The file of a training run: a checkpoint that `load_model` reads, and the state that the run goes on from."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

FORMAT = 2
"""Version of the entry `training`; 1, of the first releases, had no such number."""


class TrainingFile(Protocol):
    """Where a training run is kept: one file, read and written as a whole. str() of it names it in messages."""

    def exists(self) -> bool:
        """Whether the file is there."""

    def read(self) -> bytes:
        """Return the file's bytes."""

    def write(self, data: bytes) -> None:
        """Replace the file by these bytes, whole or not at all."""


class LocalFile:
    """A file on a local disk; its folder must exist."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        """Whether the file is there."""
        return self._path.exists()

    def read(self) -> bytes:
        """Return the file's bytes."""
        return self._path.read_bytes()

    def write(self, data: bytes) -> None:
        """Replace the file by these bytes; a process that is killed meanwhile leaves the earlier file."""
        temporary = self._path.with_name(self._path.name + ".part")
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self._path)


@dataclass
class Progress:
    """How far a training run has come, and what it needs to go on from there as if nothing had happened.

    epoch: the one under way, from 0; step: steps of it that are done. weights: state dicts of the models as they are
    trained, None where the checkpoint's own entry `model` has them. optimizer: its state. rng: random states of torch,
    by device. totals: sums of the epoch under way, by instrument. mean: the running mean's state. best: lowest
    validation loss so far, the epoch it is of, and the weights that gave it, for early stops. identity: what must be
    the same for the run to go on. The learning rate follows from epoch and step.
    """

    identity: dict[str, Any]
    epoch: int = 0
    step: int = 0
    optimizer: dict[str, Any] = field(default_factory=dict)
    rng: dict[str, Tensor] = field(default_factory=dict)
    totals: dict[str, dict[str, float]] = field(default_factory=dict)
    weights: list[dict[str, Tensor]] | None = None
    mean: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    version: int = FORMAT


def pack(checkpoint: dict[str, Any], progress: Progress) -> bytes:
    """Bytes of a checkpoint with its progress; all tensors are stored for the CPU, nothing but plain values else."""
    training = {entry.name: getattr(progress, entry.name) for entry in fields(progress)}
    stream = io.BytesIO()
    torch.save(_on_cpu({**checkpoint, "training": training}), stream)
    return stream.getvalue()


def unpack(data: bytes, name: str) -> tuple[dict[str, Any], Progress]:
    """Read back what `pack` made. ValueError for other bytes, and for a run of an earlier release."""
    try:
        checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        training = checkpoint.pop("training")
        version = training.get("version", 1)
    except Exception as error:  # torch raises anything on bytes that are not its own
        raise ValueError(f"{name} is not a checkpoint of a training run: give another file") from error
    if version != FORMAT:
        raise ValueError(
            f"{name} was trained by another release (format {version}, expected {FORMAT}) and cannot be gone on with:"
            " give another file, and begin from the weights of this one"
        )
    return checkpoint, Progress(**training)


def _on_cpu(value: Any) -> Any:  # noqa: ANN401 - nested entries of a checkpoint
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(entry) for entry in value)
    return value
