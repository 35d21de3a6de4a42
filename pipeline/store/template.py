"""Lazy templates of the stores: dimensions, coordinates, chunks, codecs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from pipeline.planning.redshift import CATALOG
from pipeline.planning.schema import (
    COORDINATE_SHARDS,
    ENCODING_SCALARS,
    OUTPUTS,
    REGIONS,
    SPECTRA_VARIABLES,
    Variable,
    column,
)
from pipeline.surveys.columns import Attributes

Encoding = dict[str, dict[str, Any]]


_WAVELENGTH: Attributes = {
    "long_name": "observed wavelength",
    "standard_name": "radiation_wavelength",
    "units": "Angstrom",
    "medium": "vacuum",
    "frame": "heliocentric",
    "ucd": "em.wl",
}


_WAVELENGTH_REST: Attributes = {**_WAVELENGTH, "long_name": "restframe wavelength", "frame": "rest"}


_LATENT_PAIR: Attributes = {
    "long_name": "number of a pair of latent parameters",
    "units": "1",
    "comment": "the pair i, j with i >= j is number i (i + 1) / 2 + j",
}


_REGION: Attributes = {
    **_WAVELENGTH,
    "long_name": "lowest restframe wavelength of the region",
    "frame": "rest",
    "comment": "a region ends where the next one begins; the last one has no end",
}


_LATENT: Attributes = {"long_name": "number of the latent parameter", "units": "1"}


def spectra_template(plan: Plan, targets: pd.DataFrame, wavelength: NDArray[np.float32]) -> tuple[xr.Dataset, Encoding]:
    """Return the lazy dataset of a plan's spectra store and its encoding.

    targets: one row per spectrum, the survey's coordinates. wavelength: the instrument's grid, shape (L,),
    vacuum Angstrom. Nothing is computed: data variables are dask arrays of the fill.
    """
    attributes = {
        "title": f"{plan.survey.provenance.title} spectra on one wavelength grid",
        "fingerprint": plan.ingest_fingerprint,
        "targets_sha256": plan.targets_sha256,
    }
    axes = {"wavelength": (wavelength, _WAVELENGTH)}
    return _template(plan, targets, SPECTRA_VARIABLES, axes, attributes)


def encodings_template(
    plan: Plan,
    model: ModelConfig,
    targets: pd.DataFrame,
    wave_rest: NDArray[np.floating[Any]],
    wavelength: NDArray[np.float32],
) -> tuple[xr.Dataset, Encoding]:
    """Return the lazy dataset of a model's encodings store and its encoding.

    wave_rest: the model's restframe grid, shape (R,), vacuum Angstrom; an axis is left out when no variable
    has it.
    """
    variables = _said(model.stored, model)
    n_latent = model.n_latent or 0
    used = {dim for variable in variables.values() for dim in variable.dims}
    axes = {
        "latent": (np.arange(n_latent, dtype=np.int32), _LATENT),
        "latent_pair": (np.arange(n_latent * (n_latent + 1) // 2, dtype=np.int32), _LATENT_PAIR),
        "region": (np.array(REGIONS, np.float32), _REGION),
        "wavelength_rest": (wave_rest, _WAVELENGTH_REST),
        "wavelength": (wavelength, _WAVELENGTH),
    }
    attributes = {
        "title": f"Encodings of {plan.survey.provenance.title} spectra by the spender model {model.name}",
        "fingerprint": plan.encode_fingerprint(model.name),
        "spectra_fingerprint": plan.ingest_fingerprint,
        "targets_sha256": plan.targets_sha256,
    }
    own = {name: each for name, each in axes.items() if name in used}
    return _of_model(model, plan, *_template(plan, targets, variables, own, attributes))


def density_template(plan: Plan, model: ModelConfig, targets: pd.DataFrame) -> tuple[xr.Dataset, Encoding]:
    """Return the lazy dataset of a density's store and its encoding."""
    attributes = {
        "title": f"Densities of the latents of {plan.survey.provenance.title} spectra, model {model.name}",
        "fingerprint": plan.density_fingerprint(model.name),
        "encodings_fingerprint": plan.encode_fingerprint(model.name),
        "targets_sha256": plan.targets_sha256,
    }
    return _of_model(model, plan, *_template(plan, targets, model.scored, {}, attributes))


