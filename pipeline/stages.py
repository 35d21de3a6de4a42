"""What one task does with one chunk: read, compute, write, mark. Arrays never leave the task."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import pipeline
from pipeline import dataset, infer, layouts, metrics, normalize, runs, schema, targets, worker
from pipeline.archive import Archive
from pipeline.config import ConfigError
from pipeline.ledger import Ledger
from pipeline.plan import Chunk, Plan
from pipeline.quality import Quality
from pipeline.sources import Share, Source, Traffic, default_concurrency

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 60.0
"""Seconds for one attempt at a file, beside the time that its bytes take."""

SLOWEST = 1e6
"""Bytes per second of a connection that still counts as alive."""

Record = dict[str, Any]
"""A chunk's marker or summary: JSON-ready."""


class Timings:
    """When a task began, and the seconds that it spent on each of its parts: for the log, never for a marker."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time that the context takes to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def ingest_chunk(root: str, fingerprint: str, chunk: Chunk, share: Share | None = None) -> Record:
    """Fetch, parse and normalize a chunk's spectra into the spectra store, and mark the chunk.

    share: what this task may ask of the source; None: all that the plan allows. Returns the summary: the marker's
    counts, and what no marker holds, the timings, bytes, requests, retries and the worker. Raises ConfigError when
    ROOT's plan has another fingerprint, SourceError when a file cannot be fetched, OSError when the store cannot be
    written.
    """
    clock, traffic = Timings(), Traffic()
    plan = runs.read_plan(root)
    _require_same(plan.ingest_fingerprint, fingerprint, "ingest")
    with clock.part("targets"):
        rows = targets.read_rows(runs.targets_url(root), chunk.start, chunk.stop)
    arrays = _ingest(plan, rows, share, clock, traffic)
    with clock.part("write"):
        dataset.write_region(dataset.spectra_url(root), chunk, arrays)
    with clock.part("checksum"):
        record = _record(chunk, arrays)
    record["packages"] = packages(("numpy", "zarr", "numcodecs"))
    with clock.part("mark"):
        _mark(runs.ingest_ledger(root, plan), dataset.spectra_url(root), chunk, arrays, record)
    return _finish("ingest", None, chunk, record, arrays, clock, asdict(traffic))


def encode_chunk(root: str, fingerprint: str, model_name: str, chunk: Chunk) -> Record:
    """Encode and decode a chunk's spectra into the encodings store of a model, and mark the chunk.

    Returns the summary: the marker's counts, and what no marker holds, the timings, bytes and the worker. Raises
    ConfigError when ROOT's plan has another fingerprint or the chunk's spectra are not all there, WeightsError for
    another checkpoint than planned, OSError from storage.
    """
    clock = Timings()
    plan = runs.read_plan(root)
    _require_same(plan.encode_fingerprint(model_name), fingerprint, f"encode {model_name}")
    config = plan.model(model_name)
    with clock.part("read"):
        spectra = dataset.read_chunk(dataset.spectra_url(root), ("flux", "ivar", "quality"), chunk.start, chunk.stop)
        z = targets.read_rows(runs.targets_url(root), chunk.start, chunk.stop)["z"].to_numpy(np.float32)
    if (spectra["quality"] & np.uint32(Quality.NOT_PROCESSED)).any():
        raise ConfigError(f"chunk {chunk.index}", "not ingested", "spectra in the store", "run ingest first")
    with clock.part("checksum"):
        checksums = dataset.checksum(spectra)
        _require_undamaged(root, plan, chunk, checksums)
    with clock.part("load"):
        model = worker.load(config, plan.config.instrument)
    with clock.part("wait"):
        worker.compute_lock.acquire()
    try:
        with clock.part("encode"):
            worker.prepare()
            encoded = infer.encode_spectra(
                model,
                spectra["flux"],
                spectra["ivar"],
                z,
                spectra["quality"],
                micro_batch=config.micro_batch or 1,
                device=worker.device(),
                precision=config.precision,
            )
    finally:
        worker.compute_lock.release()
    arrays = {name: getattr(encoded, name) for name in schema.variables_of(config)}
    with clock.part("write"):
        dataset.write_region(dataset.encodings_url(root, model_name), chunk, arrays)
    with clock.part("checksum"):
        record = _record(chunk, arrays)
    record |= {"device": worker.device_name(worker.device()), "spectra_checksums": checksums}
    record["packages"] = packages(("numpy", "torch", "zarr", "numcodecs"))
    if encoded.micro_batch != config.micro_batch:
        record["micro_batch"] = encoded.micro_batch
    with clock.part("mark"):
        ledger = runs.encode_ledger(root, plan, model_name)
        _mark(ledger, dataset.encodings_url(root, model_name), chunk, arrays, record)
    return _finish("encode", model_name, chunk, record, arrays, clock)


def _mark(ledger: Ledger, url: str, chunk: Chunk, arrays: Mapping[str, NDArray[Any]], record: Record) -> None:
    """Mark a chunk. Where another run has marked it meanwhile, have data and marker belong together.

    Two runs of one ROOT on like machines write the same bytes. On unlike ones the last bits of numbers may differ,
    and what stands may be a mixture: then all of it is written again, marker included.
    """
    if ledger.mark(chunk.index, record):
        return
    try:
        expected = ledger.read(chunk.index)["checksums"]
        if dataset.checksum(dataset.read_chunk(url, arrays, chunk.start, chunk.stop)) == expected:
            return
    except (FileNotFoundError, ValueError, KeyError):
        pass  # removed or damaged since
    logger.warning("chunk %d is marked by another run, with other data: writing it again", chunk.index)
    dataset.write_region(url, chunk, arrays)
    ledger.replace(chunk.index, record)


def packages(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of what makes the numbers in this process."""
    versions = {name: metadata.version(name) for name in names}
    own = {"spender-pipeline": pipeline.__version__, "python": platform.python_version()}
    return {**versions, **own, "machine": platform.machine()}


