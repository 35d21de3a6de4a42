"""Which restframe bins spectra cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.errors import RefusedError

COVERAGE = ("rest_first", "rest_last")
"""The outputs that say what a spectrum covers."""


def covered(first: NDArray[np.integer[Any]], last: NDArray[np.integer[Any]], bins: int) -> NDArray[np.bool_]:
    """Return which restframe bins spectra constrain: first and last covered bin, shape (N,) -> shape (N, bins)."""
    place = np.arange(bins)
    return np.asarray((place >= first[:, None]) & (place <= last[:, None]) & (first[:, None] >= 0))


def observed_only(encodings: xr.Dataset, model: str) -> xr.Dataset:
    """Return encodings whose restframe is NaN in bins outside of the first and last that the spectrum covers, lazily.

    Raises RefusedError where the encodings lack one of restframe, rest_first and rest_last.
    """
    require_coverage(set(map(str, encodings.data_vars)), model)
    restframe = encodings["restframe"]
    rows = {"spectrum": restframe.chunksizes["spectrum"]}
    first, last = (encodings[name].chunk(rows) for name in COVERAGE)
    place = xr.DataArray(np.arange(restframe.sizes["wavelength_rest"]), dims="wavelength_rest")
    kept = restframe.where((place >= first) & (place <= last) & (first >= 0))
    kept.attrs = {**restframe.attrs, "comment": "NaN in bins that the spectrum does not cover"}
    return encodings.assign(restframe=kept)


def require_coverage(present: set[str], model: str) -> None:
    """Refuse encodings that do not say what their spectra cover. Raises RefusedError."""
    missing = [name for name in ("restframe", *COVERAGE) if name not in present]
    if missing:
        problem = f"the encodings of {model} have no {', '.join(missing)}"
        raise RefusedError("variables", problem, "plan a model with these variables, under another name")


def runs_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the runs of True in a mask, shape (L,): the first index of each, and its last."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return edges[::2], edges[1::2] - 1
