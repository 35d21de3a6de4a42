"""A map of the latents by UMAP: made of some spectra, the others placed among them; stored beside the run."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline import storage
from pipeline.errors import RefusedError
from pipeline.results.latents.index import LatentIndex, index_beside
from pipeline.results.run import Run
from pipeline.results.tables.table import ResultsTable

UMAP = ("UMAP 1", "UMAP 2")
"""Axes of a stored map."""

MOST = 50_000
"""Spectra that a map is made of, at most."""

NEIGHBORS = 5
"""Spectra of the map whose mean is the place of another one."""

VERSION = 1
_SEED, _BLOCK = 1, 200_000


@dataclass(frozen=True)
class Embedding:
    """Places of spectra on a map.

    place: shape (n, 2), float32, NaN for spectra without latents. exact: shape (n,), bool: the map was made of it, and
    others are approximate. made_of: SHA-256 of the model's checkpoint.
    """

    place: NDArray[np.float32]
    exact: NDArray[np.bool_]
    made_of: str

    def to_bytes(self) -> bytes:
        """Return it as a file keeps it."""
        stream = io.BytesIO()
        np.savez(stream, version=VERSION, place=self.place, exact=self.exact, made_of=self.made_of)
        return stream.getvalue()

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` made. Raises ValueError for anything else."""
        with np.load(io.BytesIO(data), allow_pickle=False) as entries:
            if int(entries["version"]) != VERSION:
                raise ValueError(f"a map of version {int(entries['version'])}, expected {VERSION}")
            return cls(entries["place"], entries["exact"], str(entries["made_of"]))


def map_url(table: ResultsTable) -> str:
    """Return where the map of a model is kept."""
    return storage.join(table.root, "maps", f"{table.model.name}.umap.npz")


def read_map(table: ResultsTable) -> Embedding | None:
    """Return the stored map of a model, None for none. Raises ConfigError for a damaged one, or another's."""
    url = map_url(table)
    if not storage.exists(url):
        return None
    try:
        found = Embedding.of_bytes(storage.read_bytes(url))
    except Exception as error:  # numpy raises anything on bytes that are not its own
        raise RefusedError("map", f"{url} cannot be read: {error}", "make it again: explore --make-map") from error
    if found.made_of != table.model.sha256:
        raise RefusedError("map", f"{url} is of another checkpoint", "make it again: explore --make-map")
    return found


def chosen(targets: pd.Series, finite: NDArray[np.bool_], most: int = MOST) -> NDArray[np.intp]:
    """Return the rows that a map is made of: of those with latents, the ones whose ids have the lowest hashes.

    targets: keys, by the row in the run.
    """
    rows = np.flatnonzero(finite)
    if len(rows) <= most:
        return rows
    hashes = [hashlib.blake2b(targets[row].encode(), digest_size=8).digest() for row in rows]
    return np.sort(rows[np.argsort(np.array(hashes), kind="stable")[:most]])


def make_map(
    index: LatentIndex, targets: pd.Series, made_of: str, say: Callable[[str], None], most: int = MOST
) -> Embedding:
    """Return a map of the latents of an index, the same for the same latents and versions of umap."""
    finite = np.asarray(np.isfinite(index.values).all(axis=1))
    rows = chosen(targets, finite, most)
    if len(rows) < 2 * NEIGHBORS:
        raise RefusedError("map", f"only {len(rows)} spectra have latents", "a map wants some more")
    say(f"map of {len(rows):,} spectra")
    place = np.full((len(finite), 2), np.nan, np.float32)
    exact = np.zeros(len(finite), np.bool_)
    place[rows], exact[rows] = _umap(index.values[rows]), True
    others = np.flatnonzero(finite & ~exact)
    tree = cKDTree(index.values[rows])
    for start in range(0, len(others), _BLOCK):
        own = others[start : start + _BLOCK]
        _, near = tree.query(index.values[own], NEIGHBORS, workers=-1)
        place[own] = place[rows[near]].mean(axis=1)
        say(f"{start + len(own):,} of {len(others):,} others placed")
    return Embedding(place, exact, made_of)


def _umap(values: NDArray[np.float32]) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorFlow, which it can do without, and of a seed, which takes one thread
        import umap  # takes seconds: only for who makes a map

        made = umap.UMAP(n_neighbors=min(15, len(values) - 1), random_state=_SEED, n_jobs=1)
        return np.asarray(made.fit_transform(values), np.float32)


def store_map(run: Run, model: str, say: Callable[[str], None]) -> str:
    """Make the map of a model's latents and keep it in the run; returns where. Raises ConfigError."""
    table = run.results(model)
    storage.require_writable("ROOT", table.root, "maps")
    made = make_map(index_beside(table), table.frame_of(["target"])["target"], table.model.sha256 or "", say)
    storage.write_bytes(map_url(table), made.to_bytes())
    return map_url(table)