def _require_undamaged(root: str, plan: Plan, chunk: Chunk, found: Mapping[str, str]) -> None:
    """Compare what was read with what ingest wrote, so that damage is never taken for data."""
    try:
        written = runs.ingest_ledger(root, plan).read(chunk.index)["checksums"]
    except FileNotFoundError as error:  # whatever stands in the store
        raise ConfigError(
            f"chunk {chunk.index}", "not ingested", "spectra with a marker", "run ingest first"
        ) from error
    damaged = [name for name, value in found.items() if written.get(name) != value]
    if damaged:
        raise ConfigError(
            f"spectra of chunk {chunk.index}",
            f"other {', '.join(damaged)} than ingest wrote",
            "the spectra that the ledger tells of",
            "the store is damaged: run verify --repair, then run",
        )


def _require_same(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise ConfigError(
            f"fingerprint of {what}",
            found[:12],
            f"{expected[:12]}, that of the run",
            "the plan has been changed while this run was going: start the run again",
        )


def archive_of(plan: Plan, share: Share | None = None) -> Archive:
    """Return where a plan's spectra come from. share: what a task may ask of it; None: what the plan says."""
    config = plan.config
    layout = layouts.LAYOUTS[config.layout]
    share = share or Share(config.concurrency or default_concurrency(config.source), config.max_requests_per_second)
    source = Source(
        config.source,
        concurrency=min(share.concurrency, layout.at_once),
        per_second=share.per_second,
        retries=config.retries,
        timeout=REQUEST_TIMEOUT + layout.size / SLOWEST,
        cache=config.cache,
    )
    return Archive(source, config.layout)


def _ingest(
    plan: Plan, rows: pd.DataFrame, share: Share | None, clock: Timings, traffic: Traffic
) -> dict[str, NDArray[Any]]:
    """Arrays of a chunk's spectra store, row by row of the targets."""
    grid = worker.grid(plan.config.instrument)
    n = len(rows)
    arrays: dict[str, NDArray[Any]] = {
        "flux": np.empty((n, plan.n_pixels), np.float32),
        "ivar": np.empty((n, plan.n_pixels), np.float32),
        "norm": np.empty(n, np.float32),
        "quality": np.empty(n, np.uint32),
    }
    spectra = archive_of(plan, share).spectra(rows, clock.part, traffic)
    for i, (z, raw) in enumerate(zip(rows["z"].tolist(), spectra, strict=True)):
        with clock.part("normalize"):
            if isinstance(raw, Quality):
                spectrum = normalize.empty(grid, raw)
            else:
                spectrum = normalize.normalize(raw, z, grid)
        for name, values in arrays.items():
            values[i] = getattr(spectrum, name)
    return arrays


def _record(chunk: Chunk, arrays: Mapping[str, NDArray[Any]]) -> Record:
    """Build a chunk's marker: its rows, the spectra by quality bit, the checksums of what was written."""
    quality = arrays["quality"]
    counts = {bit.name: int(np.count_nonzero(quality & np.uint32(bit))) for bit in Quality}
    return {
        "start": chunk.start,
        "stop": chunk.stop,
        "spectra": len(chunk),
        "good": int(np.count_nonzero(quality == 0)),
        "usable": int(np.count_nonzero((quality & np.uint32(Quality.UNUSABLE)) == 0)),
        "quality": {name: count for name, count in counts.items() if count},
        "checksums": dataset.checksum(arrays),
    }


def _finish(
    stage: str,
    model: str | None,
    chunk: Chunk,
    record: Record,
    arrays: Mapping[str, NDArray[Any]],
    clock: Timings,
    traffic: Mapping[str, int] | None = None,
) -> Record:
    """Build a chunk's summary, log it as one line of JSON, count it, return it.

    It holds the marker without checksums and versions, the bytes of the arrays written (before compression), what went
    to the source and came from it, and who did it, when, in how many seconds per part.
    """
    summary = {
        "stage": stage,
        "model": model,
        "chunk": chunk.index,
        **{key: value for key, value in record.items() if not key.endswith("checksums") and key != "packages"},
        "written": sum(values.nbytes for values in arrays.values()),
        **(traffic or {}),
        "worker": f"{platform.node()}:{os.getpid()}",
        "started": clock.started.isoformat(timespec="milliseconds"),
        "seconds": {name: round(value, 3) for name, value in clock.seconds.items()},
    }
    logger.info("%s", json.dumps(summary))
    try:
        metrics.count(stage, model, summary)
    except Exception:  # of whatever kind: the chunk is done, counted or not
        logger.warning("chunk %d could not be counted", chunk.index, exc_info=True)
    return summary
