from __future__ import annotations

import json
import logging
import os
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.catalog import targets
from pipeline.compute.stages.encode import encode_shard
from pipeline.compute.stages.ingest import ingest_shard
from pipeline.compute.stages.record import Record
from pipeline.errors import ConfigError
from pipeline.planning.partition import Shard
from pipeline.spectra.quality import Quality
from pipeline.store import arrays as dataset
from pipeline.store import root as runs
from pipeline.surveys.sdss.survey import SDSS
from tests.running import create_stores, make_root, read_spectra

pytestmark = pytest.mark.slow


def _encode_random(root: str, fingerprint: str, shard: Shard) -> Record:
    return encode_shard(root, fingerprint, "random", shard)


@pytest.mark.parametrize("stage", ["ingest", "encode"])
def test_a_task_of_another_plan_is_refused(mirror: Path, tmp_path: Path, stage: str) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    do = ingest_shard if stage == "ingest" else _encode_random
    with pytest.raises(ConfigError, match="changed during this run"):
        do(root, "0" * 64, plan.shards()[0])
    assert read_spectra(root, 0, 2)["quality"].tolist() == [Quality.NOT_PROCESSED] * 2


def test_the_marker_holds_counts_and_checksums_but_no_times(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    shard = plan.shards()[0]
    summary = ingest_shard(root, plan.ingest_fingerprint, shard)
    marker = runs.ingest_ledger(root, plan).read(0)
    assert marker["spectra"] == 2
    assert marker["checksums"] == dataset.checksum(read_spectra(root, 0, 2))
    assert "seconds" not in marker
    assert set(summary["seconds"]) >= {"fetch", "normalize", "write"}
    assert "checksums" not in summary


def test_a_chunk_logs_one_line_with_its_timings(mirror: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    with caplog.at_level(logging.INFO, logger="pipeline.compute.stages.record"):
        ingest_shard(root, plan.ingest_fingerprint, Shard(0, 0, 2))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "pipeline.compute.stages.record"]
    shown = json.loads(line)
    assert shown["spectra"] == 2
    assert "fetch" in shown["seconds"]
    assert (shown["stage"], shown["chunk"], shown["worker"]) == ("ingest", 0, f"{platform.node()}:{os.getpid()}")


def test_a_summary_tells_the_bytes_and_requests(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    shard = plan.shards()[0]
    before = datetime.now(UTC)
    ingested = ingest_shard(root, plan.ingest_fingerprint, shard)
    files = [
        mirror / path for path in SDSS.paths("spec-lite", targets.read_rows(runs.targets_url(root), 0, 2)["target"])
    ]
    assert ingested["fetched"] == sum(file.stat().st_size for file in files)
    assert (ingested["requests"], ingested["retries"]) == (2, 0)
    assert ingested["written"] == sum(values.nbytes for values in read_spectra(root, 0, 2).values())
    assert before - timedelta(seconds=1) <= datetime.fromisoformat(ingested["started"]) <= datetime.now(UTC)
    encoded = encode_shard(root, plan.encode_fingerprint("random"), "random", shard)
    names = (*plan.models[0].variables, "quality")
    stored = dataset.read_region(dataset.encodings_url(root, "random"), names, 0, 2)
    assert encoded["written"] == sum(values.nbytes for values in stored.values())
    assert "fetched" not in encoded
    marker = runs.encode_ledger(root, plan, "random").read(0)
    assert not {"seconds", "started", "worker", "written"} & set(marker)


def test_a_chunk_that_another_run_has_marked_with_other_data_is_made_whole(
    mirror: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two runs on unlike machines, one marks a chunk while the other still writes it."""
    caplog.set_level(logging.WARNING, "pipeline")  # the command, run by other tests, raises it
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    shard = plan.shards()[0]
    ledger = runs.ingest_ledger(root, plan)
    ingest_shard(root, plan.ingest_fingerprint, shard)
    ours = ledger.read(0)
    ledger.replace(0, {**ours, "checksums": {**ours["checksums"], "flux": "0" * 64}})
    ingest_shard(root, plan.ingest_fingerprint, shard)
    assert "was marked by another run" in caplog.text
    assert ledger.read(0) == ours
    assert dataset.checksum(read_spectra(root, shard.start, shard.stop)) == ours["checksums"]


def test_a_marker_of_another_run_stands_when_the_data_are_its_own(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    ingest_shard(root, plan.ingest_fingerprint, plan.shards()[0])
    ledger = runs.ingest_ledger(root, plan)
    theirs = {**ledger.read(0), "packages": {"numpy": "another"}}
    ledger.replace(0, theirs)
    ingest_shard(root, plan.ingest_fingerprint, plan.shards()[0])
    assert ledger.read(0) == theirs
