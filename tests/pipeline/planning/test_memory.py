from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.planning.memory import RESERVED, projected_memory
from pipeline.planning.plan import Plan
from tests.planner import model, survey

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeTargets


def test_memory_counts_the_arrays_and_the_copies_of_the_largest(make_targets: MakeTargets) -> None:
    big = Plan.create(survey(shard=4096), make_targets(5000)).with_model(model(micro_batch=64))
    flux = 4096 * 3921 * 4
    assert 2 * flux < projected_memory(big, "ingest") - RESERVED < 6 * flux
    stored_and_read = 2 * flux + 4096 * 7000 * 4
    assert projected_memory(big, "encode", big.model("m")) > RESERVED + stored_and_read
    small = Plan.create(survey(shard=256), make_targets(5000))  # where writing does not outweigh computing
    projected = {
        (precision, size): projected_memory(small, "encode", model(precision=precision, micro_batch=size))
        for precision in ("float32", "bf16")
        for size in (8, 64, 256)
    }
    assert projected["float32", 8] < projected["float32", 64] <= projected["float32", 256]
    # the plain layers hold a whole micro-batch, the tiled ones 64 spectra of it
    assert projected["float32", 256] < projected["bf16", 64] < projected["bf16", 256]


def test_memory_of_encoding_needs_the_model(plan: Plan) -> None:
    with pytest.raises(ValueError, match="model"):
        projected_memory(plan, "encode")
