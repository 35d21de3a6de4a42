"""Batches of spectra to train on: from arrays or Zarr arrays, and several samples as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Split = Literal["train", "valid"]
VALID_FRACTION = 0.15
SPLIT_RULE = f"kept for validation: blake2b (8 bytes) of the id as int128, little-endian, below {VALID_FRACTION} 2^64"
"""How `validation` decides, in words for checkpoints."""

_PART_BIT = 40  # rows of a part of `Pooled` are below 2**40


@dataclass(frozen=True)
class Batch:
    """Spectra to learn from.

    spec, w: shape (N, L), normalized spectra and inverse variances; z: shape (N,), redshifts. rows: shape (N,), int64,
    the row of each spectrum in its sample, from which augmentation draws. truth: shape (N, R), restframe spectra
    without noise, where they are known, as for mock spectra; s: shape (N, S), their latents.
    """

    spec: Tensor
    w: Tensor
    z: Tensor
    rows: Tensor | None = None
    truth: Tensor | None = None
    s: Tensor | None = None

    def __len__(self) -> int:
        return len(self.spec)

    def __getitem__(self, part: slice) -> Batch:
        """Return the spectra of a slice."""
        return self._each(lambda value: value[part])

    def to(self, device: torch.device | str) -> Batch:
        """Return the same spectra on a device."""
        return self._each(lambda value: value.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: list[Any] = [None if value is None else change(value) for value in self.tensors()]
        return Batch(*changed)

    def tensors(self) -> list[Tensor | None]:
        """Return all that it holds, in the order of its arguments."""
        return [getattr(self, field.name) for field in fields(self)]


class Batches(Protocol):
    """Where batches come from: arrays, a Zarr store, or a generator of mock spectra.

    identity: what the batches are made of; a training run goes on only with the same.
    """

    @property
    def identity(self) -> str:
        """See the class."""

    def steps(self, split: Split, batch_size: int) -> int:
        """Count the batches of an epoch."""

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `begin` on; the same epoch has the same batches each time."""


def validation(ids: NDArray[np.integer[Any]], fraction: float = VALID_FRACTION) -> NDArray[np.bool_]:
    """Mark the spectra kept for validation, by a hash of their ids: shape (N,) -> bool, shape (N,).

    A spectrum stays on its side whatever else is in the sample, on any machine.
    """
    bound = int(fraction * 2**64)
    digests = (hashlib.blake2b(int(i).to_bytes(16, "little", signed=True), digest_size=8) for i in ids)
    return np.fromiter((int.from_bytes(d.digest(), "little") < bound for d in digests), bool, len(ids))


