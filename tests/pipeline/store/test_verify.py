from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.catalog import targets
from pipeline.store import arrays as dataset
from pipeline.store.finalize import finalize
from pipeline.store.stores import stores_of
from pipeline.store.verify import verify

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeRun


def test_a_sound_run_verifies(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    assert verify(str(tmp_path), plan).problems == ()
    finalize(str(tmp_path), plan)
    assert verify(str(tmp_path), plan).problems == ()


def test_verify_works_away_from_a_local_disk(tmp_path: Path, make_run: MakeRun) -> None:
    root = f"memory://{tmp_path.name}/run"
    plan = make_run(root)
    finalize(root, plan)
    assert verify(root, plan).problems == ()
    assert dataset.open_dataset(f"{root}/spectra.zarr").attrs["data_release"] == "dr17"


def test_a_changed_value_is_found(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    shard = plan.shards()[3]
    dataset.write_region(f"{tmp_path}/spectra.zarr", shard, {"norm": np.ones(len(shard), np.float32)})
    assert verify(str(tmp_path), plan).problems == ("ingest chunk 3: norm is not what was written",)


def test_a_damaged_byte_is_found(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    shard = tmp_path / "encodings" / "toy.zarr" / "restframe" / "c" / "2" / "0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    problems = verify(str(tmp_path), plan).problems
    assert len(problems) == 1
    assert problems[0].startswith("encode toy chunk 2: restframe")


def test_a_lost_object_is_found(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    (tmp_path / "spectra.zarr" / "flux" / "c" / "2" / "0").unlink()
    assert verify(str(tmp_path), plan).problems == ("ingest chunk 2: flux is not what was written",)


def test_a_lost_object_of_nothing_but_fill_does_no_harm(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    (tmp_path / "spectra.zarr" / "flux" / "c" / "1" / "0").unlink()
    assert verify(str(tmp_path), plan).problems == ()


def test_a_missing_or_broken_marker_is_found(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path, without=[("ingest", 0)])
    folder = Path(stores_of(str(tmp_path), plan)[0].ledger.folder)
    (folder / "000001.json").write_text("{")
    (folder / "000002.json").write_text(json.dumps({"fingerprint": plan.ingest_fingerprint}))
    problems = verify(str(tmp_path), plan).problems
    assert problems[0] == "ingest chunk 0: not done"
    assert problems[1].startswith("ingest chunk 1: its marker cannot be read")
    assert problems[2].startswith("ingest chunk 2: the marker that says it is done is incomplete")
    assert len(problems) == 3


def test_changed_targets_are_found(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    url = f"{tmp_path}/targets.parquet"
    frame = targets.read_rows(url, 0, 18)
    targets.write_targets(frame.assign(z=frame["z"] + np.float32(0.1)), url, 4)
    assert verify(str(tmp_path), plan).problems == (f"targets: {url} is not the table that the plan was made with",)


def test_changed_coordinates_are_found(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    url = f"{tmp_path}/spectra.zarr"
    dataset.open_handle(url, writable=True).array("z")[:] = np.zeros(18, np.float32)
    assert verify(str(tmp_path), plan).problems == ("ingest: coordinate z is not what was written",)


def test_verify_reports_its_progress(tmp_path: Path, make_run: MakeRun) -> None:
    seen: list[list[str]] = []
    plan = make_run(tmp_path)
    assert (
        verify(str(tmp_path), plan, progress=lambda found: (seen.append(some) or some for some in found)).problems == ()
    )
    assert len(seen) == 2 * len(plan.shards())
