from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline import storage
from pipeline.catalog import targets
from pipeline.errors import ConfigError
from pipeline.monitor.status import StageStatus, read_status
from pipeline.planning.plan import Plan
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
    found = verify(str(tmp_path), plan)
    assert found.targets_lost
    (problem,) = found.problems
    assert problem.startswith(f"targets: {url} is not the table that the plan was made with; restore it: ")


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


STRAYS = {
    "000099.json": "the run has only 5 chunks",
    "1.json": "no chunk has a marker of this name",
    "000001 (copy).json": "no chunk has a marker of this name",
    "\u0660\u0660\u0660\u0660\u0660\u0661.json": "no chunk has a marker of this name",
    "folder/x": "no chunk has a marker of this name",
    "failed/000099.json": "the run has only 5 chunks",
    "failed/000002.json": "it cannot be read",
    "access.json": "it cannot be read",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_stray_markers_are_named_and_removed(tmp_path: Path, make_run: MakeRun, kind: str) -> None:
    root = str(tmp_path) if kind == "local" else f"memory://{tmp_path.name}/strays"
    plan = make_run(root)
    for store in stores_of(root, plan):
        for name in STRAYS:
            storage.write_bytes(f"{store.ledger.folder}/{name}", b"{}")
    storage.write_bytes(f"{store.ledger.folder}/.DS_Store", b"a desktop's own")
    assert all(stage.done == 5 and stage.pending == 0 for stage in read_status_without_failures(root, plan))
    problems = verify(root, plan).problems
    assert len(problems) == 2 * len(STRAYS)
    for store in stores_of(root, plan):
        for name, why in STRAYS.items():
            shown = f"{store.label}: {store.ledger.folder}/{name.removesuffix('/x')} is stray: {why}"
            assert sum(problem.startswith(shown) for problem in problems) == 1, (shown, problems)
    found = verify(root, plan, repair=True)
    assert (found.removed, found.unmarked, found.restored) == (2 * len(STRAYS), 0, ())
    assert verify(root, plan).problems == ()


def read_status_without_failures(root: str, plan: Plan) -> list[StageStatus]:
    """Read the status when the damaged records of failures, which it names, are away."""
    with pytest.raises(ConfigError, match="failed/000002.json is damaged.*verify ROOT --repair removes it"):
        read_status(root, plan)
    for store in stores_of(root, plan):
        store.ledger.clear_failure(2)
    found = read_status(root, plan)
    for store in stores_of(root, plan):
        storage.write_bytes(f"{store.ledger.folder}/failed/000002.json", b"{}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"good": 3}, "its marker counts other spectra than its data have: good"),
        ({"spectra": 5, "usable": 0}, "its data have: spectra, usable"),
        ({"quality": {"NO_FILE": 2}}, "its data have: NO_FILE"),
        ({"quality": {"NO_FILE": "2"}}, "is incomplete"),
        ({"good": -1}, "is incomplete"),
        ({"usable": True}, "is incomplete"),
        ({"chunk": 3}, "cannot be read"),
        ({"stop": 3}, "its marker is of other rows than 8 to 12"),
    ],
)
def test_a_nonsensical_marker_is_named_and_removed(
    tmp_path: Path, make_run: MakeRun, change: dict[str, object], words: str
) -> None:
    plan = make_run(tmp_path)
    for store in stores_of(str(tmp_path), plan):
        record = store.ledger.read(2)
        storage.write_json(f"{store.ledger.folder}/000002.json", record | change)
        (problem,) = verify(str(tmp_path), plan).problems
        assert problem.startswith(f"{store.label} chunk 2: ")
        assert words in problem
        assert verify(str(tmp_path), plan, repair=True).unmarked == 1
        store.ledger.mark(2, record)
    assert verify(str(tmp_path), plan).problems == ()


def test_a_folder_in_the_place_of_a_marker_is_removed(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    marker = Path(stores_of(str(tmp_path), plan)[0].ledger.folder) / "000002.json"
    marker.unlink()
    marker.mkdir()
    (marker / "x").write_text("")
    (problem,) = verify(str(tmp_path), plan).problems
    assert problem.startswith("ingest chunk 2: its marker cannot be read")
    assert verify(str(tmp_path), plan, repair=True).unmarked == 1
    assert not marker.exists()
