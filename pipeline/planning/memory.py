"""The memory that a task takes, projected before anything is submitted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from pipeline.config import MAX_CONCURRENCY
from pipeline.errors import ConfigError
from pipeline.planning import schema
from pipeline.planning.density import COVARIANCE, LATENTS
from pipeline.planning.model import ModelConfig
from pipeline.planning.partition import MICRO_BATCH
from pipeline.planning.plan import Plan
from pipeline.planning.stages import Kind

# Memory of a task, bytes: an interpreter with torch, Zarr, Dask and a model; what writing a shard takes, as a multiple
# of the array itself (benchmarks/RESULTS.md, "Plans of five million spectra").
RESERVED = 450 * 2**20
WRITE_COPIES = 2.5
# Measured: templates of redshifts, transformed; correlations of the spectra that are scanned at once, or their
# derivatives by all latents.
FITTING_KEPT = 32 * 2**20
FITTING_AT_ONCE = 96 * 2**20
# Measured: a density of latents, and what it holds of the latents that are scored at once.
SCORING = 96 * 2**20


def projected_memory(plan: Plan, stage: str, model: ModelConfig | None = None) -> int:
    """Return the projected peak of one task, in bytes, the interpreter and its libraries included.

    stage: "ingest", or "encode" or "density" with its model. Sums what is held at once: the chunk's arrays, the copies
    that Zarr makes while it writes or reads the largest of them, and the files in flight or the model's activations.
    """
    inputs = _sizes(plan, schema.SPECTRA_VARIABLES)
    if stage == "ingest":
        return RESERVED + sum(inputs) + max(int(WRITE_COPIES * max(inputs)), _files_in_memory(plan)) + _kept(plan)
    if model is None:
        raise ValueError(f"the memory of a task of {stage} is not known without its model")
    if stage == "density":
        read = _sizes(plan, {name: model.stored[name] for name in (LATENTS, COVARIANCE) if name in model.stored}, model)
        return RESERVED + SCORING + int(WRITE_COPIES * max(read)) + sum(read) + sum(_sizes(plan, model.scored, model))
    outputs = _sizes(plan, {**schema.OUTPUTS, **model.stored}, model)
    # The inputs stay until the outputs are written; activations and copies never meet.
    kept, at_once = _of_model(plan, model)
    if model.needs_basis:
        kept, at_once = kept + FITTING_KEPT, max(at_once, FITTING_AT_ONCE)
    copies = max(at_once, int(WRITE_COPIES * max(outputs)))
    return RESERVED + _kept(plan) + kept + sum(inputs) + sum(outputs) + copies


def _of_model(plan: Plan, model: ModelConfig) -> tuple[int, int]:
    """Bytes that a process keeps for a model, and that a forward pass holds at once, as its architecture says."""
    from spender_core.architectures import get_architecture  # torch: not for those who only read a plan

    try:
        architecture = get_architecture(model.architecture)
    except ValueError as error:
        raise ConfigError(f"model {model.name}", model.architecture, "an installed architecture", str(error)) from error
    return architecture.projected_memory(
        n_pixels=plan.n_pixels,
        n_latent=model.n_latent or 0,
        n_rest=model.n_rest or 0,
        batch=model.micro_batch or MICRO_BATCH,
        precision=model.precision,
    )


def _files_in_memory(plan: Plan) -> int:
    """Bytes of the files that a task has fetched or under way; a connection holds its file twice when it ends."""
    layout = plan.survey.layouts[plan.config.layout]
    at_once = min(plan.config.concurrency or MAX_CONCURRENCY, layout.at_once)
    return (3 if layout.shared else 2) * at_once * layout.size


def _kept(plan: Plan) -> int:
    """Bytes that a process keeps between tasks: its last plate."""
    layout = plan.survey.layouts[plan.config.layout]
    return layout.size if layout.shared else 0


def _sizes(plan: Plan, variables: Mapping[str, schema.Variable], model: ModelConfig | None = None) -> list[int]:
    """Bytes of one chunk of each variable; of a model's, also of those that a plan may not ask for."""
    n_latent, n_rest = (model.n_latent or 0, model.n_rest or 0) if model else (0, 0)
    lengths = schema.lengths(plan.shard, plan.n_pixels, n_latent, n_rest)
    return [
        math.prod({**lengths, **variable.sizes}[dim] for dim in variable.dims) * np.dtype(variable.dtype).itemsize
        for variable in variables.values()
    ]


MEMORY_FRACTION = 0.8
"""Share of its limit that a worker may fill: Dask pauses it there (distributed.worker.memory.pause)."""


def memory_needed(plan: Plan, kinds: Iterable[Kind]) -> int:
    """Give the projected peak of the largest task among the kinds, in bytes; 0 when there are none."""
    projections = (projected_memory(plan, stage, plan.model(model) if model else None) for stage, model in set(kinds))
    return max(projections, default=0)


def memory_at_once(needed: int, threads: int) -> int:
    """Give the projected peak of a process that does so many tasks of a projected peak at once, in bytes."""
    return RESERVED + threads * (needed - RESERVED) if needed else 0


def worker_memory(plan: Plan, threads: int) -> int:
    """Give the memory limit, in bytes, of workers that do so many of any of a plan's tasks at once."""
    kinds: list[Kind] = [("ingest", None), *(("encode", model.name) for model in plan.models)]  # a density takes less
    return int(memory_at_once(memory_needed(plan, kinds), threads) / MEMORY_FRACTION)
