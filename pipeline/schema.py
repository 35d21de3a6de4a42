"""What the stores hold: dimensions, type, fill, units and meaning of each variable; lazy templates of them.

Attributes follow the CF conventions. Three rules that a reader of the store relies on:

- `quality` is filled with NOT_PROCESSED: a chunk that was never written can never look good;
- `ivar` is filled with 0 and has no `_FillValue`, so that a masked pixel stays 0 and does not decode to NaN;
- ids carry no `_FillValue`: xarray would decode them to float, and a specobjid beyond 2^53 would change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from pipeline.quality import Quality, flag_attributes

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import ModelConfig
    from pipeline.plan import Plan

Attributes = dict[str, Any]
Encoding = dict[str, dict[str, Any]]

# Rows per chunk of a coordinate along `spectrum`: one object for all but the largest surveys, five for 5 M
# rows (8 MiB each at most, text aside), instead of one request per task's rows whenever somebody reads a column.
COORDINATE_ROWS = 2**20

_FLUX_UNITS = "1e-17 erg s-1 cm-2 Angstrom-1"
_ZWARNING_MEANINGS = (
    "sky little_coverage small_delta_chi2 negative_model many_outliers z_fitlimit negative_emission "
    "unplugged bad_target"
)


@dataclass(frozen=True)
class Variable:
    """One variable of a store: dimension names, dtype, fill of what was never written, CF attributes.

    missing: whether the fill means "no value" to a reader (it becomes `_FillValue`).
    """

    dims: tuple[str, ...]
    dtype: str
    fill: float
    attributes: Attributes = field(default_factory=dict)
    missing: bool = True


@dataclass(frozen=True)
class Coordinate:
    """One labelled column along `spectrum`: dtype ("str" is variable-length text) and CF attributes."""

    dtype: str
    attributes: Attributes = field(default_factory=dict)


def _quality(description: str) -> Variable:
    attributes = {
        "long_name": description,
        "standard_name": "quality_flag",
        "units": "1",
        **flag_attributes(),
    }
    return Variable(("spectrum",), "uint32", int(Quality.NOT_PROCESSED), attributes, missing=False)


SPECTRA_VARIABLES: dict[str, Variable] = {
    "flux": Variable(
        ("spectrum", "wavelength"),
        "float32",
        np.nan,
        {
            "long_name": "observed flux density divided by norm",
            "units": "1",
            "ucd": "phot.flux.density;em.wl",
            "ancillary_variables": "ivar norm quality",
        },
    ),
    "ivar": Variable(
        ("spectrum", "wavelength"),
        "float32",
        0.0,
        {
            "long_name": "inverse variance of the normalized flux",
            "units": "1",
            "ucd": "stat.weight;phot.flux.density",
            "comment": "0 where the pixel is masked, on a sky line or not observed",
        },
        missing=False,
    ),
    "norm": Variable(
        ("spectrum",),
        "float32",
        np.nan,
        {
            "long_name": "scale that the observed flux density was divided by",
            "units": _FLUX_UNITS,
            "ucd": "phot.flux.density",
            "comment": "median over the restframe window 5300-5850 Angstrom unless quality says otherwise",
        },
    ),
    "quality": _quality("quality bits of the observed spectrum"),
}

ENCODING_VARIABLES: dict[str, Variable] = {
    "latents": Variable(
        ("spectrum", "latent"),
        "float32",
        np.nan,
        {
            "long_name": "latent parameters of the spectrum",
            "units": "1",
            "comment": "latents of different checkpoints cannot be compared",
            "ancillary_variables": "quality chi2",
        },
    ),
    "restframe": Variable(
        ("spectrum", "wavelength_rest"),
        "float32",
        np.nan,
        {
            "long_name": "restframe model spectrum in units of norm",
            "units": "1",
            "ucd": "phot.flux.density;em.wl;meta.modelled",
            "ancillary_variables": "quality",
        },
    ),
    "reconstruction": Variable(
        ("spectrum", "wavelength"),
        "float32",
        np.nan,
        {
            "long_name": "model of the observed spectrum in units of norm",
            "units": "1",
            "ucd": "phot.flux.density;em.wl;meta.modelled",
            "comment": "NaN where the model does not reach",
        },
    ),
    "chi2": Variable(
        ("spectrum",),
        "float32",
        np.nan,
        {
            "long_name": "sum over the used pixels of ivar times the squared difference of flux and model",
            "units": "1",
            "ucd": "stat.fit.chi2",
            "ancillary_variables": "n_pixels",
        },
    ),
    "n_pixels": Variable(
        ("spectrum",),
        "int32",
        0,
        {"long_name": "number of pixels in chi2", "units": "1", "ucd": "meta.number"},
        missing=False,
    ),
    "amplitude": Variable(
        ("spectrum",),
        "float32",
        np.nan,
        {
            "long_name": "factor on the decoded spectrum, included in restframe and reconstruction",
            "units": "1",
            "comment": "1, or fitted to the observed flux where the spectrum had no proper norm",
        },
    ),
    "quality": _quality("quality bits of the observed spectrum and of its encoding"),
}

COORDINATES: dict[str, Coordinate] = {
    "target": Coordinate(
        "str", {"long_name": "key of the spectrum, run2d/plate-mjd-fiberid", "ucd": "meta.id;meta.main"}
    ),
    "specobjid": Coordinate(
        "uint64",
        {"long_name": "SDSS spectroscopic object id", "ucd": "meta.id", "comment": "0 where there is none"},
    ),
    "plate": Coordinate("int32", {"long_name": "plate number", "ucd": "meta.id;instr.plate"}),
    "mjd": Coordinate(
        "int32",
        {"long_name": "modified Julian date of the last observation", "units": "d", "ucd": "time.epoch"},
    ),
    "fiberid": Coordinate("int32", {"long_name": "fiber number, from 1", "ucd": "meta.id"}),
    "run2d": Coordinate("str", {"long_name": "version of the two-dimensional reduction", "ucd": "meta.version"}),
    "ra": Coordinate(
        "float64", {"long_name": "right ascension (J2000)", "units": "degree", "ucd": "pos.eq.ra;meta.main"}
    ),
    "dec": Coordinate(
        "float64", {"long_name": "declination (J2000)", "units": "degree", "ucd": "pos.eq.dec;meta.main"}
    ),
    "z": Coordinate("float32", {"long_name": "heliocentric redshift", "units": "1", "ucd": "src.redshift"}),
    "z_err": Coordinate("float32", {"long_name": "redshift error", "units": "1", "ucd": "stat.error;src.redshift"}),
    "zwarning": Coordinate(
        "int32",
        {
            "long_name": "warning bits of the redshift fit",
            "units": "1",
            "flag_masks": np.array([1 << bit for bit in range(9)], dtype=np.int32),
            "flag_meanings": _ZWARNING_MEANINGS,
        },
    ),
    "class": Coordinate("str", {"long_name": "spectroscopic class: GALAXY, QSO or STAR", "ucd": "src.class"}),
    "sn_median": Coordinate(
        "float32",
        {"long_name": "median signal-to-noise ratio per pixel", "units": "1", "ucd": "stat.snr;stat.median"},
    ),
}

_WAVELENGTH: Attributes = {
    "long_name": "observed wavelength",
    "standard_name": "radiation_wavelength",
    "units": "Angstrom",
    "medium": "vacuum",
    "frame": "heliocentric",
    "ucd": "em.wl",
}
_WAVELENGTH_REST: Attributes = {**_WAVELENGTH, "long_name": "restframe wavelength", "frame": "rest"}
_LATENT: Attributes = {"long_name": "number of the latent parameter", "units": "1"}


def variables_of(model: ModelConfig) -> dict[str, Variable]:
    """Return the variables of a model's encodings store: those asked for, and quality."""
    wanted = (*model.variables, "quality")
    return {name: variable for name, variable in ENCODING_VARIABLES.items() if name in wanted}