class SpectrumDataset:
    """Spectra held in arrays, or in Zarr arrays that are read block by block.

    flux, ivar: shape (N, L), anything that slices to float arrays. z: shape (N,). ids: shape (N,), integers.
    usable: shape (N,), bool, spectra to learn from, default all. Blocks of `block` consecutive rows are visited in
    random order and shuffled within, so that a sharded store is read in whole chunks; at most three blocks are in
    memory, the next of which is read in the background. Only the last batch of an epoch may be short. ValueError for
    arrays of different lengths.
    """

    def __init__(
        self,
        flux: Any,  # noqa: ANN401 - numpy, torch or zarr array: all that is asked is slicing
        ivar: Any,  # noqa: ANN401
        z: NDArray[np.floating[Any]],
        ids: NDArray[np.integer[Any]],
        usable: NDArray[np.bool_] | None = None,
        block: int = 4096,
        seed: int = 0,
    ) -> None:
        n = len(z)
        if not flux.shape[0] == ivar.shape[0] == len(ids) == n:
            raise ValueError(
                f"flux, ivar, z and ids have {flux.shape[0]}, {ivar.shape[0]}, {n} and {len(ids)} rows,"
                " expected the same number"
            )
        self._flux, self._ivar, self._z = flux, ivar, np.asarray(z, np.float32)
        self._block, self._seed = block, seed
        kept = np.ones(n, bool) if usable is None else np.asarray(usable, bool)
        valid = validation(ids)
        self._rows: dict[Split, NDArray[np.intp]] = {
            "train": np.flatnonzero(kept & ~valid),
            "valid": np.flatnonzero(kept & valid),
        }
        made_of = (np.asarray(ids, np.uint64), self._z, kept, np.array([block, seed]))
        self._identity = hashlib.sha256(b"".join(part.tobytes() for part in made_of)).hexdigest()

    @property
    def identity(self) -> str:
        """Hash of ids, redshifts, the selection, and what decides the order, 64 hex digits."""
        return self._identity

    def steps(self, split: Split, batch_size: int) -> int:
        """Count the batches of an epoch."""
        return -(-len(self._rows[split]) // batch_size)

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `begin` on: shuffled for training, in order for validation."""
        order = self._order(split, epoch)[begin * batch_size :]
        waiting: list[Batch] = []
        for spectra in self._read(self._by_block(order)):
            taken = 0
            while taken < len(spectra):
                more = batch_size - sum(map(len, waiting))
                waiting.append(spectra[taken : taken + more])
                taken += more
                if sum(map(len, waiting)) == batch_size:
                    yield _joined(waiting)
                    waiting = []
        if waiting:
            yield _joined(waiting)

    def _order(self, split: Split, epoch: int) -> NDArray[np.intp]:
        """Rows of an epoch as they are visited, whole blocks after each other."""
        rows = self._rows[split]
        blocks = self._by_block(rows)
        if split == "valid" or not blocks:
            return rows
        rng = np.random.default_rng((self._seed, epoch))
        return np.concatenate([rng.permutation(blocks[i]) for i in rng.permutation(len(blocks)).tolist()])

    def _by_block(self, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Split rows where the next ones are of another block."""
        return np.split(rows, np.flatnonzero(np.diff(rows // self._block)) + 1) if len(rows) else []

    def _read(self, runs: Sequence[NDArray[np.intp]]) -> Iterator[Batch]:
        """Yield the spectra of each run of rows, all of one block; the next run is read meanwhile."""
        with ThreadPoolExecutor(1, "spender-read") as pool:
            ahead: Future[Batch] | None = None
            for i in range(len(runs)):
                spectra = (ahead or pool.submit(self._spectra, runs[i])).result()
                ahead = pool.submit(self._spectra, runs[i + 1]) if i + 1 < len(runs) else None
                yield spectra

    def _spectra(self, rows: NDArray[np.intp]) -> Batch:
        start, stop = int(rows.min()), int(rows.max()) + 1
        flux, ivar = (np.asarray(array[start:stop], np.float32)[rows - start] for array in (self._flux, self._ivar))
        arrays = (flux, ivar, self._z[rows], rows.astype(np.int64))
        return Batch(*(torch.from_numpy(array) for array in arrays))


def _joined(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part.tensors() for part in parts), strict=True)
    joined: list[Any] = [None if values[0] is None else torch.cat(values) for values in columns]
    return Batch(*joined)


class Pooled:
    """Several samples of one instrument as one: batches of all of them, mixed in an order fixed by the epoch.

    Each batch is of one sample. The rows of batches are distinct across samples.
    """

    def __init__(self, parts: Sequence[Batches], seed: int = 0) -> None:
        self._parts, self._seed = parts, seed

    @property
    def identity(self) -> str:
        """Identities of the samples, and the seed."""
        return f"{' + '.join(part.identity for part in self._parts)}, pooled by {self._seed}"

    def steps(self, split: Split, batch_size: int) -> int:
        """Count the batches of an epoch."""
        return sum(part.steps(split, batch_size) for part in self._parts)

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `begin` on: samples mixed for training, else one by one."""
        rng = np.random.default_rng((self._seed, epoch, 2)) if split == "train" else None
        for k, batch in interleaved(self._parts, split, epoch, batch_size, begin, rng):
            rows = batch.rows if batch.rows is None else batch.rows + (k << _PART_BIT)
            yield replace(batch, rows=rows)


def interleaved(
    parts: Sequence[Batches],
    split: Split,
    epoch: int,
    batch_size: int,
    begin: int,
    rng: np.random.Generator | None,
) -> Iterator[tuple[int, Batch]]:
    """Yield (number of the part, batch) for the batches of several parts from number `begin` on.

    They are visited in proportion to their numbers of batches, in an order drawn from rng; None: part after part.
    """
    counts = [part.steps(split, batch_size) for part in parts]
    queue = np.repeat(np.arange(len(parts)), counts)
    if rng is not None:
        queue = rng.permutation(queue)
    begun = np.bincount(queue[:begin], minlength=len(parts)).tolist()
    streams = [part.batches(split, epoch, batch_size, first) for part, first in zip(parts, begun, strict=True)]
    for k in queue[begin:].tolist():
        yield k, next(streams[k])
