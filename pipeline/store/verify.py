"""Read a run again, compare it with its markers' checksums, and have what is damaged done again.

Only what storage says about the data themselves counts as damage: if it does not answer, or refuses, the error is
raised and everything stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan, targets_sha256
from pipeline.planning.stages import Kind, source_of
from pipeline.spectra.quality import counts
from pipeline.store import generations, stores
from pipeline.store.arrays import METADATA, checksum, digest, read_region
from pipeline.store.checkpoint import read_basis, read_density
from pipeline.store.ledger import is_whole
from pipeline.store.root import read_plan
from pipeline.store.stores import Store

# Chunks read at once: each holds one variable of one shard, 64 MB and as much again while it is decoded.
_READERS = 4

Progress = Callable[[Iterator[list[str]]], Iterable[list[str]]]


@dataclass(frozen=True)
class Findings:
    """What is wrong with a run, one sentence each, and what was done about it.

    restored: the stores whose coordinates and metadata were rewritten; unmarked: how many chunks are to be done again.
    pending: how many of the problems only say that something is not done yet. targets_lost: whether one of them is that
    the table of targets is not the planned one, which no repair can restore. removed: how many stray markers were.
    """

    problems: tuple[str, ...]
    restored: tuple[str, ...] = ()
    unmarked: int = 0
    pending: int = 0
    targets_lost: bool = False
    removed: int = 0


def verify(root: str, plan: Plan, *, repair: bool = False, progress: Progress | None = None) -> Findings:
    """Read every chunk again and compare it with its marker, the targets with the plan, the stores with their making.

    repair: write again what describes a store, if that is damaged, and remove the markers of chunks that are, so that
    `run` does them again; it does the encodings of spectra that are ingested again by itself. progress: wraps the
    iterator over a store's chunks, for a progress bar. Raises OSError when storage does not answer or refuses, and
    removes no marker then.
    """
    rows, wrong = generations.read(root, plan)
    problems = [f"targets: {wrong}; {generations.remedy(root, plan)}"] if wrong else []
    problems += _file_problems(root, plan)
    restorable = repair and not wrong
    restored: list[str] = []
    pending = 0
    bad: list[tuple[Store, Shard]] = []
    every = {store.kind: store for store in stores.stores_of(root, plan)}

    def judge(store: Store, shard: Shard) -> list[str]:
        return _shard_problems(plan, store, _source(store, every), shard, rows)

    strays = _strays(root, plan, every.values())
    problems += [f"{store.label}: {store.ledger.folder}/{name} is stray: {why}" for store, name, why in strays]
    for store in every.values():
        marked = store.ledger.done()
        if not marked and not store.ledger.store_created():
            problems.append(f"{store.label}: not begun")
            pending += 1
            continue
        damaged = _half_grown(plan, store)
        pending += len(damaged)
        damaged = damaged or store_problems(store)
        problems += damaged
        if damaged and restorable:
            try:
                stores.restore(root, plan, store)
                restored.append(store.label)
                damaged = []
            except ValueError as error:  # the store of another plan, a checkpoint that is gone or another
                problems.append(f"{store.label}: cannot be written again ({error})")
        chunks = plan.shards()
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(partial(judge, store), chunks)
            for shard, some in zip(chunks, progress(found) if progress else found, strict=True):
                problems += some
                pending += len(some) if shard.index not in marked else 0
                # where what describes the arrays is damaged, chunks look so, too
                if some and shard.index in marked and not damaged:
                    bad.append((store, shard))
    unmarked = 0
    for store, name, _ in strays if repair else ():
        store.ledger.remove(name)
    for store, shard in bad if repair else ():
        if judge(store, shard):  # still: another run may have repaired it
            store.ledger.unmark(shard.index)
            unmarked += 1
    removed = len(strays) if repair else 0
    return Findings(tuple(problems), tuple(restored), unmarked, pending, bool(wrong), removed)


def _file_problems(root: str, plan: Plan) -> list[str]:
    """Say which files that models are fitted or scored with are lost or damaged, and how to bring them back."""
    found: dict[str, None] = {}  # in order, each once: models share files
    for model in plan.models:
        for needed, read in ((model.basis, read_basis), (model.density, read_density)):
            try:
                if needed is not None:
                    read(root, model)
            except ConfigError as error:
                found[str(error)] = None
    return list(found)


def _source(store: Store, every: Mapping[Kind, Store]) -> Store | None:
    """Return the store that one is made of; None for spectra."""
    kind = source_of(store.kind)
    return None if kind is None else every[kind]


def _strays(root: str, plan: Plan, found: Iterable[Store]) -> list[tuple[Store, str, str]]:
    """List what lies among the markers and is none: store, name, what is wrong."""
    strays = [(store, *each) for store in found for each in store.ledger.strays().items()]
    if not strays:
        return []
    now = read_plan(root)  # a chunk that was added since has a marker, too
    return strays if now.generations == plan.generations else _strays(root, now, stores.stores_of(root, now))


def _half_grown(plan: Plan, store: Store) -> list[str]:
    """Say that a store is described for targets of another generation, as an interrupted extension leaves it."""
    try:
        current = stores.made_for(plan, store)
    except ConfigError:  # of other targets: that is damage
        return []
    remedy = "start the run to go on without them, or add them again"
    return [] if current else [f"{store.label}: more targets were being added when that was interrupted: {remedy}"]


def recheck_grown(root: str, plan: Plan) -> int:
    """Read the chunks again that had fewer rows in an earlier generation, and unmark those that are not as marked.

    A task of that generation, of a client that was thought dead, may have written its fewer rows since. Returns how
    many are to be done again.
    """
    every = {store.kind: store for store in stores.stores_of(root, plan)}
    shards = plan.shards()
    unmarked = 0
    for store in every.values() if plan.grown() else ():
        for index in sorted(plan.grown().keys() & store.ledger.done()):
            if _shard_problems(plan, store, _source(store, every), shards[index]):
                store.ledger.unmark(index)
                unmarked += 1
    return unmarked


def store_problems(store: Store) -> list[str]:
    """Compare a store's coordinates, and what describes its arrays, with what was written when it was made.

    Raises as `verify` where storage does not answer.
    """
    try:
        made = store.ledger.read_store()
        expected, attributes = dict(made["checksums"]), dict(made.get("attributes", {}))
        described = made.get("metadata")  # stores of older versions tell nothing of it
        described = dict.fromkeys(_arrays_of(store, expected)) if described is None else dict(described)
    except (FileNotFoundError, LookupError, TypeError, ValueError) as error:
        return [f"{store.label}: the marker of its store cannot be read ({_damage(error)})"]
    problems = _description_problems(store, described, attributes)
    return problems + _array_problems(f"{store.label}: coordinate", store.url, expected)


def _arrays_of(store: Store, coordinates: Iterable[str]) -> set[str]:
    return {*coordinates, *store.variables}


# Of a description and its copy; the rest may be written in another way by another version of Zarr.
_COMPARED = ("shape", "data_type", "chunk_grid", "fill_value", "attributes", "dimension_names")


def _description_problems(store: Store, expected: Mapping[str, str | None], attributes: Mapping[str, Any]) -> list[str]:
    """Compare what describes a store and its arrays, and the copies that a closed store has for its readers.

    expected: the digests by array, None where all that is known is that there must be a description.
    """
    try:
        group = storage.read_json(storage.join(store.url, METADATA))
        copies = (group.get("consolidated_metadata") or {}).get("metadata")
        made_of = attributes.get("targets_sha256")  # stores of the first version have none
        same_targets = made_of in (None, group["attributes"].get("targets_sha256"))
        if group["attributes"]["fingerprint"] != store.ledger.fingerprint or not same_targets:
            return [f"{store.label}: its store belongs to another plan"]
        if any(group["attributes"].get(key) != value for key, value in attributes.items() if key != "history"):
            return [f"{store.label}: the metadata of its store is not what was written"]
    except Exception as error:
        return [f"{store.label}: the metadata of its store cannot be read ({_damage(error)})"]
    problems = []
    for name in sorted(expected):
        try:
            content = storage.read_bytes(storage.join(store.url, name, METADATA))
            described = {key: json.loads(content).get(key) for key in _COMPARED}  # a scalar has no dimension_names
        except Exception as error:
            problems.append(f"{store.label}: the metadata of {name} cannot be read ({_damage(error)})")
            continue
        if expected[name] not in (None, digest(content)):
            problems.append(f"{store.label}: the metadata of {name} is not what was written")
        elif copies is not None and {key: copies.get(name, {}).get(key) for key in _COMPARED} != described:
            problems.append(f"{store.label}: the consolidated metadata of the store differ from those of {name} itself")
    return problems


def _array_problems(
    where: str,
    url: str,
    expected: Mapping[str, str],
    start: int = 0,
    stop: int | None = None,
    quality: dict[str, NDArray[Any]] | None = None,
) -> list[str]:
    """Compare rows of arrays with the checksums that they had when they were written. quality: gets that array."""
    problems = []
    for name in sorted(expected):
        try:
            arrays = read_region(url, [name], start, stop)
            found = checksum(arrays)[name]
        except Exception as error:  # Codecs and stores raise what they like for damaged bytes.
            problems.append(f"{where} {name} cannot be read ({_damage(error)})")
            continue
        if found != expected[name]:
            problems.append(f"{where} {name} is not what was written")
        elif quality is not None and name == "quality":
            quality |= arrays
    return problems


def _stale_problems(source: Store, shard: Shard, record: Mapping[str, Any], where: str) -> list[str]:
    """Compare what a chunk was made from with what the marker of that says now."""
    try:
        present = source.ledger.read(shard.index)
    except (FileNotFoundError, ValueError) as error:
        _damage(error)
        return []  # reported as the source's own problem
    if not is_whole(present):
        return []
    key, what = _MADE_FROM[source.ledger.stage]
    stale = any(present["checksums"].get(name) != value for name, value in (record.get(key) or {}).items())
    return [f"{where}: {what}"] if stale else []


_MADE_FROM = {
    "ingest": ("spectra_checksums", "its spectra were ingested again after it was encoded"),
    "encode": ("encodings_checksums", "its spectra were encoded again after their density was taken"),
}


def _shard_problems(
    plan: Plan, store: Store, source: Store | None, shard: Shard, rows: pd.DataFrame | None = None
) -> list[str]:
    """Compare a chunk with its marker. source: what it is made of. rows: the run's targets, to compare its own with."""
    where = f"{store.label} chunk {shard.index}"
    try:
        record = store.ledger.read(shard.index)
    except FileNotFoundError:
        return [f"{where}: not done"]
    except ValueError as error:
        return [f"{where}: its marker cannot be read ({_damage(error)})"]
    if not is_whole(record):
        return [f"{where}: the marker that says it is done is incomplete"]
    if record.get("stop", shard.stop) != shard.stop:
        if shard.index in plan.grown():
            return [f"{where}: not done since targets were added"]
        return [f"{where}: its marker is of other rows than {shard.start} to {shard.stop}"]
    problems = []
    made_of = record.get("targets_sha256")  # markers of the first version have none
    if rows is not None and made_of is not None:
        own = targets_sha256(rows.iloc[shard.start : shard.stop], store.survey.coordinates)
        problems += [] if own == made_of else [f"{where}: it was made of other targets"]
    expected: dict[str, str] = record["checksums"]
    problems += [f"{where}: its marker has no checksum of {name}" for name in store.variables if name not in expected]
    if source is not None:
        problems += _stale_problems(source, shard, record, where)
    arrays: dict[str, NDArray[Any]] = {}
    problems += _array_problems(f"{where}:", store.url, expected, shard.start, shard.stop, arrays)
    return problems or _count_problems(where, record, counts(arrays["quality"], plan.unusable))


def _count_problems(where: str, record: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Compare the counts in a marker, which `status` adds up, with those of the data."""
    wrong = [name for name in ("spectra", "good", "usable") if record[name] != found[name]]
    named, own = record["quality"], found["quality"]
    wrong += sorted(name for name in {*named, *own} if named.get(name, 0) != own.get(name, 0))
    return [f"{where}: its marker counts other spectra than its data have: {', '.join(wrong)}"] if wrong else []


def _damage(error: Exception) -> str:
    """Describe the damage; raise errors that say nothing about the data."""
    if storage.is_inconclusive(error):
        raise error
    return f"{type(error).__name__}: {error}"
