from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.compute.stages import process as worker
from pipeline.compute.stages.encode import encode_shard
from pipeline.compute.stages.ingest import ingest_shard
from pipeline.errors import ConfigError
from pipeline.spectra.quality import Quality
from pipeline.store import arrays as dataset
from pipeline.store import root as runs
from tests.running import create_stores, make_root

pytestmark = pytest.mark.slow


def test_encode_writes_the_plans_variables_and_marks(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    shard = plan.shards()[0]
    ingest_shard(root, plan.ingest_fingerprint, shard)
    encode_shard(root, plan.encode_fingerprint("random"), "random", shard)
    names = (*plan.models[0].variables, "quality")
    stored = dataset.read_region(dataset.encodings_url(root, "random"), names, 0, 2)
    assert stored["latents"].shape == (2, 4)
    finite = np.isfinite(stored["latents"]).all(1)
    assert (finite | (stored["quality"] != 0)).all()
    marker = runs.encode_ledger(root, plan, "random").read(0)
    assert marker["checksums"] == dataset.checksum(stored)
    assert marker["device"] == worker.device_name(worker.device())


def test_the_quality_of_an_encoding_holds_the_bits_of_the_ingest(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=2, shard=2, source=str(tmp_path / "empty"))
    create_stores(root, plan)
    shard = plan.shards()[0]
    ingest_shard(root, plan.ingest_fingerprint, shard)
    encode_shard(root, plan.encode_fingerprint("random"), "random", shard)
    stored = dataset.read_region(dataset.encodings_url(root, "random"), ("latents", "quality"), 0, 2)
    assert stored["quality"].tolist() == [Quality.NO_FILE] * 2
    assert np.isnan(stored["latents"]).all()


def test_a_chunk_that_is_not_ingested_is_not_encoded(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    with pytest.raises(ConfigError, match="run ingest first"):
        encode_shard(root, plan.encode_fingerprint("random"), "random", plan.shards()[0])
    assert runs.encode_ledger(root, plan, "random").done() == set()
