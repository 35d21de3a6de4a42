from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import SurveyConfig
from pipeline.planning import schema
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan
from pipeline.store import arrays as dataset
from pipeline.store.template import spectra_template
from pipeline.surveys.sdss.survey import SDSS

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeTargets

ROWS, SHARD, PIXELS = 18, 8, 3921


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    return storage.join(folder, "spectra.zarr")


@pytest.fixture
def plan(make_targets: MakeTargets) -> Plan:
    config = SurveyConfig(source="https://data.sdss.org/sas/dr17", targets="t", shard=SHARD, chunk=4)
    return Plan.create(config, make_targets(ROWS))


@pytest.fixture
def store(url: str, plan: Plan, make_targets: MakeTargets) -> str:
    wavelength = np.linspace(3784, 9332, PIXELS, dtype=np.float32)
    dataset.create(url, *spectra_template(plan, make_targets(ROWS), wavelength))
    return url


def arrays(shard: Shard) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(shard.index)
    n = len(shard)
    return {
        "flux": random.normal(size=(n, PIXELS)).astype(np.float32),
        "ivar": random.random((n, PIXELS), dtype=np.float32),
        "norm": random.random(n, dtype=np.float32),
        "quality": np.zeros(n, np.uint32),
    }


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_is_written_is_read(store: str, plan: Plan) -> None:
    for shard in plan.shards():
        dataset.write_region(store, shard, arrays(shard))
    for shard in plan.shards():
        found = dataset.read_region(store, ("flux", "ivar", "norm", "quality"), shard.start, shard.stop)
        for name, expected in arrays(shard).items():
            np.testing.assert_array_equal(found[name], expected)
            assert found[name].dtype == expected.dtype


def test_rows_may_be_read_across_chunks(store: str, plan: Plan) -> None:
    for shard in plan.shards():
        dataset.write_region(store, shard, arrays(shard))
    found = dataset.read_region(store, ("norm", "target"), 6, 10)
    whole = np.concatenate([arrays(shard)["norm"] for shard in plan.shards()])
    np.testing.assert_array_equal(found["norm"], whole[6:10])
    assert list(found["target"]) == [f"26/300-51600-{i}" for i in range(7, 11)]


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 4), (4, 12), (1, 8), (0, 9), (8, 17), (16, 17), (-8, 8), (16, 24), (8, 8), (24, 32)]
)
def test_a_write_of_anything_but_whole_shards_is_refused(store: str, start: int, stop: int) -> None:
    with pytest.raises(dataset.AlignmentError, match="are not whole shards of 8 rows"):
        dataset.write_region(store, Shard(0, start, stop), {"norm": np.zeros(max(0, stop - start), np.float32)})


@pytest.mark.parametrize(("start", "stop"), [(0, 8), (8, 16), (16, 18), (0, 16), (0, 18)])
def test_whole_shards_and_the_short_last_one_are_written(store: str, start: int, stop: int) -> None:
    values = np.arange(stop - start, dtype=np.float32)
    dataset.write_region(store, Shard(0, start, stop), {"norm": values})
    np.testing.assert_array_equal(dataset.read_region(store, ["norm"], start, stop)["norm"], values)


@pytest.mark.parametrize(
    "values", [np.zeros(8), np.zeros(8, np.int32), np.zeros(7, np.float32), np.zeros((8, 1), np.float32)]
)
def test_another_shape_or_type_is_refused_and_never_cast(store: str, values: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match=r"norm has .*, expected float32 \(8,\)"):
        dataset.write_region(store, Shard(0, 0, 8), {"norm": values})


def test_nothing_is_written_when_one_of_the_variables_is_refused(store: str) -> None:
    values = {"norm": np.ones(8, np.float32), "quality": np.zeros(8, np.int64)}
    with pytest.raises(ValueError, match="quality"):
        dataset.write_region(store, Shard(0, 0, 8), values)
    assert np.isnan(dataset.read_region(store, ["norm"], 0, 8)["norm"]).all()


def test_chunks_of_nothing_but_fill_are_written_too(store: str, plan: Plan) -> None:
    fills = {name: variable.fill for name, variable in schema.SPECTRA_VARIABLES.items()}
    for shard in plan.shards():
        values = {name: np.full_like(array, fills[name]) for name, array in arrays(shard).items()}
        dataset.write_region(store, shard, values)
    for name in fills:
        assert len(storage.list_names(storage.join(store, name, "c"))) == len(plan.shards()), name


