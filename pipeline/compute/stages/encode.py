"""The encoding of one chunk: read, encode and decode, write, mark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.catalog import targets
from pipeline.compute.stages import infer, process
from pipeline.compute.stages.record import (
    Record,
    Superseded,
    Timings,
    finish,
    packages,
    record_of,
    require_same,
    write_shard,
)
from pipeline.compute.stages.redshift import find_redshifts, rescaled
from pipeline.errors import RefusedError
from pipeline.planning.model import ModelConfig
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan, targets_sha256
from pipeline.planning.redshift import CATALOG, KINDS, REFINE, warning_counts
from pipeline.planning.schema import OUTPUTS
from pipeline.spectra.quality import Quality
from pipeline.store.arrays import checksum, encodings_url, read_region, spectra_url
from pipeline.store.checkpoint import grid
from pipeline.store.root import encode_ledger, ingest_ledger, read_plan, targets_url
from spender_core.model import SpectrumModel


def encode_shard(root: str, fingerprint: str, model_name: str, shard: Shard) -> Record:
    """Encode and decode a chunk's spectra into the encodings store of a model, and mark the chunk.

    Returns the summary: the marker's counts, and what no marker holds, the timings, bytes and the process. Raises
    ConfigError when ROOT's plan has another fingerprint or the chunk's spectra are not all there, WeightsError for
    another checkpoint than planned, OSError from storage.
    """
    clock = Timings()
    plan = read_plan(root)
    plan.require_current()
    require_same(plan.encode_fingerprint(model_name), fingerprint, f"encode {model_name}")
    config = plan.model(model_name)
    with clock.phase("read"):
        spectra = read_region(spectra_url(root), ("flux", "ivar", "quality"), shard.start, shard.stop)
        rows = targets.read_rows(targets_url(root), shard.start, shard.stop, plan.survey)
    if (spectra["quality"] & np.uint32(Quality.NOT_PROCESSED)).any():
        raise RefusedError("spectra", f"chunk {shard.index} is not ingested", "run ingest first")
    with clock.phase("checksum"):
        checksums = checksum(spectra)
        _require_undamaged(root, plan, shard, checksums)
    with clock.phase("load"):
        model = process.load(config, plan.config.instrument)
        fitting = process.load_fitting(root, config, plan.config.instrument) if config.needs_basis else None
    with clock.phase("wait"):
        process.compute_lock.acquire()
    try:
        with clock.phase("encode"):
            process.make_deterministic()
            encoded = _encoded(config, plan.config.instrument, model, fitting, spectra, rows)
    finally:
        process.compute_lock.release()
    arrays = {**encoded.outputs, "quality": encoded.quality}
    with clock.phase("checksum"):
        record = record_of(shard, targets_sha256(rows, plan.survey.coordinates), arrays)
    record |= {"device": process.device_name(process.device()), "spectra_checksums": checksums}
    record["packages"] = packages(("numpy", "torch", "zarr", "numcodecs"))
    if encoded.micro_batch != config.micro_batch:
        record["micro_batch"] = encoded.micro_batch
    if "z_fit_warning" in arrays:
        record["redshift_warnings"] = warning_counts(arrays["z_fit_warning"])
    ledger = encode_ledger(root, plan, model_name)
    write_shard(root, plan, ledger, encodings_url(root, model_name), shard, arrays, record, clock)
    return finish("encode", model_name, shard, record, arrays, clock)


def _encoded(
    config: ModelConfig,
    instrument: str,
    model: SpectrumModel,
    fitting: process.Fitting | None,
    spectra: Mapping[str, NDArray[Any]],
    rows: pd.DataFrame,
) -> infer.Encoded:
    """Encode a chunk at the catalog's redshifts, or at those that are found first, in the scale that they give."""
    flux, ivar, quality = (spectra[name] for name in ("flux", "ivar", "quality"))
    z = rows["z"].to_numpy(np.float64)
    size, device = config.micro_batch or 1, process.device()
    is_found = config.redshift != CATALOG
    found: dict[str, NDArray[Any]] = {}
    if is_found and fitting is not None:
        near = z if config.redshift == REFINE else None
        found = find_redshifts(
            fitting.estimator, flux, ivar, quality, near, config.window, micro_batch=size, device=device
        )
        z = found["z_fit"]
        scaled = rescaled(flux, ivar, z, quality, grid(instrument))
        flux, ivar, quality = scaled.flux, scaled.ivar, scaled.quality
        rows = rows.assign(z=z)
        if near is None:  # near the catalog's redshift, kinds are not compared: the catalog's class stays
            rows["class"] = [KINDS[kind] if kind >= 0 else "" for kind in found["z_fit_class"]]
    encoded = infer.encode_spectra(
        model,
        flux,
        ivar,
        z.astype(np.float32),
        quality,
        outputs=config.variables,
        micro_batch=size,
        device=device,
        precision=config.precision,
        outside=None if config.domain is None else config.domain.outside(rows),
        fit=None if fitting is None else infer.Fit(fitting.prior, free_z=is_found),
    )
    if not is_found:
        return encoded
    for name, values in encoded.outputs.items():  # back to the units of the norm that ingest stored
        if OUTPUTS[name].in_flux:
            values *= scaled.factor.reshape(-1, *[1] * (values.ndim - 1))
    return replace(encoded, outputs={**encoded.outputs, **found})


def _require_undamaged(root: str, plan: Plan, shard: Shard, found: Mapping[str, str]) -> None:
    """Compare what was read with what ingest wrote, so that damage is never taken for data."""
    try:
        marker = ingest_ledger(root, plan).read(shard.index)
    except FileNotFoundError as error:  # whatever the store holds
        raise RefusedError("spectra", f"chunk {shard.index} is not ingested", "run ingest first") from error
    if marker.get("stop") != shard.stop:
        raise Superseded(f"chunk {shard.index} has more rows since targets were added")
    damaged = [name for name, value in found.items() if marker["checksums"].get(name) != value]
    if damaged:
        problem = f"chunk {shard.index} is damaged: its {', '.join(damaged)} is not what ingest wrote"
        raise RefusedError("spectra", problem, f"spender-pipeline verify {root} --repair, then run it again")
