"""What is done: one JSON marker per chunk, written after all data of the chunk.

    <root>/ledger/<stage>[-<model>]-<first 8 of the fingerprint>/
        store.json           the empty store of this stage is complete
        access.json          what was found of the archive as a whole, once (ingest)
        000007.json          chunk 7 is done: its rows, counts and checksums
        failed/000009.json   chunk 9 failed for good in some run, with the reason

Markers hold no times and no machine names: two runs of one plan write the same bytes. A chunk is done when
its marker is there, never because data are. The fingerprint is of the settings; a marker also names the rows that its
chunk was made of, so that one of an earlier generation, which had fewer rows, does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError, RefusedError

_STORE = "store.json"
_ACCESS = "access.json"
_FAILED = "failed"
# Markers are read one request each; a survey has some 1,200 of them per stage.
_READERS = 16


class Ledger:
    """The markers of one stage (and model) under one fingerprint. Cheap to build: no I/O until asked.

    grown: chunks that had fewer rows in an earlier generation, and where their rows end now; see `Plan.grown`. chunks:
    how many the plan has; None: unknown. Markers of others count for nothing; see `strays`.
    """

    def __init__(
        self,
        root: str,
        stage: str,
        fingerprint: str,
        model: str | None = None,
        grown: Mapping[int, int] | None = None,
        chunks: int | None = None,
    ) -> None:
        self.stage = stage
        self.model = model
        self.fingerprint = fingerprint
        self.grown = dict(grown or {})
        self.chunks = chunks
        name = "-".join(part for part in (stage, model, fingerprint[:8]) if part)
        self.folder = storage.join(root, "ledger", name)

    def done(self) -> set[int]:
        """Return the indices of the chunks that are done, from one listing."""
        return set(self.written())

    def written(self) -> dict[int, float | None]:
        """Return when the markers of the chunks that are done were written, from one listing; see storage.modified.

        The markers of grown chunks are read: only their content tells of which generation they are.
        """
        found = self._indices(storage.modified(self.folder))
        looked_at = sorted(found.keys() & self.grown.keys())
        with ThreadPoolExecutor(_READERS) as pool:
            full = dict(zip(looked_at, pool.map(self._is_full, looked_at), strict=True))
        return {index: moment for index, moment in found.items() if full.get(index, True)}

    def mark(self, index: int, record: Mapping[str, Any]) -> bool:
        """Create the marker of a chunk; call it after all the chunk's data are written.

        Returns False, and leaves the marker, when another run has marked the chunk meanwhile, and with other content.
        """
        data = storage.canonical_json(self._content(index, record))
        url = storage.join(self.folder, _name(index))
        return storage.create_bytes(url, data) or storage.read_bytes(url) == data

    def replace(self, index: int, record: Mapping[str, Any]) -> None:
        """Write the marker of a chunk, in place of one that may be there."""
        storage.write_json(storage.join(self.folder, _name(index)), self._content(index, record))

    def read(self, index: int) -> dict[str, Any]:
        """Return a chunk's marker. Raises FileNotFoundError, ConfigError for what is no marker of this fingerprint."""
        return self._read(_name(index))

    def records(self, done: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Return the markers of chunks that are done by index, several read at a time.

        Raises ConfigError for one that is damaged or does not tell all that it should.
        """
        indices = sorted(done)
        with ThreadPoolExecutor(_READERS) as pool:
            found = dict(zip(indices, pool.map(self.read, indices), strict=True))
        for index, record in found.items():
            if not is_whole(record):
                raise _damaged(storage.join(self.folder, _name(index)))
        return found

    def fail(self, index: int, record: Mapping[str, Any]) -> None:
        """Record why a chunk failed."""
        storage.write_json(storage.join(self.folder, _FAILED, _name(index)), self._content(index, record))

    def failures(self) -> dict[int, dict[str, Any]]:
        """Return the records of the failed chunks by index; one that another run removes meanwhile is left out."""

        def read(index: int) -> dict[str, Any] | None:
            name = f"{_FAILED}/{_name(index)}"
            try:
                record = self._read(name)
            except FileNotFoundError:
                return None
            if not isinstance(record.get("reason"), str):
                raise _damaged(storage.join(self.folder, name))
            return record

        indices = sorted(self.failed())
        with ThreadPoolExecutor(_READERS) as pool:
            records = zip(indices, pool.map(read, indices), strict=True)
            return {index: record for index, record in records if record is not None}

    def failed(self) -> set[int]:
        """Return the indices of the chunks that have the record of a failure, from one listing."""
        return set(self._indices(storage.modified(storage.join(self.folder, _FAILED))))

    def marked(self, index: int) -> bool:
        """Tell whether a chunk has a marker now."""
        return storage.exists(storage.join(self.folder, _name(index)))

    def unmark(self, index: int) -> None:
        """Remove the marker of a chunk, so that it is done again; one that is not there is no error."""
        name = _name(index)
        try:
            storage.remove(storage.join(self.folder, name))
        except (IsADirectoryError, PermissionError):  # a folder of this name, which macOS refuses by the latter
            self.remove(name)

    def strays(self) -> dict[str, str]:
        """Return what lies among the markers and is none of the plan's, by its name below the folder: what is wrong.

        Also records of failures and of the archive that are damaged. Markers of the plan's chunks are not read.
        """
        found: dict[str, str] = {}
        for name in _visible(self.folder):
            if name not in (_STORE, _ACCESS, _FAILED) and (reason := self._is_none(name)):
                found[name] = reason
        for name in _visible(storage.join(self.folder, _FAILED)):
            inner = f"{_FAILED}/{name}"
            if reason := self._is_none(name) or self._is_unreadable(inner):
                found[inner] = reason
        if reason := self._is_unreadable(_ACCESS):
            found[_ACCESS] = reason
        return found

    def remove(self, name: str) -> None:
        """Remove what lies in the folder under a name, a folder with all that it holds; none is no error."""
        url = storage.join(self.folder, name)
        with suppress(IsADirectoryError, PermissionError):
            storage.remove(url)
        if storage.exists(url):
            storage.remove(url, recursive=True)

    def clear_failure(self, index: int) -> None:
        """Remove the record of a failure, once the chunk is done after all."""
        storage.remove(storage.join(self.folder, _FAILED, _name(index)))

    def store_created(self) -> bool:
        """Tell whether the empty store was completed; without its marker it is made again."""
        return storage.exists(storage.join(self.folder, _STORE))

    def mark_store(self, record: Mapping[str, Any]) -> None:
        """Write the marker of the empty store; `record` is what `arrays.create` says of it."""
        storage.write_json(storage.join(self.folder, _STORE), {**record, "fingerprint": self.fingerprint})

    def read_store(self) -> dict[str, Any]:
        """Return the empty store's marker. Raises as `read`."""
        return self._read(_STORE)

    def access(self) -> str:
        """Return what was found of the archive as a whole, "" where nothing was yet; see `compute.access`."""
        try:
            return str(self._read(_ACCESS).get("verdict", ""))
        except FileNotFoundError:
            return ""

    def keep_access(self, verdict: str) -> None:
        """Keep what was found of the archive as a whole; "": nothing."""
        url = storage.join(self.folder, _ACCESS)
        if verdict:
            storage.write_json(url, {"verdict": verdict, "fingerprint": self.fingerprint})
        else:
            storage.remove(url)

    def _is_full(self, index: int) -> bool:
        """Tell whether a grown chunk's marker is of all its rows; one that is damaged counts, for others to report."""
        try:
            return bool(self._read(_name(index)).get("stop", self.grown[index]) == self.grown[index])
        except FileNotFoundError:
            return False
        except ConfigError:
            return True

    def _indices(self, found: Mapping[str, float | None]) -> dict[int, float | None]:
        indices = {name: _index(name) for name in found}
        return {i: found[name] for name, i in indices.items() if i is not None and i < (self.chunks or i + 1)}

    def _is_none(self, name: str) -> str:
        """Say why a name is none of a marker of the plan; nothing for one that is."""
        index = _index(name)
        if index is None:
            return "no chunk has a marker of this name"
        return "" if self._indices({name: None}) else f"the run has only {self.chunks} chunks, from 0 on"

    def _is_unreadable(self, name: str) -> str:
        try:
            record = self._read(name)
        except FileNotFoundError:
            return ""
        except ConfigError:
            return "it cannot be read, or is of other settings"
        return "" if name == _ACCESS or isinstance(record.get("reason"), str) else "it gives no reason"

    def _content(self, index: int, record: Mapping[str, Any]) -> dict[str, Any]:
        return {**record, "chunk": index, "fingerprint": self.fingerprint}

    def _read(self, name: str) -> dict[str, Any]:
        url = storage.join(self.folder, name)
        try:
            record: dict[str, Any] = storage.read_json(url)
        except (ValueError, IsADirectoryError) as error:
            raise _damaged(url) from error
        # Folder names carry eight digits only; the marker carries them all.
        index = _index(name.removeprefix(f"{_FAILED}/"))
        if record.get("fingerprint") != self.fingerprint or record.get("chunk", index) != index:
            raise _damaged(url)
        return record


def is_whole(record: Mapping[str, Any]) -> bool:
    """Tell whether a chunk's marker has what is read of it, in its types."""
    counts = [record.get(key) for key in ("spectra", "good", "usable")]
    quality, checksums = record.get("quality"), record.get("checksums")
    if not isinstance(quality, dict) or not isinstance(checksums, dict):
        return False
    return all(type(count) is int and count >= 0 for count in (*counts, *quality.values()))


def _damaged(url: str) -> ConfigError:
    remedy = "spender-pipeline verify ROOT --repair removes it, and the next run does what is missing"
    return RefusedError("ledger", f"the marker {url} is damaged", remedy)


def _name(index: int) -> str:
    return f"{index:06d}.json"


def _index(name: str) -> int | None:
    """Return the chunk whose marker has this name; None for another name, such as a copy's."""
    stem = name.removesuffix(".json")
    index = int(stem) if stem.isascii() and stem.isdecimal() else None
    return index if index is not None and name == _name(index) else None


def _visible(folder: str) -> list[str]:
    """List a folder, but for what file systems and desktops keep there for themselves."""
    return [name for name in storage.list_names(folder) if not name.startswith(".")]
