"""The density of one chunk's latents: read, score, write, mark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.catalog import targets
from pipeline.compute.stages import process
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
from pipeline.errors import RefusedError
from pipeline.planning.density import COVARIANCE, LATENTS, SN
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan, targets_sha256
from pipeline.store.arrays import checksum, density_url, encodings_url, read_region
from pipeline.store.root import density_ledger, encode_ledger, read_plan, targets_url
from spender_core.density import Density
from spender_core.precision import arithmetic

AT_ONCE = 1024
"""Spectra that are scored at once; always as many, so that a spectrum's score does not depend on how many come."""


def density_shard(root: str, fingerprint: str, model_name: str, shard: Shard) -> Record:
    """Score the latents of a chunk into the density's store of a model, and mark the chunk.

    Returns the summary, as `encode_shard`. Raises ConfigError when ROOT's plan has another fingerprint, lacks the
    density, or the chunk is not encoded, OSError from storage.
    """
    clock = Timings()
    plan = read_plan(root)
    plan.require_current()
    config = plan.model(model_name)
    if config.density is None:
        raise RefusedError("density", f"model {model_name} has no density any more", "start the run again")
    require_same(plan.density_fingerprint(model_name), fingerprint, f"density {model_name}")
    names = [name for name in (LATENTS, "quality", COVARIANCE) if name in config.stored]
    with clock.phase("read"):
        made_of = _marker(root, plan, model_name, shard)
        encodings = read_region(encodings_url(root, model_name), names, shard.start, shard.stop)
        rows = targets.read_rows(targets_url(root), shard.start, shard.stop, plan.survey)
    with clock.phase("checksum"):
        checksums = checksum(encodings)
    damaged = [name for name, value in checksums.items() if made_of["checksums"].get(name) != value]
    if damaged:
        problem = f"chunk {shard.index} is damaged: its {', '.join(damaged)} is not what was encoded"
        raise RefusedError("encodings", problem, f"spender-pipeline verify {root} --repair, then run it again")
    with clock.phase("load"):
        density = process.load_density(root, config)
    sn = rows[SN].to_numpy(np.float64) if SN in rows else None
    with clock.phase("wait"):
        process.compute_lock.acquire()
    try:
        with clock.phase("density"):
            process.make_deterministic()
            covariance = encodings.get(COVARIANCE)
            scores = score(density, encodings[LATENTS], covariance, sn, config.scored, process.device())
    finally:
        process.compute_lock.release()
    arrays = {**scores, "quality": encodings["quality"]}
    with clock.phase("checksum"):
        record = record_of(shard, targets_sha256(rows, plan.survey.coordinates), arrays)
    record |= {"device": process.device_name(process.device()), "encodings_checksums": checksums}
    record |= {"packages": packages(("numpy", "torch", "zarr", "numcodecs", "zuko"))}
    record |= {"density_model_sha256": density.model_sha256 or "not said by the file"}
    ledger = density_ledger(root, plan, model_name)
    write_shard(root, plan, ledger, density_url(root, model_name), shard, arrays, record, clock)
    return finish("density", model_name, shard, record, arrays, clock)


def score(
    density: Density,
    latents: NDArray[np.float32],
    covariance: NDArray[np.float32] | None,
    sn: NDArray[np.floating[Any]] | None,
    wanted: Iterable[str],
    device: torch.device,
) -> dict[str, NDArray[np.float32]]:
    """Return the scores of N spectra by name, each of shape (N,), NaN where latents are not finite.

    latents: shape (N, S). covariance: shape (N, S (S + 1) / 2), packed, or None. sn: shape (N,), or None. wanted: names
    of scores, as in `planning.density`.
    """
    log_prob = np.full(len(latents), np.nan, np.float32)
    noise = log_prob.copy()
    with torch.inference_mode(), arithmetic("float32", device):
        for start in range(0, len(latents), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            n = len(latents[rows])
            batch = _padded(latents[rows], device)
            log_prob[rows] = density.log_prob(batch)[:n].cpu().numpy()
            if covariance is not None:
                noise[rows] = density.log_mean_prob(batch, _padded(covariance[rows], device))[:n].cpu().numpy()
    table = density.held_out
    unknown = np.full(len(latents), np.nan, np.float32)
    found = {
        "log_prob": log_prob,
        "log_prob_percentile": unknown if table is None else table.percentile(log_prob),
        "log_prob_percentile_sn": unknown if table is None else table.percentile_at(log_prob, sn),
        "log_prob_noise": noise,
    }
    return {name: found[name] for name in wanted if name in found}


def _padded(values: NDArray[np.float32], device: torch.device) -> torch.Tensor:
    batch = np.full((AT_ONCE, values.shape[1]), np.nan, np.float32)
    batch[: len(values)] = values
    return torch.from_numpy(batch).to(device)


def _marker(root: str, plan: Plan, model_name: str, shard: Shard) -> Mapping[str, Any]:
    try:
        marker = encode_ledger(root, plan, model_name).read(shard.index)
    except FileNotFoundError as error:
        raise RefusedError("encodings", f"chunk {shard.index} is not encoded", "run it first") from error
    if marker.get("stop") != shard.stop:
        raise Superseded(f"chunk {shard.index} has more rows since targets were added")
    return marker
