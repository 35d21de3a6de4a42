from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

from pipeline import storage
from pipeline.errors import ConfigError, Unfinished
from pipeline.planning.model import ModelConfig
from pipeline.store.finalize import finalize
from pipeline.store.stores import stores_of

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeRun


def other_model(**changes: object) -> ModelConfig:
    settings = {"sha256": "cd" * 32, "n_latent": 3, "n_rest": 50, "micro_batch": 4}
    return ModelConfig.from_dict({"name": "other", "checkpoint": "other.pt", **settings, **changes})


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_finished_store_opens_with_xarray_alone_and_without_a_warning(tmp_path: Path, make_run: MakeRun) -> None:
    closed = finalize(str(tmp_path), make_run(tmp_path))
    assert closed == [f"{tmp_path}/spectra.zarr", f"{tmp_path}/encodings/toy.zarr"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectra = xr.open_zarr(tmp_path / "spectra.zarr").load()
        encodings = xr.open_zarr(tmp_path / "encodings" / "toy.zarr").load()
    assert spectra.sizes == {"spectrum": 18, "wavelength": 3921}
    assert encodings.sizes == {"spectrum": 18, "latent": 3, "wavelength_rest": 50, "region": 8}
    assert encodings["region_chi2"].sel(region=3700).dims == ("spectrum",)
    assert (spectra["quality"] == 0).all()
    assert spectra["specobjid"].dtype == np.uint64
    assert list(encodings["class"].values[:3]) == ["GALAXY", "QSO", "STAR"]


def test_finished_stores_say_where_they_come_from(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    finalize(str(tmp_path), plan)
    attributes = xr.open_zarr(tmp_path / "encodings" / "toy.zarr").attrs
    assert attributes["Conventions"] == "CF-1.11"
    assert attributes["data_release"] == "dr17"
    assert attributes["source"] == "SDSS DR17, spec-lite files"
    assert attributes["model"] == "toy"
    assert attributes["model_sha256"] == "ab" * 32
    assert attributes["device"] == "cpu"
    assert attributes["fingerprint"] == plan.encode_fingerprint("toy")
    assert attributes["spectra_fingerprint"] == plan.ingest_fingerprint
    for doi in ("10.3847/1538-3881/ace0ff", "10.3847/1538-3881/ace100", "10.3847/2041-8213/acfa03"):
        assert doi in attributes["references"]
    assert "torch" in json.loads(attributes["package_versions"])
    for key in ("title", "history", "license", "acknowledgement"):
        assert attributes[key]


@pytest.mark.slow
def test_what_a_store_says_does_not_depend_on_the_mirror(tmp_path: Path, make_run: MakeRun) -> None:
    for name, source in (("a", "https://data.sdss.org/sas/dr17"), ("b", "http://127.0.0.1:8000/dr17")):
        finalize(str(tmp_path / name), make_run(tmp_path / name, source=source))
    stores = [hashes(tmp_path / name / "spectra.zarr") for name in ("a", "b")]
    assert stores[0] == stores[1]


def test_versions_are_those_that_made_the_numbers(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    ledger = stores_of(str(tmp_path), plan)[1].ledger
    record = ledger.read(0)
    ledger.replace(0, record | {"packages": {**record["packages"], "torch": "99.9"}, "micro_batch": 2})
    finalize(str(tmp_path), plan)
    attributes = xr.open_zarr(tmp_path / "encodings" / "toy.zarr").attrs
    assert json.loads(attributes["package_versions"])["torch"].split(", ")[-1] == "99.9"
    assert attributes["micro_batch_halved_to"] == 2


def test_store_with_a_coordinate_gone_is_not_closed(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    shutil.rmtree(tmp_path / "spectra.zarr" / "fiberid")
    with pytest.raises(ConfigError, match="coordinate fiberid cannot be read"):
        finalize(str(tmp_path), plan)


def test_finalizing_twice_changes_nothing(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    finalize(str(tmp_path), plan)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    finalize(str(tmp_path), plan)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_chunks_in_any_order_end_in_the_same_bytes(tmp_path: Path, make_run: MakeRun) -> None:
    for name, reverse in (("a", False), ("b", True)):
        finalize(str(tmp_path / name), make_run(tmp_path / name, reverse=reverse))
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_unfinished_chunks_are_named_and_their_store_stays_open(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path, without=[("encode toy", 2), ("encode toy", 4)])
    with pytest.raises(Unfinished, match="encode toy: chunks 2, 4 not done") as caught:
        finalize(str(tmp_path), plan)
    assert caught.value.missing == {"encode toy": [2, 4]}
    assert "consolidated_metadata" in storage.read_json(f"{tmp_path}/spectra.zarr/zarr.json")
    assert "consolidated_metadata" not in storage.read_json(f"{tmp_path}/encodings/toy.zarr/zarr.json")


def test_many_unfinished_chunks_are_counted() -> None:
    assert str(Unfinished({"ingest": list(range(20))})) == "ingest: chunks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more not done"


@pytest.mark.slow
def test_a_second_model_leaves_the_first_stores_as_they_are(tmp_path: Path, make_run: MakeRun) -> None:
    finalize(str(tmp_path), make_run(tmp_path))
    before = hashes(tmp_path / "spectra.zarr")
    both = make_run(tmp_path / "both", models=(other_model(), other_model(name="third")))
    finalize(str(tmp_path / "both"), both)
    assert hashes(tmp_path / "both" / "spectra.zarr") == before


def test_half_written_files_of_killed_processes_are_removed(tmp_path: Path, make_run: MakeRun) -> None:
    plan = make_run(tmp_path)
    rests = [tmp_path / "spectra.zarr" / "flux" / "c" / "0" / "0.ab12.partial"]
    rests += [Path(store.ledger.folder) / "000000.json.cd34.partial" for store in stores_of(str(tmp_path), plan)]
    for rest in rests:
        rest.write_bytes(b"half")
    finalize(str(tmp_path), plan)
    assert not any(rest.exists() for rest in rests)
