from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.archive.source import SourceError
from pipeline.catalog import targets
from pipeline.compute.stages.ingest import ingest_shard
from pipeline.spectra import normalize
from pipeline.spectra.quality import Quality
from pipeline.store import root as runs
from pipeline.store.checkpoint import grid
from pipeline.surveys.sdss.files import read_spec
from pipeline.surveys.sdss.survey import SDSS
from tests.running import break_file, create_stores, make_root, read_spectra

pytestmark = pytest.mark.slow


def test_ingest_writes_what_normalize_says_of_each_file(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    ingest_shard(root, plan.ingest_fingerprint, plan.shards()[1])
    stored = read_spectra(root, 2, 4)
    rows = targets.read_rows(runs.targets_url(root), 2, 4)
    for i, row in enumerate(rows.to_dict("records")):
        name = f"spec-{row['plate']:04d}-{row['mjd']}-{row['fiberid']:04d}.fits"
        file = next(mirror.rglob(name))
        expected = normalize.normalize(read_spec(file.read_bytes()), row["z"], grid("sdss"))
        np.testing.assert_array_equal(stored["flux"][i], expected.flux)
        np.testing.assert_array_equal(stored["ivar"][i], expected.ivar)
        assert stored["norm"][i] == expected.norm
        assert stored["quality"][i] == expected.quality


def test_rows_of_other_chunks_stay_not_processed(mirror: Path, tmp_path: Path) -> None:
    root, plan = make_root(tmp_path, mirror)
    create_stores(root, plan)
    ingest_shard(root, plan.ingest_fingerprint, plan.shards()[1])
    quality = read_spectra(root, 0, 6)["quality"]
    assert (quality[[0, 1, 4, 5]] == Quality.NOT_PROCESSED).all()
    assert not (quality[2:4] & np.uint32(Quality.NOT_PROCESSED)).any()


def test_missing_bad_and_wrong_files_get_their_bits(mirror: Path, tmp_path: Path) -> None:
    source = tmp_path / "sas"
    root, plan = make_root(tmp_path, mirror, n=4, shard=4, source=str(source))
    rows = targets.read_rows(runs.targets_url(root), 0, 4)
    files = SDSS.paths("spec-lite", rows["target"])
    paths = [source / file for file in files]
    for path in paths[:3]:
        path.parent.mkdir(parents=True, exist_ok=True)
    paths[0].write_bytes((mirror / files[0]).read_bytes())
    paths[1].write_bytes(b"not a FITS file")
    paths[2].write_bytes((mirror / files[0]).read_bytes())  # another target's file
    create_stores(root, plan)
    record = ingest_shard(root, plan.ingest_fingerprint, plan.shards()[0])
    quality = read_spectra(root, 0, 4)["quality"]
    assert not quality[0] & np.uint32(Quality.UNUSABLE)
    assert quality[1:].tolist() == [Quality.BAD_FILE, Quality.WRONG_FILE, Quality.NO_FILE]
    assert record["usable"] == 1
    assert record["quality"].items() >= {"BAD_FILE": 1, "WRONG_FILE": 1, "NO_FILE": 1}.items()


def test_a_source_that_does_not_answer_fails_the_chunk_and_writes_nothing(mirror: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    root, plan = make_root(tmp_path, mirror, source=str(locked))
    rows = targets.read_rows(runs.targets_url(root), 0, 1)
    break_file(locked / SDSS.paths("spec-lite", rows["target"])[0])
    create_stores(root, plan)
    with pytest.raises(SourceError, match="spec-"):
        ingest_shard(root, plan.ingest_fingerprint, plan.shards()[0])
    assert read_spectra(root, 0, 2)["quality"].tolist() == [Quality.NOT_PROCESSED] * 2
    assert runs.ingest_ledger(root, plan).done() == set()