def _of_model(model: ModelConfig, plan: Plan, dataset: xr.Dataset, encoding: Encoding) -> tuple[xr.Dataset, Encoding]:
    """Say in a scalar coordinate whose data they are."""
    name = np.array(model.name, dtype=np.dtypes.StringDType())
    encoding["model"] = {"compressors": compressors(plan.codecs)}
    return dataset.assign_coords(model=xr.Variable((), name, ENCODING_SCALARS["model"])), encoding


def _template(
    plan: Plan,
    targets: pd.DataFrame,
    variables: Mapping[str, Variable],
    axes: Mapping[str, tuple[NDArray[Any], Attributes]],
    attributes: Attributes,
) -> tuple[xr.Dataset, Encoding]:
    if len(targets) != plan.n_spectra:
        raise ValueError(f"the plan has {plan.n_spectra} spectra and the targets {len(targets)} rows")
    sizes = {"spectrum": plan.n_spectra, **{name: len(values) for name, (values, _) in axes.items()}}
    coords: dict[str, xr.Variable] = {}
    encoding: Encoding = {}
    for name, (values, attrs) in axes.items():
        coords[name] = xr.Variable((name,), np.asarray(values), attrs)
        encoding[name] = _axis_encoding(values, plan.codecs)
    for name, coordinate in plan.coordinates.items():
        values = column(targets, name, coordinate)
        coords[name] = xr.Variable(("spectrum",), values, coordinate.attributes)
        encoding[name] = {"chunks": (COORDINATE_SHARDS * plan.shard,), "compressors": compressors(plan.codecs)}
    data: dict[str, xr.Variable] = {}
    for name, variable in variables.items():
        own = {**sizes, **variable.sizes}
        data[name], encoding[name] = _data_variable(variable, own, plan, compressors(plan.codecs, name))
    attrs = {"Conventions": "CF-1.11", **attributes}
    return xr.Dataset(data, coords, attrs), encoding


def _axis_encoding(values: NDArray[Any], codecs: int) -> dict[str, Any]:
    # CF forbids missing values on a dimension's own coordinate.
    return {"chunks": (len(values),), "compressors": compressors(codecs), "_FillValue": None}


def _data_variable(
    variable: Variable, sizes: Mapping[str, int], plan: Plan, codecs: tuple[BloscCodec, ...]
) -> tuple[xr.Variable, dict[str, Any]]:
    shape = tuple(sizes[dim] for dim in variable.dims)
    owned = (plan.shard, *shape[1:])
    lazy = dask.array.full(shape, variable.fill, dtype=variable.dtype, chunks=owned)  # type: ignore[no-untyped-call]
    encoding: dict[str, Any] = {"compressors": codecs, "fill_value": variable.fill}
    if variable.dims[-1] in ("wavelength", "wavelength_rest"):
        encoding |= {"chunks": (plan.chunk, *shape[1:]), "shards": owned}
    else:
        # A few bytes per spectrum: one plain chunk per task is already cheap to read.
        encoding |= {"chunks": owned}
    if not variable.missing:
        encoding["_FillValue"] = None
    return xr.Variable(variable.dims, lazy, variable.attributes), encoding


_DENSE = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),)
_SPECTRA = {
    "ivar": (BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),),
    **dict.fromkeys(
        ("flux", "restframe", "reconstruction"), (BloscCodec(cname="lz4", clevel=9, shuffle="bitshuffle"),)
    ),
}


def compressors(codecs: int, name: str = "") -> tuple[BloscCodec, ...]:
    """Return the compression of an array. codecs: the generation that a plan says; name: of the variable.

    Exponents and high bits of mantissas repeat along a spectrum, low ones are noise: sorted by significance, by bytes
    or bits, they take less space. The first generation is Zstandard over bytes for all. In the second, spectra are
    LZ4 over bits, and ivar Zstandard at its first level: smaller in all, and 1.5 to 2 times as fast to write
    (benchmarks/RESULTS.md, "Chunks and compression"). The output does not depend on threads: Zarr switches Blosc's own
    off.
    """
    return _DENSE if codecs == 1 else _SPECTRA.get(name, _DENSE)


def _said(variables: Mapping[str, Variable], model: ModelConfig) -> dict[str, Variable]:
    """Say of each output which redshift it is at, where that is not the catalog's."""
    if model.redshift == CATALOG:
        return dict(variables)
    attributes = {"redshift": f"z_fit ({model.redshift})"}
    own = {name: replace(each, attributes={**each.attributes, **attributes}) for name, each in variables.items()}
    return {name: own[name] if name in OUTPUTS else each for name, each in variables.items()}
