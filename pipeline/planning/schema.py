"""What the stores hold: dimensions, type, fill, units, meaning and origin of each variable; facts only.

Attributes follow the CF conventions. Three rules that a reader of the store relies on:

- `quality` is filled with NOT_PROCESSED: a chunk that was never written can never look good;
- `ivar` is filled with 0 and has no `_FillValue`, so that a masked pixel stays 0 and does not decode to NaN;
- ids carry no `_FillValue`: xarray would decode them to float, and a specobjid beyond 2^53 would change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RefusedError
from pipeline.spectra.quality import Quality, flag_attributes
from pipeline.surveys.columns import Attributes, Coordinate

if TYPE_CHECKING:
    import pandas as pd


# Rows per chunk of a coordinate along `spectrum`, in shards: one object for all but the largest surveys, five for 5 M
# rows (8 MiB each at most, text aside), instead of one request per task's rows for every read of a column. The number
# of spectra does not matter, so that a coordinate can be read while a run grows, by its old description or its new.
COORDINATE_SHARDS = 256

_TEXT_ROWS = 2**20

REGIONS = (0.0, 3000.0, 3700.0, 4200.0, 4750.0, 5250.0, 6200.0, 7000.0)
"""Lower ends of the restframe regions whose chi2 is kept, vacuum Angstrom; the last one has no upper end.

Between them lie Mg II; [Ne V]; [O II] with Ca H, K and the 4000 A break; G and Hgamma; Hbeta, [O III] and Mg b; Na D;
Halpha, [N II] and [S II]; the red bands and Ca II.
"""

_FLUX_UNITS = "1e-17 erg s-1 cm-2 Angstrom-1"


@dataclass(frozen=True)
class Variable:
    """One variable of a store: dimension names, dtype, fill of what was never written, CF attributes.

    missing: whether the fill means "no value" to a reader (it becomes `_FillValue`). sizes: lengths of the dimensions
    that only this variable has.
    """

    dims: tuple[str, ...]
    dtype: str
    fill: float
    attributes: Attributes = field(default_factory=dict)
    missing: bool = True
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a model made of M spectra: all that an output may be computed from. Tensors, of a library not imported here.

    flux, ivar: shape (M, L), normalized flux and its inverse variance, 0 where masked. z: shape (M,).
    latents: shape (M, S). restframe: shape (M, R), in units of the norm. reconstruction: shape (M, L), NaN outside of
    the model. valid: shape (M, L), bool, the pixels that the model covers. chi2: shape (M,), NaN without pixels.
    n_pixels: shape (M,), pixels in chi2. amplitude: shape (M,), the factor in restframe and reconstruction.
    rest_first, rest_last: shape (M,), the restframe bins between the first and the last pixel in chi2, -1 for none.
    residuals: spender_core's Residuals, which computes what is asked. fit: its LatentFit, where an output is `of_fit`.
    """

    flux: Any
    ivar: Any
    z: Any
    latents: Any
    restframe: Any
    reconstruction: Any
    valid: Any
    chi2: Any
    n_pixels: Any
    amplitude: Any
    rest_first: Any
    rest_last: Any
    residuals: Any = None
    fit: Any = None


@dataclass(frozen=True, kw_only=True)
class Output(Variable):
    """A variable of an encodings store that users may ask for: one entry here is all that an output needs.

    compute: what a model made of M spectra -> the tensor, shape (M, ...). by_default: whether plans that choose nothing
    have it. of_latents: whether it is a result wherever the latents are finite; others are blank, too, where the
    decoded spectrum does not describe the data. of_fit: whether latents must be fitted for it. in_flux: whether it is
    in units of the flux, and is scaled as that is.
    """

    compute: Callable[[Decoded], Any]
    by_default: bool = True
    of_latents: bool = False
    of_fit: bool = False
    in_flux: bool = False


def _covered(which: str, compute: Callable[[Decoded], Any]) -> Output:
    attributes = {
        "long_name": f"{which} restframe bin that the spectrum covers",
        "units": "1",
        "comment": "index along wavelength_rest; -1 where there is none. Bins outside are the model's alone",
    }
    return Output(dims=("spectrum",), dtype="int32", fill=-1, attributes=attributes, missing=False, compute=compute)


