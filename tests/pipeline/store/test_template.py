from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.config import SurveyConfig
from pipeline.planning import schema
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from pipeline.spectra.quality import Quality
from pipeline.store import arrays as dataset
from pipeline.store.template import Encoding, encodings_template, spectra_template
from pipeline.surveys.sdss.survey import SDSS

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeTargets

WAVELENGTH = np.linspace(3784, 9332, 3921, dtype=np.float32)
WAVE_REST = np.linspace(2400, 9300, 50, dtype=np.float32)
MODEL = ModelConfig(
    name="toy",
    checkpoint="toy.pt",
    sha256="ab" * 32,
    n_latent=3,
    n_rest=50,
    micro_batch=4,
    variables=tuple(schema.OUTPUTS),
    redshift_range=(0.0, 0.5),
    basis="cd" * 32,
)


@pytest.fixture
def plan(make_targets: MakeTargets) -> Plan:
    config = SurveyConfig(source="https://data.sdss.org/sas/dr17", targets="t", shard=8, chunk=4)
    return Plan.create(config, make_targets(18)).with_model(MODEL)


@pytest.fixture
def spectra(plan: Plan, make_targets: MakeTargets) -> tuple[xr.Dataset, Encoding]:
    return spectra_template(plan, make_targets(18), WAVELENGTH)


@pytest.fixture
def encodings(plan: Plan, make_targets: MakeTargets) -> tuple[xr.Dataset, Encoding]:
    return encodings_template(plan, MODEL, make_targets(18), WAVE_REST, WAVELENGTH)


def test_spectra_have_the_designed_variables(spectra: tuple[xr.Dataset, Encoding]) -> None:
    template, _ = spectra
    assert {name: variable.dims for name, variable in template.data_vars.items()} == {
        "flux": ("spectrum", "wavelength"),
        "ivar": ("spectrum", "wavelength"),
        "norm": ("spectrum",),
        "quality": ("spectrum",),
    }
    assert set(template.coords) == {*SDSS.coordinates, "wavelength"}


def test_encodings_have_the_designed_variables(encodings: tuple[xr.Dataset, Encoding]) -> None:
    template, _ = encodings
    assert {name: variable.dims for name, variable in template.data_vars.items()} == {
        "latents": ("spectrum", "latent"),
        "restframe": ("spectrum", "wavelength_rest"),
        "reconstruction": ("spectrum", "wavelength"),
        "chi2": ("spectrum",),
        "n_pixels": ("spectrum",),
        "amplitude": ("spectrum",),
        "rest_first": ("spectrum",),
        "rest_last": ("spectrum",),
        "region_chi2": ("spectrum", "region"),
        "run_significance": ("spectrum",),
        "run_wavelength": ("spectrum",),
        "latents_fit": ("spectrum", "latent"),
        "latents_cov": ("spectrum", "latent_pair"),
        "chi2_fit": ("spectrum",),
        "quality": ("spectrum",),
    }


def test_axes_that_no_chosen_variable_has_are_left_out(plan: Plan, make_targets: MakeTargets) -> None:
    few = ModelConfig.from_dict({**MODEL.to_dict(), "variables": ["latents"]})
    template, _ = encodings_template(plan, few, make_targets(18), WAVE_REST, WAVELENGTH)
    assert set(template.data_vars) == {"latents", "quality"}
    assert set(template.dims) == {"spectrum", "latent"}


def test_templates_are_lazy(spectra: tuple[xr.Dataset, Encoding], encodings: tuple[xr.Dataset, Encoding]) -> None:
    for template, _ in (spectra, encodings):
        assert all(isinstance(variable.data, dask.array.Array) for variable in template.data_vars.values())


def test_every_variable_says_what_it_is_in_which_unit(
    spectra: tuple[xr.Dataset, Encoding], encodings: tuple[xr.Dataset, Encoding]
) -> None:
    for template, _ in (spectra, encodings):
        for name, variable in template.variables.items():
            assert variable.attrs["long_name"], name
            numeric = variable.dtype.kind == "f" or name in template.data_vars
            assert not numeric or variable.attrs["units"], name


@pytest.mark.parametrize(("name", "frame"), [("wavelength", "heliocentric"), ("wavelength_rest", "rest")])
def test_wavelengths_say_unit_medium_and_frame(name: str, frame: str, encodings: tuple[xr.Dataset, Encoding]) -> None:
    attributes = encodings[0][name].attrs
    assert attributes["units"] == "Angstrom"
    assert attributes["medium"] == "vacuum"
    assert attributes["frame"] == frame
    assert attributes["ucd"] == "em.wl"


def test_norm_has_the_archives_unit(spectra: tuple[xr.Dataset, Encoding]) -> None:
    assert spectra[0]["norm"].attrs["units"] == "1e-17 erg s-1 cm-2 Angstrom-1"