def test_every_inner_chunk_of_fill_is_written_too(store: str) -> None:
    dataset.write_region(store, Shard(0, 0, 8), {"ivar": np.zeros((8, PIXELS), np.float32)})
    content = storage.read_bytes(storage.join(store, "ivar", "c", "0", "0"))
    index = np.frombuffer(content[-36:-4], "<u8")  # (offset, length) of two inner chunks, then a checksum
    assert (index != 2**64 - 1).all()


def test_repeated_writes_in_any_order_give_the_same_bytes(
    tmp_path: Path, plan: Plan, make_targets: MakeTargets
) -> None:
    template = spectra_template(plan, make_targets(ROWS), np.linspace(3784, 9332, PIXELS, dtype=np.float32))
    for name, order, times in (("a", 1, 1), ("b", -1, 2)):
        dataset.create(str(tmp_path / name), *template)
        for shard in plan.shards()[::order] * times:
            dataset.write_region(str(tmp_path / name), shard, arrays(shard))
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_creating_again_leaves_what_is_there(store: str, plan: Plan, make_targets: MakeTargets) -> None:
    """Another run on the same ROOT may have begun to fill it."""
    dataset.write_region(store, plan.shards()[0], arrays(plan.shards()[0]))
    fs, path = storage.filesystem(store)
    before = {name: fs.cat_file(name) for name in fs.find(path)}
    wavelength = np.linspace(3784, 9332, PIXELS, dtype=np.float32)
    dataset.create(store, *spectra_template(plan, make_targets(ROWS), wavelength))
    assert {name: fs.cat_file(name) for name in fs.find(path)} == before


def test_a_store_is_created_without_consolidated_metadata(store: str) -> None:
    assert "consolidated_metadata" not in storage.read_json(storage.join(store, "zarr.json"))


def test_one_handle_serves_the_process(store: str) -> None:
    assert dataset.open_handle(store) is dataset.open_handle(store)
    assert dataset.open_handle(store).array("flux") is dataset.open_handle(store).array("flux")
    assert dataset.open_handle(store, writable=True) is not dataset.open_handle(store)


def test_a_store_made_anew_gets_a_new_handle(store: str, make_targets: MakeTargets) -> None:
    before = dataset.open_handle(store, writable=True).array("norm")
    config = SurveyConfig(source="https://data.sdss.org/sas/dr17", targets="t", shard=4, chunk=4)
    other = Plan.create(config, make_targets(ROWS))
    dataset.create(store, *spectra_template(other, make_targets(ROWS), np.zeros(PIXELS, np.float32)))
    assert before.chunks == (8,)
    dataset.write_region(store, Shard(1, 4, 8), {"norm": np.ones(4, np.float32)})
    np.testing.assert_array_equal(dataset.read_region(store, ["norm"], 4, 8)["norm"], np.ones(4))


def test_a_handle_for_reading_cannot_write(store: str) -> None:
    with pytest.raises(ValueError, match="read"):
        dataset.open_handle(store).array("norm")[:8] = np.zeros(8, np.float32)


def test_a_store_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dataset.open_handle(str(tmp_path / "none.zarr"))
    with pytest.raises(FileNotFoundError):
        dataset.open_dataset(str(tmp_path / "none.zarr"))


def test_xarray_accepts_the_half_shard_that_we_refuse(tmp_path: Path, plan: Plan, make_targets: MakeTargets) -> None:
    # The reason for our own check: such a write reads, changes and writes back a whole shard, so of two at once one is
    # lost. Should xarray ever refuse it, this test says so.
    store = str(tmp_path / "half.zarr")
    dataset.create(store, *spectra_template(plan, make_targets(ROWS), np.zeros(PIXELS, np.float32)))
    half = xr.Dataset({"norm": ("spectrum", np.ones(4, np.float32))})
    half.to_zarr(store, region={"spectrum": slice(4, 8)}, consolidated=False)
    with pytest.raises(dataset.AlignmentError):
        dataset.write_region(store, Shard(0, 4, 8), {"norm": np.ones(4, np.float32)})


