"""The whitened latents of a run in one file that is searched for neighbors, made once and known to be of this run."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import RefusedError, redacted
from pipeline.results.damage import damage_named
from pipeline.results.tables.files import whole
from pipeline.results.tables.table import ResultsTable
from pipeline.store.arrays import encodings_url, read_region
from pipeline.store.root import encode_ledger, index_url

VERSION = 1
"""Raised when the same latents give another index."""

_END = b"SPLATENT"  # of the file, behind its facts and their length
_LEAST_VARIANCE = 1e-10  # of the largest one: latents that hardly vary, or not at all, are not blown up

Latents = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LatentIndex:
    """Latents of a run, in units in which they are uncorrelated and have a variance of 1.

    values: shape (n_spectra, S), float32, a row for each of the run, NaN in those that are left out. mean: shape (S,),
    whitening: shape (S, S), float64: values are (latents - mean) @ whitening. not_done, not_finite: how many rows are
    left out since their chunks are not done, and since they have no finite latents.
    """

    values: NDArray[np.float32]
    mean: NDArray[np.float64]
    whitening: NDArray[np.float64]
    not_done: int
    not_finite: int

    @property
    def count(self) -> int:
        """How many spectra are in it."""
        return len(self.values) - self.not_done - self.not_finite

    def whiten(self, latents: Latents) -> NDArray[np.float32]:
        """Return latents, shape (..., S), in the units of the index, rounded as there."""
        whitened: NDArray[np.float64] = (np.asarray(latents, np.float64) - self.mean) @ self.whitening
        return whitened.astype(np.float32)

    @classmethod
    def read(cls, path: Path) -> tuple[Self, dict[str, Any]]:
        """Open a file, which is mapped, and return what it is of, too. Raises ValueError for what is no index."""
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(size - 16, 0))
            length, end = struct.unpack("<q8s", file.read(16).ljust(16))
            if end != _END or not 0 < length < size:
                raise ValueError(f"{path} is no index")
            file.seek(size - 16 - length)
            facts = json.loads(file.read(length))
        shape = tuple(facts["shape"])
        values = np.memmap(path, np.float32, "r", shape=shape)
        whitening = np.array(facts["whitening"]).reshape(shape[1], shape[1])
        return cls(values, np.array(facts["mean"]), whitening, facts["not_done"], facts["not_finite"]), facts["of"]


class StaleIndex(RefusedError):  # noqa: N818 - a state of the index
    """An index that was made of other latents than the run has now, or that is damaged."""


def open_index(table: ResultsTable, *, remake: bool = False) -> LatentIndex:
    """Open the index of the latents of a table's model; make it where there is none yet, or where `remake` asks for it.

    It lies in ROOT, or, where that is on a server or cannot be written, in the cache folder of the user. Raises
    ConfigError for one that was made of other latents than the run has now, and for a model whose latents are not kept.
    """
    of, places, found, current = _looked_up(table)
    if current is not None and not remake:
        return current
    if found and not remake:
        path, opened = next(iter(found.items()))
        reason = "is damaged" if opened is None else f"was made {_difference(opened[1], of)}"
        remedy = "make it again, which takes a minute for millions of spectra: --remake, in Python remake=True"
        raise StaleIndex("index", f"the index {redacted(str(path))} {reason}", remedy)
    for path in places:
        try:
            make_index(table, path, of)
            return LatentIndex.read(path)[0]
        except OSError:
            if path == places[-1]:
                raise
    raise AssertionError  # there is a place at least


def index_beside(table: ResultsTable) -> LatentIndex:
    """Open the index of a table's latents without writing into ROOT: where there is no current one, it is made anew.

    It is made in the cache folder of the user, of whatever of the run is done. Raises ConfigError for a model whose
    latents are not kept, and OSError where the folder cannot be written.
    """
    of, places, _, current = _looked_up(table)
    if current is not None:
        return current
    make_index(table, places[-1], of)
    return LatentIndex.read(places[-1])[0]


def make_index(table: ResultsTable, path: Path, of: dict[str, Any]) -> None:
    """Write the index of a table's latents; it is there as a whole or not at all. of: what it is of."""
    size = int(table.model.n_latent or 0)
    shape = (table.plan.n_spectra, size)
    with whole(str(path)) as partial:
        partial.write_bytes(b"")
        os.truncate(partial, shape[0] * size * 4)
        values = np.memmap(partial, np.float32, "r+", shape=shape)
        mean, whitening, count = _whitening(table, values)
        done = np.zeros(shape[0], np.bool_)
        for start, stop in table.bounds:
            done[start:stop] = True
            values[start:stop] = (values[start:stop].astype(np.float64) - mean) @ whitening
        values[~done] = np.nan
        values.flush()
        facts = {
            "of": of,
            "shape": shape,
            "mean": mean.tolist(),
            "whitening": whitening.reshape(-1).tolist(),
            "not_done": int((~done).sum()),
            "not_finite": int(done.sum()) - count,
        }
        text = storage.canonical_json(facts)
        with partial.open("ab") as file:
            file.write(text + struct.pack("<q8s", len(text), _END))


