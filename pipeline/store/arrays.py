"""Create a store, read a chunk's rows, write a chunk's rows, open the result.

The write goes straight to Zarr, after our own check that the rows are whole shards: a write of a part of a
shard reads, changes and writes back the whole of it, and two of them at once lose data without a word.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import tempfile
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.core.array_spec import ArrayConfigParams

from pipeline import storage

if TYPE_CHECKING:
    from pipeline.planning.partition import Shard
    from pipeline.store.template import Encoding

# Not stored in the array's metadata: every handle must say it, or a chunk that equals the fill is dropped
# and looks like one that was never written.
_WRITE_ALL: ArrayConfigParams = {"write_empty_chunks": True}

logger = logging.getLogger(__name__)

METADATA = "zarr.json"
"""The object that describes an array, in its folder, or a whole store."""

_TEXT_ROWS = 100_000
_WRITERS = 8  # objects of a new store written at once


class AlignmentError(ValueError):
    """A write that is not made of whole shards."""


_opening = threading.Lock()


class Handle:
    """The arrays of one store, opened once each and kept; see `open_handle`."""

    def __init__(self, url: str, metadata: bytes, *, writable: bool) -> None:
        self.url = url
        self.metadata = metadata
        self._mode = "r+" if writable else "r"
        self._store = storage.zarr_store(url, read_only=not writable)
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def array(self, name: str) -> zarr.Array[Any]:
        """Return the array of a variable."""
        with _opening:  # one at a time in all: two first uses of zarr at once may make two event loops
            if name not in self._arrays:
                array = zarr.open_array(self._store, path=name, mode=self._mode, zarr_format=3)
                # open_array(config=...) is ignored without a word in zarr 3.1.
                self._arrays[name] = array.with_config(_WRITE_ALL)
            return self._arrays[name]


def code_together(chunks: int) -> int:
    """Have Zarr take so many inner chunks at a time through each codec, in this process; returns how many it took."""
    setting = "codec_pipeline.batch_size"
    before = int(zarr.config.get(setting))
    zarr.config.set({setting: chunks})
    return before


def spectra_url(root: str) -> str:
    """Return where a run keeps its spectra store."""
    return storage.join(root, "spectra.zarr")


def encodings_url(root: str, model: str) -> str:
    """Return where a run keeps the encodings store of a model."""
    return storage.join(root, "encodings", f"{model}.zarr")


def density_url(root: str, model: str) -> str:
    """Return where a run keeps the scores of a model's latents."""
    return storage.join(root, "density", f"{model}.zarr")


_handles: dict[tuple[str, bool], Handle] = {}
_handles_lock = threading.Lock()


def open_handle(url: str, *, writable: bool = False, fresh: bool = False) -> Handle:
    """Return this process's handle on a store, the same one every time while the store is the same.

    A long-lived worker may meet a store that was made again since; one small read of the group's metadata,
    which holds the fingerprint, shows it. fresh: whatever they say. Raises FileNotFoundError when there is no store.
    """
    metadata = storage.read_bytes(storage.join(url, METADATA))
    with _handles_lock:
        handle = _handles.get((url, writable))
        if handle is None or handle.metadata != metadata or fresh:
            handle = _handles[url, writable] = Handle(url, metadata, writable=writable)
        return handle