def test_creation_returns_the_checksums_of_coordinates_and_descriptions(
    tmp_path: Path, plan: Plan, make_targets: MakeTargets
) -> None:
    url = str(tmp_path / "s.zarr")
    made = dataset.create(url, *spectra_template(plan, make_targets(ROWS), np.zeros(PIXELS, np.float32)))
    sums = made["checksums"]
    assert set(sums) == {*SDSS.coordinates, "wavelength"}
    assert dataset.checksum(dataset.read_region(url, SDSS.coordinates, 0, ROWS)) == {
        name: sums[name] for name in SDSS.coordinates
    }
    assert made["metadata"] == {
        name: dataset.digest((Path(url) / name / "zarr.json").read_bytes())
        for name in {*sums, *schema.SPECTRA_VARIABLES}
    }


def test_checksum_tells_values_types_and_shapes_apart() -> None:
    values = {
        "a": np.zeros(4, np.float32),
        "b": np.zeros((2, 2), np.float32),
        "c": np.zeros(4, np.int32),
        "d": np.array([0, 0, 0, 1], np.float32),
        "e": np.array([-0.0, 0, 0, 0], np.float32),
        "f": np.array(["a", "b"], dtype=np.dtypes.StringDType()),
        "g": np.array(["ab", ""], dtype=np.dtypes.StringDType()),
    }
    assert len(set(dataset.checksum(values).values())) == len(values)


def test_checksum_does_not_depend_on_byte_order_memory_layout_or_kind_of_text() -> None:
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    text = np.array(["GALAXY", "QSO"], dtype=np.dtypes.StringDType())
    sums = dataset.checksum(
        {
            "little": numbers,
            "big": numbers.astype(">f4"),
            "fortran": np.asfortranarray(numbers),
            "text": text,
            "object": text.astype(object),
            "fixed": text.astype("U6"),
        }
    )
    assert sums["little"] == sums["big"] == sums["fortran"]
    assert sums["text"] == sums["object"] == sums["fixed"]


SELECTIONS = {
    "a list": [1, 2, 5, 8, 17],
    "a list in no order": [17, 3, 9],
    "a mask": np.arange(18) % 5 > 0,
    "one row": [4],
    "the first rows": slice(0, 11),
}


@pytest.mark.slow
@pytest.mark.parametrize("rows", SELECTIONS.values(), ids=SELECTIONS)
@pytest.mark.parametrize("form", ["zarr", "netcdf"])
def test_a_selection_of_an_opened_dataset_is_written_without_a_trick(
    store: str, plan: Plan, tmp_path: Path, form: str, rows: Any
) -> None:
    for shard in plan.shards():
        dataset.write_region(store, shard, arrays(shard))
    some = dataset.open_dataset(store).isel(spectrum=rows)
    if form == "zarr":
        some.to_zarr(tmp_path / "some.zarr", consolidated=False)
        again = xr.open_zarr(tmp_path / "some.zarr", consolidated=False)
    else:
        some.to_netcdf(tmp_path / "some.nc", engine="h5netcdf")
        again = xr.open_dataset(tmp_path / "some.nc", engine="h5netcdf")
    for name in (*some.data_vars, *some.coords):
        np.testing.assert_array_equal(again[name].values, some[name].values, err_msg=str(name))
        assert again[name].attrs.get("units") == some[name].attrs.get("units")
    again.close()


def test_an_opened_dataset_says_flags_in_their_type_and_no_fill_of_axes(store: str) -> None:
    opened = dataset.open_dataset(store)
    assert opened["quality"].attrs["flag_masks"].dtype == np.uint32
    assert opened["zwarning"].attrs["flag_masks"].dtype == np.int32
    assert opened["wavelength"].encoding["_FillValue"] is None


def test_opened_dataset_is_lazy_in_blocks_of_one_shard(store: str, plan: Plan) -> None:
    shard = plan.shards()[1]
    dataset.write_region(store, shard, arrays(shard))
    opened = dataset.open_dataset(store)
    assert opened.chunksizes["spectrum"] == (8, 8, 2)
    np.testing.assert_array_equal(opened["flux"][8:16], arrays(shard)["flux"])
    assert opened["flux"].attrs["units"] == "1"
    xr.testing.assert_identical(opened.isel(spectrum=slice(8, 16)).load(), opened.load().isel(spectrum=slice(8, 16)))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_temporary_folder_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Zarr gives the disk's own word, which names a folder that is gone when it is read."""

    def full(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    with pytest.raises(OSError, match=f"the temporary folder cannot be written .{os.strerror(number)}.: set TMPDIR"):
        dataset.create(str(tmp_path / "a.zarr"), xr.Dataset(), {})
    assert not (tmp_path / "a.zarr").exists()