def _whitening(
    table: ResultsTable, values: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Read the latents into `values`; return what whitens them: mean, matrix, and how many are finite.

    Sums are about a spectrum of the run, so that they lose no digits.
    """
    size = values.shape[1]
    url = encodings_url(table.root, table.model.name)
    origin, count = np.zeros(size), 0
    total, square = np.zeros(size), np.zeros((size, size))
    for start, stop in table.bounds:
        with damage_named(table.root):
            latents = read_region(url, ["latents"], start, stop)["latents"]
        latents[~np.isfinite(latents).all(axis=1)] = np.nan
        values[start:stop] = latents
        finite = latents[~np.isnan(latents[:, 0])].astype(np.float64)
        if not count and len(finite):
            origin = finite[0].copy()
        finite -= origin
        count += len(finite)
        total += finite.sum(axis=0)
        square += finite.T @ finite
    if not count:
        raise RefusedError("model", f"no spectrum has latents of {table.model.name} yet", "run the run first")
    mean = total / count
    variance, axes = np.linalg.eigh(square / count - np.outer(mean, mean))
    least = max(_LEAST_VARIANCE * float(variance[-1]), np.finfo(np.float64).tiny)
    return origin + mean, axes / np.sqrt(np.maximum(variance, least)), count


def _facts(table: ResultsTable) -> dict[str, Any]:
    """Return what an index is of: the checkpoint, the settings, the targets, and the latents by their checksums.

    Raises RefusedError for a model whose latents are not kept.
    """
    if "latents" not in table.model.variables:
        problem = f"the run keeps no latents of {table.model.name}"
        raise RefusedError("model", problem, "plan the model with the output latents")
    plan, model = table.plan, table.model
    records = encode_ledger(table.root, plan, model.name).records(table.done)
    latents = {str(index): record["checksums"].get("latents") for index, record in records.items()}
    return {
        "version": VERSION,
        "checkpoint": model.sha256,
        "fingerprint": plan.encode_fingerprint(model.name),
        "targets": plan.targets_sha256,
        "latents": hashlib.sha256(storage.canonical_json(latents)).hexdigest(),
    }


def _looked_up(
    table: ResultsTable,
) -> tuple[dict[str, Any], list[Path], dict[Path, tuple[LatentIndex, dict[str, Any]] | None], LatentIndex | None]:
    """Return what an index is of, where it may lie, what lies there, and of that the one that is current."""
    of, places = _facts(table), _places(table.root, table.model.name)
    found = {path: _read(path) for path in places if path.exists()}
    return of, places, found, next((each[0] for each in found.values() if each is not None and each[1] == of), None)


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Say of what an index was made that is of something else than wanted."""
    words = {
        "version": "by another version of this package",
        "checkpoint": "of the latents of another checkpoint",
        "fingerprint": "of encodings with other settings",
        "targets": "before targets were added",
    }
    return next((text for key, text in words.items() if found.get(key) != wanted[key]), "before chunks were encoded")


def _places(root: str, model: str) -> list[Path]:
    """Return where an index may lie: in ROOT on a disk, and in the user's cache folder."""
    name = hashlib.sha256(storage.absolute(root).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spender-pipeline"
    own = storage.local_path(index_url(root, model))
    return [*([] if own is None else [own]), cache / name / f"{model}.latents"]


def _read(path: Path) -> tuple[LatentIndex, dict[str, Any]] | None:
    """Open a file; None for one that is damaged."""
    try:
        return LatentIndex.read(path)
    except (ValueError, KeyError, TypeError):
        return None