def spectra_template(plan: Plan, targets: pd.DataFrame, wavelength: NDArray[np.float32]) -> tuple[xr.Dataset, Encoding]:
    """Return the lazy dataset of a plan's spectra store and its encoding.

    targets: one row per spectrum, the columns of COORDINATES. wavelength: the instrument's grid, shape (L,),
    vacuum Angstrom. Nothing is computed: data variables are dask arrays of the fill.
    """
    attributes = {"title": "SDSS spectra on one wavelength grid", "fingerprint": plan.ingest_fingerprint}
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
    variables = variables_of(model)
    used = {dim for variable in variables.values() for dim in variable.dims}
    axes = {
        "latent": (np.arange(model.n_latent or 0, dtype=np.int32), _LATENT),
        "wavelength_rest": (wave_rest, _WAVELENGTH_REST),
        "wavelength": (wavelength, _WAVELENGTH),
    }
    attributes = {
        "title": f"Encodings of SDSS spectra by the spender model {model.name}",
        "fingerprint": plan.encode_fingerprint(model.name),
        "spectra_fingerprint": plan.ingest_fingerprint,
    }
    return _template(plan, targets, variables, {k: v for k, v in axes.items() if k in used}, attributes)


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
        encoding[name] = _axis_encoding(values)
    for name, coordinate in COORDINATES.items():
        values = column(targets, name)
        coords[name] = xr.Variable(("spectrum",), values, coordinate.attributes)
        encoding[name] = _column_encoding(values)
    data: dict[str, xr.Variable] = {}
    for name, variable in variables.items():
        data[name], encoding[name] = _data_variable(variable, sizes, plan.shard, plan.chunk)
    attrs = {"Conventions": "CF-1.11", **attributes}
    return xr.Dataset(data, coords, attrs), encoding


