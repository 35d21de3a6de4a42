"""One spectrum of a run with its reconstruction and restframe, in physical units; also as specutils has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, RefusedError
from pipeline.results.coverage import COVERAGE, covered
from pipeline.results.damage import damage_named

if TYPE_CHECKING:
    import specutils
    import xarray as xr

    from pipeline.results.data import RunData

Floats = NDArray[np.floating[Any]]

FLUX_UNITS = "1e-17 erg s-1 cm-2 Angstrom-1"

KINDS = ("observed", "reconstruction", "restframe")
"""What of a spectrum is asked for."""

COORDINATES = ("target", "class", "z", "sn_median")
"""What is told of a target."""

META = ("target", "object_class", "z", "z_is_fitted", "sn_median", "quality", "model")
"""What goes with a spectrum as specutils has it."""


@dataclass(frozen=True)
class Spectrum:
    """One row of a run, in physical units.

    wavelength: (L,), observed Angstrom; flux, sigma, reconstruction: (L,), 1e-17 erg s-1 cm-2 Angstrom-1, sigma
    infinite where masked, reconstruction NaN where there is none; ivar: (L,), inverse variance of the flux, 0 where
    masked; observed: (L,), whether the file has the pixel. norm: what the stored flux was divided by. z: of the
    restframe; z_is_fitted: whether it is the model's, and not the catalog's.
    unusable: those bits of its quality that mean "no latents" in its run. model: of the encoding, "" without one.
    wave_rest, restframe: (R,), Angstrom and flux over norm; empty where the run has no restframe of it. covered: (R,),
    whether the spectrum covers the bin.
    """

    target: str
    object_class: str
    z: float
    sn_median: float
    quality: int
    unusable: int
    wavelength: Floats
    flux: Floats
    sigma: Floats
    observed: NDArray[np.bool_]
    reconstruction: Floats
    wave_rest: Floats
    restframe: Floats
    ivar: Floats
    norm: float
    covered: NDArray[np.bool_]
    model: str = ""
    z_is_fitted: bool = False

    @property
    def residual(self) -> Floats:
        """(flux - reconstruction) / sigma, shape (L,), NaN where masked or without a reconstruction."""
        pull = (self.flux - self.reconstruction) / self.sigma
        return np.where(np.isfinite(self.sigma), pull, np.nan)

    @property
    def masked(self) -> NDArray[np.bool_]:
        """Which pixels have no weight, shape (L,)."""
        return np.asarray(~(self.ivar > 0))


def read_spectrum(
    run: RunData, row: int, model: str | None = None, known: Mapping[str, NDArray[Any]] | None = None
) -> Spectrum:
    """Read one row of a run and its encoding; see `read_spectra`."""
    return read_spectra(run, [row], model, known)[0]


def read_spectra(
    run: RunData, rows: Sequence[int], model: str | None = None, known: Mapping[str, NDArray[Any]] | None = None
) -> list[Spectrum]:
    """Read rows of a run and their encodings by one model.

    rows: indices along `spectrum`. model: name, default the plan's only one; a run without models, or whose model has
    not begun, has spectra alone. The reconstruction is the stored one, else the stored restframe, redshifted and
    interpolated linearly (without the instrument's line spread function). known: coordinates of the rows that are at
    hand, by name, of `COORDINATES`: words of millions of spectra take a moment to read.
    """
    whole = opened(run, model)
    wanted = {"flux", "ivar", "norm", "quality", "restframe", "reconstruction", "z_fit", *COVERAGE}
    kept = whole[[name for name in whole.data_vars if name in wanted]]
    dropped = set(known or ()) & set(kept.coords)
    needed = {*COORDINATES, "model", "wavelength", "wavelength_rest"} - dropped
    kept = kept.drop_vars([name for name in kept.coords if name not in needed])
    found = []
    for place, row in enumerate(rows):
        with damage_named(run.root):
            loaded = kept.isel(spectrum=row).load()  # a single one: for a list of them dask reads whole chunks
        own = {name: values[place] for name, values in (known or {}).items() if name in dropped}
        found.append(_of_row(loaded.assign_coords(own), int(run.plan.unusable)))
    return found


def opened(run: RunData, model: str | None) -> xr.Dataset:
    """Return the encodings of a model with their spectra, or spectra alone where a run has no model that has begun."""
    if model is None and not run.plan.models:
        return run.spectra()
    try:
        return run.encodings(model)
    except RefusedError as error:
        if model is None and isinstance(error.__cause__, FileNotFoundError):
            return run.spectra()
        raise


def as_specutils(spectrum: Spectrum, kind: str = "observed") -> specutils.Spectrum:
    """Return a spectrum as specutils has it: flux with units, mask, inverse variance; see `Run.spectrum`."""
    try:
        import specutils
        from astropy import units
        from astropy.nddata import InverseVariance
    except ImportError as error:
        problem = "specutils is not installed"
        raise RefusedError("spectrum", problem, "pip install 'spender-pipeline[analysis]'") from error
    if kind not in KINDS:
        raise ConfigError("kind", kind, f"one of {', '.join(KINDS)}")
    unit = units.Unit(FLUX_UNITS)
    meta = {name: getattr(spectrum, name) for name in META}
    if kind == "restframe":
        _require_some(spectrum.restframe, spectrum)
        flux, wave, mask = spectrum.restframe * spectrum.norm, spectrum.wave_rest, ~spectrum.covered
        return specutils.Spectrum(flux=flux * unit, spectral_axis=wave * units.AA, mask=mask, meta=meta)
    axis = spectrum.wavelength * units.AA
    if kind == "reconstruction":
        _require_some(spectrum.reconstruction[np.isfinite(spectrum.reconstruction)], spectrum)
        mask = ~np.isfinite(spectrum.reconstruction)
        return specutils.Spectrum(flux=spectrum.reconstruction * unit, spectral_axis=axis, mask=mask, meta=meta)
    return specutils.Spectrum(
        flux=spectrum.flux * unit,
        spectral_axis=axis,
        uncertainty=InverseVariance(spectrum.ivar / unit**2),
        mask=spectrum.masked,
        meta=meta,
    )


def _require_some(values: Floats, spectrum: Spectrum) -> None:
    if not len(values):
        problem = f"there is no restframe of {spectrum.target}"
        raise RefusedError("kind", problem, "the model kept none, or the spectrum has none: see its quality")


def _of_row(row: xr.Dataset, unusable: int) -> Spectrum:
    """Make a spectrum of a row that is in memory."""
    wavelength = row["wavelength"].to_numpy().astype(np.float64)
    norm, weight = float(row["norm"]), row["ivar"].to_numpy().astype(np.float64)
    scale = norm if np.isfinite(norm) else 1.0
    flux = row["flux"].to_numpy().astype(np.float64)
    used = np.flatnonzero(weight > 0)
    observed = np.zeros(len(wavelength), dtype=bool)
    if len(used):
        observed[used[0] : used[-1] + 1] = True
    else:
        observed[:] = np.isfinite(flux) & (flux != 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = np.where(weight > 0, abs(scale) * weight**-0.5, np.inf)
    z_is_fitted = "z_fit" in row
    z = float(row["z_fit"] if z_is_fitted else row["z"])
    wave_rest, restframe = np.empty(0), np.empty(0)
    if "restframe" in row and np.isfinite(row["restframe"].to_numpy()).any():
        wave_rest = row["wavelength_rest"].to_numpy().astype(np.float64)
        restframe = row["restframe"].to_numpy().astype(np.float64)
    return Spectrum(
        target=str(row["target"].item()),
        object_class=str(row["class"].item()) if "class" in row.coords else "",
        z=z,
        sn_median=float(row["sn_median"]) if "sn_median" in row.coords else float("nan"),
        quality=int(row["quality"]),
        unusable=int(row["quality"]) & unusable,
        wavelength=wavelength,
        flux=flux * scale,
        sigma=sigma,
        observed=observed,
        reconstruction=scale * _reconstruction(row, wavelength, z, wave_rest, restframe),
        wave_rest=wave_rest,
        restframe=restframe,
        ivar=weight / scale**2,
        norm=scale,
        covered=_covered(row, wave_rest, wavelength[observed], z),
        model=str(row["model"].item()) if "model" in row.coords else "",
        z_is_fitted=z_is_fitted,
    )


def _covered(row: xr.Dataset, wave_rest: Floats, seen: Floats, z: float) -> NDArray[np.bool_]:
    """Return which restframe bins a spectrum covers, by its outputs, else by its first and last observed pixel."""
    if set(COVERAGE) <= set(row.data_vars):
        first, last = (np.atleast_1d(row[name].to_numpy()) for name in COVERAGE)
        found: NDArray[np.bool_] = covered(first, last, len(wave_rest))[0]
        return found
    if not len(seen):
        return np.zeros(len(wave_rest), np.bool_)
    return np.asarray((wave_rest >= seen[0] / (1 + z)) & (wave_rest <= seen[-1] / (1 + z)))


def _reconstruction(row: xr.Dataset, wavelength: Floats, z: float, wave_rest: Floats, restframe: Floats) -> Floats:
    """Model of the observed spectrum in units of norm, shape (L,), NaN where there is none."""
    if "reconstruction" in row:
        return np.asarray(row["reconstruction"].to_numpy(), dtype=np.float64)
    if not len(restframe):
        return np.full(len(wavelength), np.nan)
    return np.interp(wavelength, wave_rest * (1 + z), restframe, left=np.nan, right=np.nan)
