from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest

from pipeline import storage
from pipeline.catalog import targets
from pipeline.errors import ConfigError
from pipeline.planning.plan import Plan
from pipeline.planning.stages import Kind
from pipeline.spectra.quality import Quality
from pipeline.store import stores
from pipeline.store.arrays import read_region, write_region
from pipeline.store.root import targets_url
from pipeline.store.stores import Store, stores_of
from tests.running import create_stores, file_hashes, make_root

INGEST: Kind = ("ingest", None)
ENCODE: Kind = ("encode", "random")
N = 6


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> tuple[Path, Path, Plan]:
    """Plan a run of three chunks; gives its root without stores, a copy of it with empty ones, and the plan."""
    folder = tmp_path_factory.mktemp("stores")
    root, plan = make_root(folder, mirror, n=N)
    created = shutil.copytree(root, folder / "created")
    create_stores(str(created), plan)
    return Path(root), created, plan


@pytest.fixture
def planned(tmp_path: Path, templates: tuple[Path, Path, Plan]) -> tuple[str, Plan]:
    """Give a root without stores, and its plan."""
    return str(shutil.copytree(templates[0], tmp_path / "run")), templates[2]


@pytest.fixture
def created(tmp_path: Path, templates: tuple[Path, Path, Plan]) -> tuple[str, Plan]:
    """Give a root with empty stores, and its plan."""
    return str(shutil.copytree(templates[1], tmp_path / "run")), templates[2]


def store_of(run: tuple[str, Plan], kind: Kind) -> Store:
    (found,) = [store for store in stores_of(*run) if store.kind == kind]
    return found


def refused(run: tuple[str, Plan], kind: Kind = INGEST) -> ConfigError:
    """Have the creation of a store refused, and nothing changed by it."""
    before = file_hashes(Path(run[0]))
    with pytest.raises(ConfigError) as caught:
        stores.create(*run, [kind])
    assert file_hashes(Path(run[0])) == before
    assert caught.value.key == "ROOT"
    return caught.value


def test_the_stores_of_a_plan_are_those_of_its_stages_the_spectra_first(planned: tuple[str, Plan]) -> None:
    root, plan = planned
    spectra, encodings = stores_of(root, plan)
    assert (spectra.label, spectra.url, spectra.kind, spectra.model) == ("ingest", f"{root}/spectra.zarr", INGEST, None)
    assert (encodings.label, encodings.url) == ("encode random", f"{root}/encodings/random.zarr")
    assert (encodings.kind, encodings.model) == (ENCODE, plan.models[0])
    assert spectra.ledger.fingerprint == plan.ingest_fingerprint
    assert encodings.ledger.fingerprint == plan.encode_fingerprint("random")


def test_stores_are_made_empty_with_a_row_for_every_target(created: tuple[str, Plan]) -> None:
    rows = targets.read_rows(targets_url(created[0]), 0, N)
    for store in stores_of(*created):
        assert store.ledger.store_created()
        assert store.ledger.done() == set()
        found = read_region(store.url, ["quality", "plate", "target"], 0, N)
        assert (found["quality"] == Quality.NOT_PROCESSED).all()
        assert found["plate"].tolist() == rows["plate"].tolist()
        assert found["target"].tolist() == rows["target"].tolist()


def test_only_the_stores_asked_for_are_made(planned: tuple[str, Plan]) -> None:
    stores.create(*planned, [INGEST])
    assert [Path(store.url).exists() for store in stores_of(*planned)] == [True, False]
    stores.create(*planned, [])
    assert not Path(store_of(planned, ENCODE).url).exists()


def test_a_store_that_is_there_is_left_as_it_is(created: tuple[str, Plan]) -> None:
    before = {file: file.stat().st_mtime_ns for file in Path(created[0]).rglob("*") if file.is_file()}
    create_stores(*created)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_stores_are_made_away_from_a_local_disk(planned: tuple[str, Plan]) -> None:
    root, plan = f"memory://{uuid.uuid4().hex}", planned[1]
    storage.write_bytes(targets_url(root), storage.read_bytes(targets_url(planned[0])))
    create_stores(root, plan)
    quality = read_region(f"{root}/encodings/random.zarr", ["quality"], 0, N)["quality"]
    assert (quality == Quality.NOT_PROCESSED).all()
    storage.remove(root, recursive=True)