def column(targets: pd.DataFrame, name: str) -> NDArray[Any]:
    """Return one column of the targets in the stores' type; text as numpy's variable-length strings."""
    if COORDINATES[name].dtype == "str":
        values = np.empty(len(targets), dtype=np.dtypes.StringDType())
        for start in range(0, len(targets), COORDINATE_ROWS):  # in pieces: as Python's own strings they are large
            rows = slice(start, start + COORDINATE_ROWS)
            values[rows] = targets[name].iloc[rows].to_numpy(dtype=object)
        return values
    return np.asarray(targets[name].to_numpy(dtype=COORDINATES[name].dtype))


def _axis_encoding(values: NDArray[Any]) -> dict[str, Any]:
    # CF forbids missing values on a dimension's own coordinate.
    return {"chunks": (len(values),), "compressors": compressors(), "_FillValue": None}


def _column_encoding(values: NDArray[Any]) -> dict[str, Any]:
    return {"chunks": (max(1, min(len(values), COORDINATE_ROWS)),), "compressors": compressors()}


def _data_variable(
    variable: Variable, sizes: Mapping[str, int], shard: int, chunk: int
) -> tuple[xr.Variable, dict[str, Any]]:
    shape = tuple(sizes[dim] for dim in variable.dims)
    owned = (shard, *shape[1:])
    lazy = dask.array.full(shape, variable.fill, dtype=variable.dtype, chunks=owned)  # type: ignore[no-untyped-call]
    encoding: dict[str, Any] = {"compressors": compressors(), "fill_value": variable.fill}
    if variable.dims[-1] in ("wavelength", "wavelength_rest"):
        encoding |= {"chunks": (chunk, *shape[1:]), "shards": owned}
    else:
        # A few bytes per spectrum: one plain chunk per task is already cheap to read.
        encoding |= {"chunks": owned}
    if not variable.missing:
        encoding["_FillValue"] = None
    return xr.Variable(variable.dims, lazy, variable.attributes), encoding


def compressors() -> tuple[BloscCodec, ...]:
    """Return the compression of every array: Zstandard level 3 over byte-shuffled values.

    Measured by benchmarks/chunking.py on real normalized spectra, inner chunks of 32, one busy core. Against plain
    Zstandard level 3, flux and ivar take 22.3 kB per spectrum instead of 25.6 (31.4 uncompressed) and restframes 17.4
    instead of 24.3 (28.0): exponents and high mantissa bytes repeat along a spectrum, low ones are noise. Reading is as
    fast (1 GB/s), writing slower (150-290 MB/s against 220-500), yet far above what a task can fetch or encode. Level 5
    saves 1 and 5 % more at half the writing rate; lz4 writes at 700-900 MB/s and takes 5 % more space. The output does
    not depend on threads: Zarr switches Blosc's own off.
    """
    return (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),)
