"""What a run takes, estimated before it starts: requests, bytes to fetch and to store, time.

The rates are those that benchmarks/RESULTS.md measured on one machine: others differ by a factor of two, and a slow
source by more.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import storage
from pipeline.errors import RefusedError
from pipeline.planning import schema
from pipeline.planning.model import ModelConfig
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan
from pipeline.planning.redshift import CATALOG
from pipeline.planning.stages import Kind

# Bytes stored over bytes in memory of what is compressed along a spectrum, by real spectra (flux and ivar together as
# in benchmarks/RESULTS.md, "Chunks and compression") and by what sdss-demo makes of mock ones. All else counts in full:
# a few values per spectrum hardly shrink, and of outputs that were never measured nothing is known.
COMPRESSED = {"flux": 0.78, "ivar": 0.65, "restframe": 0.73, "reconstruction": 0.73}

# What one worker process fetches and prepares in a second, bytes, from spec-lite and spPlate files alike ("Ingest"),
# and what one CPU core encodes in a second, pixels of spectra, with sdss-demo in float32 ("From files to encodings").
FETCHED = 100e6
ENCODED = 160.0 * 3921

# What finding a redshift and fitting latents take, in times of encoding ("Redshifts and refined latents").
SCANNED = 1.0
FITTED = 3.0

LOOKED_AT = 300_000
"""Targets whose files are counted, about; of a larger survey it is done for every n-th chunk, as paths take long."""


@dataclass(frozen=True)
class Estimate:
    """What the pending chunks of a plan take.

    spectra: rows to be ingested or encoded. requests: for the files to fetch, if a cache has none of them; a file that
    spectra share counts once per chunk. fetch_bytes: as many files of the layout's size. store_bytes: of the variables,
    compressed; left out are the targets' columns, some 50 bytes per spectrum and store, and the markers, some kB per
    chunk. seconds_fetch: at the planned rate, or of one worker process where that is slower. per_second: that rate,
    None where it does not decide. seconds_encode: of one CPU core, all models together.
    """

    spectra: int
    requests: int
    fetch_bytes: int
    store_bytes: int
    seconds_fetch: float
    per_second: float | None
    seconds_encode: float


def estimate(
    plan: Plan, keys: Callable[[Shard], Sequence[str]], pending: Mapping[Kind, Sequence[Shard]] | None = None
) -> Estimate:
    """Return what the pending chunks of a plan take.

    keys: a chunk -> its targets' keys; not asked where every target has a file. pending: by stage and model; None: all.
    """
    if pending is None:
        shards = plan.shards()
        pending = {("ingest", None): shards, **{("encode", model.name): shards for model in plan.models}}
    rows = {kind: sum(map(len, chunks)) for kind, chunks in pending.items()}
    layout = plan.survey.layouts[plan.config.layout]
    files = _files(plan, keys, pending.get(("ingest", None), ()))
    requests, fetch_bytes = files * layout.requests, files * layout.size
    working, per_second = fetch_bytes / FETCHED, plan.config.max_requests_per_second
    waiting = requests / per_second if per_second else 0.0
    return Estimate(
        spectra=sum(map(len, {shard for chunks in pending.values() for shard in chunks})),
        requests=requests,
        fetch_bytes=fetch_bytes,
        store_bytes=math.ceil(sum(rows[kind] * _stored(plan, kind) for kind in rows)),
        seconds_fetch=max(working, waiting),
        per_second=per_second if waiting > working else None,
        seconds_encode=sum(n * _work(plan, kind) for kind, n in rows.items()) * plan.n_pixels / ENCODED,
    )


def _files(plan: Plan, keys: Callable[[Shard], Sequence[str]], chunks: Sequence[Shard]) -> int:
    """Count the files of chunks; those of a large survey by some of its chunks, spread evenly."""
    spectra = sum(map(len, chunks))
    if not spectra or not plan.survey.layouts[plan.config.layout].shared:
        return spectra
    some = chunks[:: math.ceil(spectra / LOOKED_AT)]
    files = sum(len(set(plan.survey.paths(plan.config.layout, keys(chunk)))) for chunk in some)
    return round(files * spectra / sum(map(len, some)))


def _work(plan: Plan, kind: Kind) -> float:
    """Return what a stage computes per spectrum, in times of encoding: 0 for those beside it, which take little."""
    stage, name = kind
    if name is None or stage != "encode":
        return 0.0
    model = plan.model(name)
    is_fitted = any(schema.OUTPUTS[output].of_fit for output in model.variables)
    return 1 + SCANNED * (model.redshift != CATALOG) + FITTED * is_fitted


def _stored(plan: Plan, kind: Kind) -> float:
    """Bytes that a stage stores per spectrum."""
    stage, name = kind
    if name is None:
        return _compressed(plan, schema.SPECTRA_VARIABLES)
    model = plan.model(name)
    return _compressed(plan, model.scored if stage == "density" else model.stored, model)


def _compressed(plan: Plan, variables: Mapping[str, schema.Variable], model: ModelConfig | None = None) -> float:
    n_latent, n_rest = (model.n_latent or 0, model.n_rest or 0) if model else (0, 0)
    lengths = schema.lengths(1, plan.n_pixels, n_latent, n_rest)
    return sum(
        COMPRESSED.get(name, 1.0)
        * np.dtype(variable.dtype).itemsize
        * math.prod({**lengths, **variable.sizes}[dim] for dim in variable.dims)
        for name, variable in variables.items()
    )


def lines(estimate: Estimate) -> list[str]:
    """Say in lines of text what is to be fetched and stored, and how long it takes; nothing where nothing is to do."""
    if not estimate.spectra:
        return []
    requests = f"{estimate.requests:,} request{'s' if estimate.requests > 1 else ''}"
    fetch = (
        f"about {requests}, up to {_size(estimate.fetch_bytes)} to fetch" if estimate.requests else "nothing to fetch"
    )
    by = f"at {estimate.per_second:,g} per second" if estimate.per_second else "by one worker process"
    least = "about" if estimate.per_second else "at least"
    times = [f"{least} {_time(estimate.seconds_fetch)} to fetch {by}"] if estimate.requests else []
    if estimate.seconds_encode:
        times.append(f"encoding takes about {_time(estimate.seconds_encode)} of one CPU core")
    return [f"{fetch}, about {_size(estimate.store_bytes)} to store", *(["; ".join(times)] if times else [])]


def require_space(root: str, estimate: Estimate) -> None:
    """Refuse a local ROOT whose disk has less space than is to be stored. Raises ConfigError."""
    path = storage.local_path(root)
    if path is None:
        return
    place = path.absolute()
    free = shutil.disk_usage(next(each for each in (place, *place.parents) if os.path.exists(each))).free
    if free < estimate.store_bytes:
        problem = f"the disk of {root} has {_size(free)} free, and the run stores about {_size(estimate.store_bytes)}"
        remedy = "choose a larger disk or a bucket, or leave out variables with --variables"
        raise RefusedError("ROOT", problem, remedy)


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} TB" if n_bytes < 999.5 else f"{n_bytes:,.0f} TB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 90:
        value, unit = seconds, "s"
    elif seconds < 90 * 60:
        value, unit = seconds / 60, "min"
    else:
        value, unit = seconds / 3600, "h"
    return f"{value:,.0f} {unit}" if value >= 9.95 else f"{value:.2g} {unit}"