def _of_worst_run(long_name: str, units: str, comment: str, compute: Callable[[Decoded], Any]) -> Output:
    attributes = {"long_name": long_name, "units": units, "comment": comment, "ancillary_variables": "quality"}
    return Output(dims=("spectrum",), dtype="float32", fill=np.nan, attributes=attributes, compute=compute)


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

OUTPUTS: dict[str, Output] = {
    "latents": Output(
        dims=("spectrum", "latent"),
        dtype="float32",
        fill=np.nan,
        attributes={
            "long_name": "latent parameters of the spectrum",
            "units": "1",
            "comment": "latents of different checkpoints cannot be compared",
            "ancillary_variables": "quality chi2",
        },
        compute=lambda decoded: decoded.latents,
        of_latents=True,
    ),
    "restframe": Output(
        dims=("spectrum", "wavelength_rest"),
        dtype="float32",
        fill=np.nan,
        attributes={
            "long_name": "restframe model spectrum in units of norm",
            "units": "1",
            "ucd": "phot.flux.density;em.wl;meta.modelled",
            "ancillary_variables": "quality",
        },
        compute=lambda decoded: decoded.restframe,
        in_flux=True,
    ),
    "reconstruction": Output(
        dims=("spectrum", "wavelength"),
        dtype="float32",
        fill=np.nan,
        attributes={
            "long_name": "model of the observed spectrum in units of norm",
            "units": "1",
            "ucd": "phot.flux.density;em.wl;meta.modelled",
            "comment": "NaN where the model does not reach",
        },
        compute=lambda decoded: decoded.reconstruction,
        in_flux=True,
        by_default=False,
    ),
    "chi2": Output(
        dims=("spectrum",),
        dtype="float32",
        fill=np.nan,
        attributes={
            "long_name": "sum over the used pixels of ivar times the squared difference of flux and model",
            "units": "1",
            "ucd": "stat.fit.chi2",
            "ancillary_variables": "n_pixels",
        },
        compute=lambda decoded: decoded.chi2,
    ),
    "n_pixels": Output(
        dims=("spectrum",),
        dtype="int32",
        fill=0,
        attributes={"long_name": "number of pixels in chi2", "units": "1", "ucd": "meta.number"},
        missing=False,
        compute=lambda decoded: decoded.n_pixels,
    ),
    "amplitude": Output(
        dims=("spectrum",),
        dtype="float32",
        fill=np.nan,
        attributes={
            "long_name": "factor on the decoded spectrum, included in restframe and reconstruction",
            "units": "1",
            "comment": "1; fitted to the observed flux where the norm window had no valid pixel",
        },
        compute=lambda decoded: decoded.amplitude,
        in_flux=True,
    ),
    "rest_first": _covered("first", lambda decoded: decoded.rest_first),
    "rest_last": _covered("last", lambda decoded: decoded.rest_last),
    "region_chi2": Output(
        dims=("spectrum", "region"),
        dtype="float32",
        fill=np.nan,
        sizes={"region": len(REGIONS)},
        attributes={
            "long_name": "chi2 per used pixel of a restframe region",
            "units": "1",
            "ucd": "stat.fit.chi2;arith.ratio",
            "comment": "NaN where a region has fewer than 20 used pixels",
        },
        compute=lambda decoded: decoded.residuals.region_chi2,
    ),
    "run_significance": _of_worst_run(
        "significance of the worst run of 20 pixels, positive where the flux is above the model",
        "1",
        "its mean (flux - model) / error less that of 20 pixels on either side, in units of the error of this"
        " difference, and of the scatter of the other pixels where that is above 1",
        lambda decoded: decoded.residuals.run_significance,
    ),
    "run_wavelength": _of_worst_run(
        "middle of the worst run of 20 pixels, observed wavelength",
        "Angstrom",
        "vacuum; the run of used pixels whose (flux - model) / error differs most from that around it",
        lambda decoded: decoded.residuals.run_wavelength,
    ),
    "latents_fit": Output(
        dims=("spectrum", "latent"),
        dtype="float32",
        fill=np.nan,
        attributes={
            "long_name": "latent parameters that fit the spectrum best, beginning with those of the encoder",
            "units": "1",
            "comment": "amplitude, and z where it is not the catalog's, are fitted with them; see latents_cov",
            "ancillary_variables": "quality chi2_fit latents_cov",
        },
        compute=lambda decoded: decoded.fit.latents,
        by_default=False,
        of_fit=True,
    ),
    "latents_cov": Output(
        dims=("spectrum", "latent_pair"),
        dtype="float32",
        fill=np.nan,
        attributes={
            "long_name": "covariance of latents_fit, the lower triangle row by row",
            "units": "1",
            "ucd": "stat.covariance",
            "comment": "of the latents after a spectrum and the model's own distribution are known",
        },
        compute=lambda decoded: decoded.fit.packed,
        by_default=False,
        of_fit=True,
    ),
    "chi2_fit": Output(
        dims=("spectrum",),
        dtype="float32",
        fill=np.nan,
        attributes={"long_name": "chi2 at latents_fit", "units": "1", "ucd": "stat.fit.chi2"},
        compute=lambda decoded: decoded.fit.chi2,
        by_default=False,
        of_fit=True,
    ),
}
"""The outputs, in the order in which they are stored."""