@pytest.mark.parametrize("left", ["{", "", "[]", '{"attributes": {}}'])
def test_a_store_that_was_left_half_made_is_made_again(planned: tuple[str, Plan], left: str) -> None:
    store = store_of(planned, INGEST)
    Path(store.url).mkdir()
    (Path(store.url) / "zarr.json").write_text(left)
    stores.create(*planned, [INGEST])
    assert store.ledger.store_created()
    assert read_region(store.url, ["quality"], 0, N)["quality"].tolist() == [Quality.NOT_PROCESSED] * N


def test_a_store_whose_marker_is_lost_before_any_chunk_is_made_again(created: tuple[str, Plan]) -> None:
    before = file_hashes(Path(created[0]))
    store = store_of(created, INGEST)
    storage.remove(f"{store.ledger.folder}/store.json")
    stores.create(*created, [INGEST])
    assert file_hashes(Path(created[0])) == before


def write_fingerprint(store: Store, fingerprint: str) -> None:
    """Have a store say that it is another plan's."""
    file = Path(store.url) / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["fingerprint"] = fingerprint
    file.write_text(json.dumps(content))


def test_a_store_of_another_plan_is_refused_and_left_alone(created: tuple[str, Plan]) -> None:
    store = store_of(created, INGEST)
    write_fingerprint(store, "0" * 64)
    error = refused(created)
    assert (error.value, error.expected) == (store.url, "no store of another plan")
    assert error.remedy == f"choose another ROOT, or remove {store.url} and {store.ledger.folder}"


def test_a_store_of_another_plan_without_a_ledger_is_refused(created: tuple[str, Plan]) -> None:
    write_fingerprint(store_of(created, INGEST), "0" * 64)
    shutil.rmtree(Path(created[0]) / "ledger")
    assert refused(created).expected == "no store of another plan"


def test_a_ledger_whose_store_is_gone_is_refused_with_the_remedy(created: tuple[str, Plan]) -> None:
    store = store_of(created, INGEST)
    shutil.rmtree(store.url)
    error = refused(created)
    assert str(error).startswith(f"the ledger says that {store.url} was made, but")
    assert f"spender-pipeline verify {created[0]} --repair, then run" in error.remedy


def test_a_created_store_that_cannot_be_read_is_refused_with_the_remedy(created: tuple[str, Plan]) -> None:
    store = store_of(created, ENCODE)
    (Path(store.url) / "zarr.json").write_text("{")
    error = refused(created, ENCODE)
    assert f"that {store.url} was made, but it is not there or cannot be read" in str(error)
    assert "--repair" in error.remedy


def test_chunks_that_are_done_in_a_store_that_was_never_made_are_refused(planned: tuple[str, Plan]) -> None:
    store = store_of(planned, INGEST)
    store.ledger.mark(1, {})
    error = refused(planned)
    assert str(error).startswith(f"{store.ledger.folder} says that chunks are done, but not")
    assert "--repair" in error.remedy


def test_a_damaged_store_does_not_keep_another_from_being_made(planned: tuple[str, Plan]) -> None:
    store_of(planned, INGEST).ledger.mark(1, {})
    stores.create(*planned, [ENCODE])
    assert store_of(planned, ENCODE).ledger.store_created()


@pytest.mark.parametrize("lost", ["zarr.json", "flux/zarr.json", "z/c/0"])
def test_a_store_is_restored_around_its_data(created: tuple[str, Plan], lost: str) -> None:
    store, shard = store_of(created, INGEST), created[1].shards()[1]
    values = np.arange(2, dtype=np.float32)
    write_region(store.url, shard, {"norm": values})
    before = file_hashes(Path(created[0]))
    (Path(store.url) / lost).unlink()
    stores.restore(*created, store)
    assert file_hashes(Path(created[0])) == before
    assert read_region(store.url, ["norm"], shard.start, shard.stop)["norm"].tolist() == [0.0, 1.0]


def test_a_store_of_another_plan_is_not_restored(created: tuple[str, Plan]) -> None:
    store = store_of(created, INGEST)
    write_fingerprint(store, "0" * 64)
    before = file_hashes(Path(created[0]))
    with pytest.raises(ConfigError, match="no store of another plan"):
        stores.restore(*created, store)
    assert file_hashes(Path(created[0])) == before