def create(url: str, template: xr.Dataset, encoding: Encoding) -> dict[str, dict[str, Any]]:
    """Make the empty store of a template; return what it is then, for its marker.

    That is the "checksums" of the coordinates and of the "metadata" that describe each array, and its "attributes".

    Coordinates are written, data variables only described. No consolidated metadata: that is `finalize`'s.
    Nothing is removed, and what is written depends on the template alone: two runs that make one store at the same
    time, or one after the other has begun to fill it, do no harm. The group's metadata, by which a store is found,
    come last.
    """
    with _temporary_folder_named():
        scratch = tempfile.TemporaryDirectory(prefix="spender-pipeline-")
    with scratch as folder:
        # one chunk after the other: while one of text is written, its million strings are Python's own
        with _temporary_folder_named(), zarr.config.set({"async.concurrency": 1}):
            template.to_zarr(
                folder,
                mode="w",
                compute=False,
                encoding=encoding,
                consolidated=False,
                zarr_format=3,
                write_empty_chunks=True,
            )
        metadata = {str(name): digest((Path(folder, str(name)) / METADATA).read_bytes()) for name in template.variables}
        attributes = json.loads((Path(folder) / METADATA).read_bytes())["attributes"]
        _upload(Path(folder), url)
    coordinates = {str(name): variable.to_numpy() for name, variable in template.coords.items()}
    return {"checksums": checksum(coordinates), "metadata": metadata, "attributes": attributes}


@contextmanager
def _temporary_folder_named() -> Iterator[None]:
    """Let errors of a disk say that it is the temporary folder's, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        why = f"the temporary folder cannot be written ({reason}): set TMPDIR to a folder on another disk"
        raise OSError(error.errno or errno.EIO, why, tempfile.tempdir) from error


def _upload(folder: Path, url: str) -> None:
    """Copy the files of a store to its URL, those of the group itself last."""
    files = [file.relative_to(folder).parts for file in folder.rglob("*") if file.is_file()]

    def write(parts: tuple[str, ...]) -> None:
        storage.write_bytes(storage.join(url, *parts), folder.joinpath(*parts).read_bytes())

    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(write, (parts for parts in files if len(parts) > 1)))
    for parts in files:
        if len(parts) == 1:
            write(parts)


def read_region(url: str, names: Iterable[str], start: int, stop: int | None) -> dict[str, NDArray[Any]]:
    """Return the rows [start, stop) of some variables as stored, without any decoding; stop: None for all."""
    with storage.translated_errors(url):
        handle = open_handle(url)
        arrays = {name: handle.array(name) for name in names}
        return {name: np.asarray(array[start:stop] if array.ndim else array[...]) for name, array in arrays.items()}


def read_rows(url: str, names: Iterable[str], rows: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """Return single rows of some variables as stored, in any order; just their chunks are read."""
    places, back = np.unique(rows, return_inverse=True)
    with storage.translated_errors(url):
        handle = open_handle(url)
        return {name: np.asarray(handle.array(name).oindex[places])[back] for name in names}


def write_region(url: str, shard: Shard, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a chunk's rows of some variables; everything is checked before anything is written.

    arrays: per variable shape (len(shard), ...) in exactly the stored dtype. Raises AlignmentError unless
    the rows are whole shards of every variable, ValueError for another shape or dtype.
    """
    with storage.translated_errors(url):
        handle = open_handle(url, writable=True)
        try:
            _check_regions(handle, shard, arrays)
        except AlignmentError:  # an extension that was interrupted and undone leaves the group as it was
            handle = open_handle(url, writable=True, fresh=True)
            _check_regions(handle, shard, arrays)
        for name, values in arrays.items():
            _write(handle, name, shard, values)


