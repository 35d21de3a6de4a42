from __future__ import annotations

import json
import logging
import os
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import dataset, layouts, normalize, runs, stages, storage, stores, targets, worker
from pipeline.config import ConfigError
from pipeline.fits import read_spec
from pipeline.plan import Chunk, Plan
from pipeline.quality import Quality
from pipeline.sources import SourceError

from ..running import break_file, make_root


def create_stores(root: str, plan: Plan) -> None:
    stores.create(root, plan, [("ingest", None), *(("encode", model.name) for model in plan.models)])


def read(root: str, start: int, stop: int) -> dict[str, np.ndarray]:
    return dataset.read_chunk(dataset.spectra_url(root), ("flux", "ivar", "norm", "quality"), start, stop)


def test_ingest_writes_what_normalize_says_of_each_file(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    stages.ingest_chunk(root, plan.ingest_fingerprint, plan.chunks()[1])
    stored = read(root, 2, 4)
    rows = targets.read_rows(runs.targets_url(root), 2, 4)
    for i, row in enumerate(rows.to_dict("records")):
        name = f"spec-{row['plate']:04d}-{row['mjd']}-{row['fiberid']:04d}.fits"
        file = next(mirror.rglob(name))
        expected = normalize.normalize(read_spec(file.read_bytes()), row["z"], worker.grid("sdss"))
        np.testing.assert_array_equal(stored["flux"][i], expected.flux)
        np.testing.assert_array_equal(stored["ivar"][i], expected.ivar)
        assert stored["norm"][i] == expected.norm
        assert stored["quality"][i] == expected.quality


def test_rows_of_other_chunks_stay_not_processed(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    stages.ingest_chunk(root, plan.ingest_fingerprint, plan.chunks()[1])
    quality = read(root, 0, 6)["quality"]
    assert (quality[[0, 1, 4, 5]] == Quality.NOT_PROCESSED).all()
    assert not (quality[2:4] & np.uint32(Quality.NOT_PROCESSED)).any()


def test_the_marker_holds_counts_and_checksums_but_no_times(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    chunk = plan.chunks()[0]
    summary = stages.ingest_chunk(root, plan.ingest_fingerprint, chunk)
    marker = runs.ingest_ledger(root, plan).read(0)
    assert marker["spectra"] == 2
    assert marker["checksums"] == dataset.checksum(read(root, 0, 2))
    assert "seconds" not in marker
    assert set(summary["seconds"]) >= {"fetch", "normalize", "write"}
    assert "checksums" not in summary


def test_missing_bad_and_wrong_files_get_their_bits(mirror: Path, tmp_path: Path) -> None:
    source = tmp_path / "sas"
    root, plan = make_root(tmp_path, mirror, n=4, shard=4, source=str(source))
    rows = targets.read_rows(runs.targets_url(root), 0, 4)
    paths = [source / p for p in _paths(rows)]
    for path in paths[:3]:
        path.parent.mkdir(parents=True, exist_ok=True)
    paths[0].write_bytes((mirror / _paths(rows)[0]).read_bytes())
    paths[1].write_bytes(b"not a FITS file")
    paths[2].write_bytes((mirror / _paths(rows)[0]).read_bytes())  # another target's file
    create_stores(root, plan)
    record = stages.ingest_chunk(root, plan.ingest_fingerprint, plan.chunks()[0])
    quality = read(root, 0, 4)["quality"]
    assert not quality[0] & np.uint32(Quality.UNUSABLE)
    assert quality[1:].tolist() == [Quality.BAD_FILE, Quality.WRONG_FILE, Quality.NO_FILE]
    assert record["usable"] == 1
    assert record["quality"].items() >= {"BAD_FILE": 1, "WRONG_FILE": 1, "NO_FILE": 1}.items()


def _paths(rows: pd.DataFrame) -> list[str]:
    return layouts.paths("spec-lite", rows["target"])


def test_encode_writes_the_plans_variables_and_marks(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    chunk = plan.chunks()[0]
    stages.ingest_chunk(root, plan.ingest_fingerprint, chunk)
    stages.encode_chunk(root, plan.encode_fingerprint("random"), "random", chunk)
    names = (*plan.models[0].variables, "quality")
    stored = dataset.read_chunk(dataset.encodings_url(root, "random"), names, 0, 2)
    assert stored["latents"].shape == (2, 4)
    finite = np.isfinite(stored["latents"]).all(1)
    assert (finite | (stored["quality"] != 0)).all()
    marker = runs.encode_ledger(root, plan, "random").read(0)
    assert marker["checksums"] == dataset.checksum(stored)
    assert marker["device"] == worker.device_name(worker.device())


def test_the_quality_of_an_encoding_holds_the_bits_of_the_ingest(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror, n=2, shard=2, source=str(tmp_path / "empty"))
    create_stores(root, plan)
    chunk = plan.chunks()[0]
    stages.ingest_chunk(root, plan.ingest_fingerprint, chunk)
    stages.encode_chunk(root, plan.encode_fingerprint("random"), "random", chunk)
    stored = dataset.read_chunk(dataset.encodings_url(root, "random"), ("latents", "quality"), 0, 2)
    assert stored["quality"].tolist() == [Quality.NO_FILE] * 2
    assert np.isnan(stored["latents"]).all()


def test_a_chunk_that_is_not_ingested_is_not_encoded(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    with pytest.raises(ConfigError, match="run ingest first"):
        stages.encode_chunk(root, plan.encode_fingerprint("random"), "random", plan.chunks()[0])
    assert runs.encode_ledger(root, plan, "random").done() == set()


def _encode_random(root: str, fingerprint: str, chunk: Chunk) -> stages.Record:
    return stages.encode_chunk(root, fingerprint, "random", chunk)


@pytest.mark.parametrize("stage", ["ingest", "encode"])
def test_a_task_of_another_plan_is_refused(mirror: Path, tmp_path: Path, stage: str) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    do = stages.ingest_chunk if stage == "ingest" else _encode_random
    with pytest.raises(ConfigError, match="changed while this run was going"):
        do(root, "0" * 64, plan.chunks()[0])
    assert read(root, 0, 2)["quality"].tolist() == [Quality.NOT_PROCESSED] * 2


def test_a_source_that_does_not_answer_fails_the_chunk_and_writes_nothing(mirror: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    root, plan = make_root(tmp_path, mirror, source=str(locked))
    rows = targets.read_rows(runs.targets_url(root), 0, 1)
    break_file(locked / _paths(rows)[0])
    create_stores(root, plan)
    with pytest.raises(SourceError, match="spec-"):
        stages.ingest_chunk(root, plan.ingest_fingerprint, plan.chunks()[0])
    assert read(root, 0, 2)["quality"].tolist() == [Quality.NOT_PROCESSED] * 2
    assert runs.ingest_ledger(root, plan).done() == set()


def test_a_chunk_logs_one_line_with_its_timings(mirror: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    with caplog.at_level(logging.INFO, logger="pipeline.stages"):
        stages.ingest_chunk(root, plan.ingest_fingerprint, Chunk(0, 0, 2))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "pipeline.stages"]
    told = json.loads(line)
    assert told["spectra"] == 2
    assert "fetch" in told["seconds"]
    assert (told["stage"], told["chunk"], told["worker"]) == ("ingest", 0, f"{platform.node()}:{os.getpid()}")


def test_a_summary_tells_the_bytes_and_requests(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    chunk = plan.chunks()[0]
    before = datetime.now(UTC)
    ingested = stages.ingest_chunk(root, plan.ingest_fingerprint, chunk)
    files = [mirror / path for path in _paths(targets.read_rows(runs.targets_url(root), 0, 2))]
    assert ingested["fetched"] == sum(file.stat().st_size for file in files)
    assert (ingested["requests"], ingested["retries"]) == (2, 0)
    assert ingested["written"] == sum(values.nbytes for values in read(root, 0, 2).values())
    assert before - timedelta(seconds=1) <= datetime.fromisoformat(ingested["started"]) <= datetime.now(UTC)
    encoded = stages.encode_chunk(root, plan.encode_fingerprint("random"), "random", chunk)
    names = (*plan.models[0].variables, "quality")
    stored = dataset.read_chunk(dataset.encodings_url(root, "random"), names, 0, 2)
    assert encoded["written"] == sum(values.nbytes for values in stored.values())
    assert "fetched" not in encoded
    marker = runs.encode_ledger(root, plan, "random").read(0)
    assert not {"seconds", "started", "worker", "written"} & set(marker)


def test_a_root_without_a_plan_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="spender-pipeline plan"):
        runs.read_plan(storage.join(str(tmp_path), "nothing"))


def test_a_chunk_that_another_run_has_marked_with_other_data_is_made_whole(
    mirror: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two runs on unlike machines, one marks a chunk while the other still writes it."""
    caplog.set_level(logging.WARNING, "pipeline")  # the command, run by other tests, raises it
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    chunk = plan.chunks()[0]
    ledger = runs.ingest_ledger(root, plan)
    stages.ingest_chunk(root, plan.ingest_fingerprint, chunk)
    ours = ledger.read(0)
    ledger.replace(0, {**ours, "checksums": {**ours["checksums"], "flux": "0" * 64}})
    stages.ingest_chunk(root, plan.ingest_fingerprint, chunk)
    assert "is marked by another run" in caplog.text
    assert ledger.read(0) == ours
    assert dataset.checksum(read(root, chunk.start, chunk.stop)) == ours["checksums"]


def test_a_marker_of_another_run_stands_when_the_data_are_its_own(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    stages.ingest_chunk(root, plan.ingest_fingerprint, plan.chunks()[0])
    ledger = runs.ingest_ledger(root, plan)
    theirs = {**ledger.read(0), "packages": {"numpy": "another"}}
    ledger.replace(0, theirs)
    stages.ingest_chunk(root, plan.ingest_fingerprint, plan.chunks()[0])
    assert ledger.read(0) == theirs