ENCODING_QUALITY = _quality("quality bits of the observed spectrum and of its encoding")

ENCODING_SCALARS: dict[str, Attributes] = {
    "model": {"long_name": "name of the model in the run", "comment": "latents of two models cannot be compared"},
}
"""The scalar coordinates of an encodings store: data of two models cannot be joined without them showing it."""


def default_outputs() -> tuple[str, ...]:
    """Return the outputs of plans that choose nothing.

    The reconstruction can be computed from the restframe and the redshift, and is as large: off unless asked for.
    """
    return tuple(name for name, output in OUTPUTS.items() if output.by_default)


def lengths(n_spectra: int, n_pixels: int, n_latent: int, n_rest: int) -> dict[str, int]:
    """Return the length of each dimension; latent_pair: the pairs of latents, each with itself, too."""
    return {
        "spectrum": n_spectra,
        "wavelength": n_pixels,
        "latent": n_latent,
        "latent_pair": n_latent * (n_latent + 1) // 2,
        "wavelength_rest": n_rest,
    }


def variables_of(wanted: Collection[str]) -> dict[str, Variable]:
    """Return the variables of an encodings store: the outputs asked for, and quality."""
    outputs = {name: output for name, output in OUTPUTS.items() if name in wanted}
    return {**outputs, "quality": ENCODING_QUALITY}


def require_free(names: Collection[str], more: Collection[str] = ()) -> None:
    """Refuse columns of targets whose names the stores use for something else. Raises ConfigError.

    more: names that only some runs use. Whatever their case: not every disk tells FLUX from flux.
    """
    own = {
        *SPECTRA_VARIABLES,
        *OUTPUTS,
        *ENCODING_SCALARS,
        "spectrum",
        "wavelength",
        "wavelength_rest",
        "latent",
        *more,
    }
    for name in names:
        if name.lower() in own:
            raise RefusedError("keep", f"every run has a variable {name.lower()}", f"rename the column {name}")


def column(targets: pd.DataFrame, name: str, coordinate: Coordinate) -> NDArray[Any]:
    """Return one column of the targets in the stores' type; text as numpy's variable-length strings."""
    if coordinate.dtype == "str":
        values = np.empty(len(targets), dtype=np.dtypes.StringDType())
        for start in range(0, len(targets), _TEXT_ROWS):  # in pieces: as Python's own strings they are large
            rows = slice(start, start + _TEXT_ROWS)
            values[rows] = targets[name].iloc[rows].to_numpy(dtype=object)
        return values
    return np.asarray(targets[name].to_numpy(dtype=coordinate.dtype))
