"""The ingest of one chunk: fetch, parse, normalize, write, mark."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.archive.attempts import FetchCounters
from pipeline.archive.reader import Archive
from pipeline.archive.source import Allowance, Source, default_concurrency
from pipeline.catalog import targets
from pipeline.compute.stages.record import Record, Timings, finish, packages, record_of, require_same, write_shard
from pipeline.errors import redacted
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan, targets_sha256
from pipeline.planning.schema import SPECTRA_VARIABLES
from pipeline.spectra import normalize
from pipeline.spectra.normalize import Grid
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import BadSpectrum, NoSpectrum, RawSpectrum
from pipeline.store.arrays import spectra_url
from pipeline.store.checkpoint import grid as grid_of
from pipeline.store.root import ingest_ledger, read_plan, targets_url

REQUEST_TIMEOUT = 60.0
"""Seconds for one attempt at a file, beside the time that its bytes take."""


LONGEST_REASON = 200
"""Characters of a reason that a marker keeps."""

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
    plan.require_current()
    require_same(plan.ingest_fingerprint, fingerprint, "ingest")
    with clock.phase("targets"):
        rows = targets.read_rows(targets_url(root), shard.start, shard.stop, plan.survey)
    arrays, reasons = _ingest(plan, rows, allowance, clock, counters)
    with clock.phase("checksum"):
        record = record_of(shard, targets_sha256(rows, plan.survey.coordinates), arrays)
    record["packages"] = packages(("numpy", "zarr", "numcodecs"))
    if reasons:
        record["reasons"] = {str(shard.start + row): reason for row, reason in reasons.items()}
    write_shard(root, plan, ingest_ledger(root, plan), spectra_url(root), shard, arrays, record, clock)
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
        witnesses=allowance.witnesses,
    )
    return Archive(source, layout)


def _ingest(
    plan: Plan, rows: pd.DataFrame, allowance: Allowance | None, clock: Timings, counters: FetchCounters
) -> tuple[dict[str, NDArray[Any]], dict[int, str]]:
    """Return a chunk's arrays, row by row of the targets, and by row why there is no spectrum."""
    reasons: dict[int, str] = {}
    grid = grid_of(plan.config.instrument)
    lengths = {"spectrum": len(rows), "wavelength": plan.n_pixels}
    arrays: dict[str, NDArray[Any]] = {
        name: np.empty([lengths[dim] for dim in variable.dims], variable.dtype)
        for name, variable in SPECTRA_VARIABLES.items()
    }
    spectra = archive_of(plan, allowance).spectra(rows["target"].tolist(), clock.phase, counters)
    for i, (z, raw) in enumerate(zip(rows["z"].tolist(), spectra, strict=True)):
        with clock.phase("normalize"):
            found = raw if isinstance(raw, NoSpectrum) else _normalized(raw, z, grid)
            if isinstance(found, NoSpectrum):
                reasons[i] = redacted(found.reason)[:LONGEST_REASON]
                spectrum = normalize.empty(grid, found.bit)
            else:
                spectrum = found
        for name, values in arrays.items():
            values[i] = getattr(spectrum, name)
    return arrays, reasons


def _normalized(raw: RawSpectrum, z: float, grid: Grid) -> normalize.NormalizedSpectrum | NoSpectrum:
    try:
        return normalize.normalize(raw, z, grid)
    except BadSpectrum as error:
        return NoSpectrum(Quality.BAD_FILE, str(error))