def _check_regions(handle: Handle, shard: Shard, arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, values in arrays.items():
        _check_region(handle.array(name), shard, values, name)


def _write(handle: Handle, name: str, shard: Shard, values: NDArray[Any]) -> None:
    array = handle.array(name)
    try:
        with storage.translated_errors(handle.url):
            array[shard.start : shard.stop] = values
    except Exception:
        # Zarr reads a shard before it writes all of it, and stumbles over one that is damaged
        damage = _damage(handle, name, shard)
        if not damage:
            raise
        logger.warning("%s of chunk %d: replacing what cannot be read (%s)", name, shard.index, damage)
        size = (array.shards or array.chunks)[0]
        key = array.metadata.encode_chunk_key((shard.start // size, *(0 for _ in array.shape[1:])))
        storage.remove(storage.join(handle.url, name, key))
        array[shard.start : shard.stop] = values


def _damage(handle: Handle, name: str, shard: Shard) -> str:
    """Say why a chunk's rows cannot be read; nothing when they can: another run may have just written them."""
    try:
        with storage.translated_errors(handle.url):
            _ = handle.array(name)[shard.start : shard.stop]
    except Exception as error:
        if storage.is_inconclusive(error):
            raise
        return f"{type(error).__name__}: {error}"
    return ""


def _check_region(array: zarr.Array[Any], shard: Shard, values: NDArray[Any], name: str) -> None:
    rows, size = array.shape[0], (array.shards or array.chunks)[0]
    aligned = shard.stop % size == 0 or shard.stop == rows
    if not (0 <= shard.start < shard.stop <= rows and shard.start % size == 0 and aligned):
        raise AlignmentError(
            f"rows {shard.start} to {shard.stop} of {name}, which has {rows} rows, are not whole shards of {size} rows"
        )
    expected = (shard.stop - shard.start, *array.shape[1:])
    if values.shape != expected or values.dtype != array.dtype:
        raise ValueError(f"{name} has {values.dtype} {values.shape}, expected {array.dtype} {expected}")


def digest(content: bytes) -> str:
    """Return the SHA-256 (hex) of an object's content."""
    return hashlib.sha256(content).hexdigest()


def checksum(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return the SHA-256 (hex) of each array's dtype, shape and little-endian bytes; text by its UTF-8."""
    return {name: _checksum(np.asarray(values)) for name, values in arrays.items()}


def _checksum(values: NDArray[Any]) -> str:
    text = values.dtype.kind in "TUO"
    kind = "str" if text else values.dtype.newbyteorder("<").str
    digest = hashlib.sha256(f"{kind}{values.shape}".encode())
    if text:
        flat = values.ravel()
        for start in range(0, flat.size, _TEXT_ROWS):  # in pieces: as Python's own strings they are large
            piece = "\0".join(flat[start : start + _TEXT_ROWS].tolist())
            digest.update((piece if start == 0 else "\0" + piece).encode())
    else:
        little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
        digest.update(little.data)
    return digest.hexdigest()


# What xarray keeps of an array's codecs and chunks, and would ask of any array that a selection is written to.
_LAYOUT = frozenset({"chunks", "preferred_chunks", "shards", "compressors", "filters", "serializer", "object_codec"})


_FLAGS = frozenset({"flag_masks", "flag_values"})


def open_dataset(url: str) -> xr.Dataset:
    """Open a store as a lazy dataset, finalized or not; data variables are dask arrays of one shard per block.

    Those of one number per spectrum are not dask's, but read when they are needed, as coordinates are: dask has no
    median of an array with one dimension. A selection can be written to any format: it does not say how the store is
    laid out. Raises FileNotFoundError when there is no store.
    """
    metadata = storage.read_bytes(storage.join(url, METADATA))
    store = storage.zarr_store(url, read_only=True)
    consolidated = b'"consolidated_metadata"' in metadata
    with storage.translated_errors(url):
        opened: xr.Dataset = xr.open_zarr(store, consolidated=consolidated, zarr_format=3, chunks=None)
    # By default xarray would make a dask block of every inner chunk: 160,000 of them for a survey's flux.
    several = {name: variable for name, variable in opened.data_vars.items() if variable.ndim > 1}
    blocks = {name: variable.variable.chunk(_block(variable)) for name, variable in several.items()}
    found = opened.assign(blocks)
    for name, each in found.variables.items():
        each.encoding = {key: value for key, value in each.encoding.items() if key not in _LAYOUT}
        if each.dims == (name,):
            each.encoding["_FillValue"] = None  # CF allows none on an axis, and xarray would add it
        for flags in _FLAGS & set(each.attrs):
            each.attrs[flags] = np.asarray(each.attrs[flags], each.dtype)  # CF wants their variable's type
    return found


def _block(variable: xr.DataArray) -> dict[Hashable, int]:
    owned = variable.encoding.get("shards") or variable.encoding["chunks"]
    return dict(zip(variable.dims, owned, strict=True))