def test_quality_explains_its_bits(spectra: tuple[xr.Dataset, Encoding]) -> None:
    attributes = spectra[0]["quality"].attrs
    assert len(attributes["flag_masks"]) == len(attributes["flag_meanings"].split()) == len(Quality)
    assert attributes["flag_masks"].dtype == spectra[0]["quality"].dtype


def test_zwarning_explains_its_bits(spectra: tuple[xr.Dataset, Encoding]) -> None:
    attributes = spectra[0]["zwarning"].attrs
    assert len(attributes["flag_masks"]) == len(attributes["flag_meanings"].split()) == 9
    assert attributes["flag_meanings"].split()[7] == "unplugged"


def test_shards_are_tasks_and_wide_variables_are_cut_inside_them(
    spectra: tuple[xr.Dataset, Encoding], encodings: tuple[xr.Dataset, Encoding]
) -> None:
    assert spectra[1]["flux"]["shards"] == (8, 3921)
    assert spectra[1]["flux"]["chunks"] == (4, 3921)
    assert encodings[1]["restframe"]["chunks"] == (4, 50)
    assert encodings[1]["latents"] | {"shards": None} == encodings[1]["latents"] | {"shards": None, "chunks": (8, 3)}


def test_coordinates_are_one_chunk_in_all_but_the_largest_surveys(spectra: tuple[xr.Dataset, Encoding]) -> None:
    """Whatever the number of spectra: both descriptions of a coordinate fit its objects while a run grows."""
    assert all(spectra[1][name]["chunks"] == (256 * 8,) for name in SDSS.coordinates)


@pytest.fixture
def written(tmp_path: Path, spectra: tuple[xr.Dataset, Encoding]) -> Path:
    dataset.create(str(tmp_path / "s.zarr"), *spectra)
    return tmp_path / "s.zarr"


def test_a_store_never_written_looks_bad_and_masked(written: Path) -> None:
    opened = xr.open_zarr(written, consolidated=False).load()
    assert (opened["quality"] == int(Quality.NOT_PROCESSED)).all()
    assert opened["quality"].dtype == np.uint32
    assert (opened["ivar"] == 0).all()
    assert opened["flux"].isnull().all()
    assert opened["norm"].isnull().all()


def test_ids_beyond_a_float_survive_the_round_trip(written: Path, make_targets: MakeTargets) -> None:
    opened = xr.open_zarr(written, consolidated=False)
    assert opened["specobjid"].dtype == np.uint64
    np.testing.assert_array_equal(opened["specobjid"], make_targets(18)["specobjid"])
    assert int(opened["specobjid"].max()) == 2**64 - 1


def test_every_column_survives_the_round_trip(written: Path, make_targets: MakeTargets) -> None:
    opened = xr.open_zarr(written, consolidated=False)
    for name, expected in make_targets(18).items():
        column = schema.column(make_targets(18), name, SDSS.coordinates[name])
        np.testing.assert_array_equal(opened[name].to_numpy(), column, err_msg=name)
        assert opened[name].dtype == expected.dtype or opened[name].dtype.kind == "T"
    np.testing.assert_array_equal(opened["wavelength"], WAVELENGTH)


def test_text_is_stored_as_variable_length_strings(written: Path) -> None:
    group = zarr.open_group(written, mode="r")
    assert group["target"].metadata.to_dict()["data_type"] == "string"


@pytest.mark.parametrize("name", ["specobjid", "plate", "mjd", "fiberid", "zwarning", "quality", "ivar", "wavelength"])
def test_fill_means_missing_only_where_it_should(name: str, written: Path) -> None:
    assert "_FillValue" not in zarr.open_group(written, mode="r")[name].attrs


def test_targets_of_another_plan_are_refused(plan: Plan, make_targets: MakeTargets) -> None:
    with pytest.raises(ValueError, match="18 spectra and the targets 17 rows"):
        spectra_template(plan, make_targets(17), WAVELENGTH)


@pytest.mark.parametrize("codecs", [1, 2])
def test_a_run_has_the_codecs_of_its_plan(plan: Plan, make_targets: MakeTargets, tmp_path: Path, codecs: int) -> None:
    """A plan that has begun keeps the first generation; what is read is the same in both."""
    made = replace(plan, codecs=codecs)
    url = str(tmp_path / "spectra.zarr")
    dataset.create(url, *spectra_template(made, make_targets(18), WAVELENGTH))
    values = np.random.default_rng(0).normal(size=(8, len(WAVELENGTH))).astype(np.float32)
    dataset.write_region(url, made.shards()[0], {"flux": values, "ivar": values**2})
    found = dataset.read_region(url, ["flux", "ivar"], 0, 8)
    np.testing.assert_array_equal(found["flux"], values)
    names = {name: zarr.open_array(url, path=name).compressors[0].cname.value for name in ("flux", "ivar", "quality")}
    assert names == {"flux": "zstd" if codecs == 1 else "lz4", "ivar": "zstd", "quality": "zstd"}
