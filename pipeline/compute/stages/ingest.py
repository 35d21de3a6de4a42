"""The ingest of one chunk: fetch, parse, normalize, write, mark."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.archive.reader import Archive
from pipeline.archive.source import Allowance, FetchCounters, Source, default_concurrency
from pipeline.catalog import targets
from pipeline.compute.stages.record import Record, Timings, finish, mark_shard, packages, record_of, require_same
from pipeline.planning.plan import Plan, Shard
from pipeline.planning.schema import SPECTRA_VARIABLES
from pipeline.spectra import normalize
from pipeline.spectra.normalize import Grid
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import BadSpectrum, RawSpectrum
from pipeline.store.arrays import spectra_url, write_region
from pipeline.store.checkpoint import grid as grid_of
from pipeline.store.root import ingest_ledger, read_plan, targets_url

REQUEST_TIMEOUT = 60.0
"""Seconds for one attempt at a file, beside the time that its bytes take."""


SLOWEST = 1e6
"""Bytes per second of a connection that still counts as alive."""


def ingest_shard(root: str, fingerprint: str, shard: Shard, allowance: Allowance | None = None) -> Record:
    """Fetch, parse and normalize a chunk's spectra into the spectra store, and mark the chunk.

    allowance: what this task may ask of the source; None: all that the plan allows. Returns the summary: the marker's
    counts, and what no marker holds, the timings, bytes, requests, retries and the worker. Raises ConfigError when
    ROOT's plan has another fingerprint, SourceError when a file cannot be fetched, OSError when the store cannot be
    written.
    """
    clock, counters = Timings(), FetchCounters()
    plan = read_plan(root)
    require_same(plan.ingest_fingerprint, fingerprint, "ingest")
    with clock.phase("targets"):
        rows = targets.read_rows(targets_url(root), shard.start, shard.stop, plan.survey)
    arrays = _ingest(plan, rows, allowance, clock, counters)
    with clock.phase("write"):
        write_region(spectra_url(root), shard, arrays)
    with clock.phase("checksum"):
        record = record_of(shard, arrays)
    record["packages"] = packages(("numpy", "zarr", "numcodecs"))
    with clock.phase("mark"):
        mark_shard(ingest_ledger(root, plan), spectra_url(root), shard, arrays, record)
    return finish("ingest", None, shard, record, arrays, clock, asdict(counters))


def archive_of(plan: Plan, allowance: Allowance | None = None) -> Archive:
    """Return where a plan's spectra come from. allowance: what a task may ask of it; None: what the plan says."""
    config = plan.config
    layout = plan.survey.layouts[config.layout]
    allowance = allowance or Allowance(
        config.concurrency or default_concurrency(config.source), config.max_requests_per_second
    )
    source = Source(
        config.source,
        concurrency=min(allowance.concurrency, layout.at_once),
        per_second=allowance.per_second,
        retries=config.retries,
        timeout=REQUEST_TIMEOUT + layout.size / SLOWEST,
        cache=config.cache,
    )
    return Archive(source, layout)


def _ingest(
    plan: Plan, rows: pd.DataFrame, allowance: Allowance | None, clock: Timings, counters: FetchCounters
) -> dict[str, NDArray[Any]]:
    """Arrays of a chunk's spectra store, row by row of the targets."""
    grid = grid_of(plan.config.instrument)
    lengths = {"spectrum": len(rows), "wavelength": plan.n_pixels}
    arrays: dict[str, NDArray[Any]] = {
        name: np.empty([lengths[dim] for dim in variable.dims], variable.dtype)
        for name, variable in SPECTRA_VARIABLES.items()
    }
    spectra = archive_of(plan, allowance).spectra(rows["target"].tolist(), clock.phase, counters)
    for i, (z, raw) in enumerate(zip(rows["z"].tolist(), spectra, strict=True)):
        with clock.phase("normalize"):
            if isinstance(raw, Quality):
                spectrum = normalize.empty(grid, raw)
            else:
                spectrum = _normalized(raw, z, grid)
        for name, values in arrays.items():
            values[i] = getattr(spectrum, name)
    return arrays


def _normalized(raw: RawSpectrum, z: float, grid: Grid) -> normalize.NormalizedSpectrum:
    try:
        return normalize.normalize(raw, z, grid)
    except BadSpectrum:
        return normalize.empty(grid, Quality.BAD_FILE)
