"""The encoding of one chunk: read, encode and decode, write, mark."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.catalog import targets
from pipeline.compute.stages import infer, process
from pipeline.compute.stages.record import Record, Timings, finish, mark_shard, packages, record_of, require_same
from pipeline.errors import RefusedError
from pipeline.planning.plan import Plan, Shard
from pipeline.spectra.quality import Quality
from pipeline.store.arrays import checksum, encodings_url, read_region, spectra_url, write_region
from pipeline.store.root import encode_ledger, ingest_ledger, read_plan, targets_url


def encode_shard(root: str, fingerprint: str, model_name: str, shard: Shard) -> Record:
    """Encode and decode a chunk's spectra into the encodings store of a model, and mark the chunk.

    Returns the summary: the marker's counts, and what no marker holds, the timings, bytes and the process. Raises
    ConfigError when ROOT's plan has another fingerprint or the chunk's spectra are not all there, WeightsError for
    another checkpoint than planned, OSError from storage.
    """
    clock = Timings()
    plan = read_plan(root)
    require_same(plan.encode_fingerprint(model_name), fingerprint, f"encode {model_name}")
    config = plan.model(model_name)
    with clock.phase("read"):
        spectra = read_region(spectra_url(root), ("flux", "ivar", "quality"), shard.start, shard.stop)
        z = targets.read_rows(targets_url(root), shard.start, shard.stop, plan.survey)["z"].to_numpy(np.float32)
    if (spectra["quality"] & np.uint32(Quality.NOT_PROCESSED)).any():
        raise RefusedError("spectra", f"chunk {shard.index} is not ingested", "run ingest first")
    with clock.phase("checksum"):
        checksums = checksum(spectra)
        _require_undamaged(root, plan, shard, checksums)
    with clock.phase("load"):
        model = process.load(config, plan.config.instrument)
    with clock.phase("wait"):
        process.compute_lock.acquire()
    try:
        with clock.phase("encode"):
            process.make_deterministic()
            encoded = infer.encode_spectra(
                model,
                spectra["flux"],
                spectra["ivar"],
                z,
                spectra["quality"],
                outputs=config.variables,
                micro_batch=config.micro_batch or 1,
                device=process.device(),
                precision=config.precision,
            )
    finally:
        process.compute_lock.release()
    arrays = {**encoded.outputs, "quality": encoded.quality}
    with clock.phase("write"):
        write_region(encodings_url(root, model_name), shard, arrays)
    with clock.phase("checksum"):
        record = record_of(shard, arrays)
    record |= {"device": process.device_name(process.device()), "spectra_checksums": checksums}
    record["packages"] = packages(("numpy", "torch", "zarr", "numcodecs"))
    if encoded.micro_batch != config.micro_batch:
        record["micro_batch"] = encoded.micro_batch
    with clock.phase("mark"):
        ledger = encode_ledger(root, plan, model_name)
        mark_shard(ledger, encodings_url(root, model_name), shard, arrays, record)
    return finish("encode", model_name, shard, record, arrays, clock)


def _require_undamaged(root: str, plan: Plan, shard: Shard, found: Mapping[str, str]) -> None:
    """Compare what was read with what ingest wrote, so that damage is never taken for data."""
    try:
        written = ingest_ledger(root, plan).read(shard.index)["checksums"]
    except FileNotFoundError as error:  # whatever the store holds
        raise RefusedError("spectra", f"chunk {shard.index} is not ingested", "run ingest first") from error
    damaged = [name for name, value in found.items() if written.get(name) != value]
    if damaged:
        problem = f"chunk {shard.index} is damaged: its {', '.join(damaged)} is not what ingest wrote"
        raise RefusedError("spectra", problem, f"spender-pipeline verify {root} --repair, then run it again")
