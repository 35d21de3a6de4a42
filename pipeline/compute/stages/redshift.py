"""Pure: spectra on the grid -> their redshifts by templates, and the spectra in the scale that these give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.planning.redshift import KINDS, REDSHIFT_VARIABLES
from pipeline.spectra.normalize import Grid, scale_of
from pipeline.spectra.quality import Quality
from spender_core.precision import arithmetic
from spender_core.redshift import RedshiftEstimator

_OF_THE_CATALOG = Quality.NO_REDSHIFT | Quality.NO_NORM | Quality.NEGATIVE_NORM
"""Bits that ingest sets by the catalog's redshift."""


@dataclass(frozen=True)
class Scaled:
    """N spectra in the scale of their redshifts, each shape (N, ...).

    flux, ivar, quality: as `infer.encode_spectra` takes them. factor: float32, what the flux was divided by.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    quality: NDArray[np.uint32]
    factor: NDArray[np.float32]


def find_redshifts(
    estimator: RedshiftEstimator,
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    quality: NDArray[np.uint32],
    near: NDArray[np.floating] | None,
    window: float | None,
    *,
    micro_batch: int,
    device: torch.device,
) -> dict[str, NDArray[Any]]:
    """Find the redshifts of spectra.

    flux, ivar: shape (N, L), in any scale; ivar is 0 where masked. quality: shape (N,). near: shape (N,), the catalog's
    redshifts, to stay within `window` of, km/s; None for the whole range. Returns by name, in the order of
    `REDSHIFT_VARIABLES`, shape (N,); their fill in rows with an UNUSABLE bit. Every micro-batch has the same size.
    """
    n = len(flux)
    found = {name: np.full(n, each.fill, each.dtype) for name, each in REDSHIFT_VARIABLES.items()}
    codes = np.array([KINDS.index(kind) for kind in estimator.kinds], np.int8)
    usable = np.flatnonzero((quality & np.uint32(Quality.UNUSABLE)) == 0)
    with torch.inference_mode(), arithmetic("float32", device):
        for start in range(0, len(usable), micro_batch):
            rows = usable[start : start + micro_batch]

            def padded(values: NDArray[np.floating], rows: NDArray[np.intp] = rows) -> Tensor:
                batch = np.zeros((micro_batch, *values.shape[1:]), values.dtype)
                batch[: len(rows)] = values[rows]
                return torch.from_numpy(batch).to(device)

            around = None if near is None else padded(near.astype(np.float64))
            answer = estimator(padded(flux), padded(ivar), around, window or 0.0)
            kind = answer.kind[: len(rows)].cpu().numpy()
            values = {
                "z_fit": answer.z,
                "z_fit_err": answer.error,
                "z_fit_chi2": answer.chi2,
                "z_fit_delta_chi2": answer.delta_chi2,
                "z_fit_second": answer.second,
                "z_fit_warning": answer.warning,
            }
            for name, each in values.items():
                found[name][rows] = each[: len(rows)].cpu().numpy()
            found["z_fit_class"][rows] = np.where(kind >= 0, codes[kind], -1)
    return found


def rescaled(
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    z: NDArray[np.floating],
    quality: NDArray[np.uint32],
    grid: Grid,
) -> Scaled:
    """Scale spectra by their median in the norm window at given redshifts, as ingest does at the catalog's.

    flux, ivar: shape (N, L), as ingest left them. z, quality: shape (N,). Bits that ingest set by the catalog's
    redshift are replaced by those that these redshifts give.
    """
    usable = (quality & np.uint32(Quality.UNUSABLE)) == 0
    quality = np.where(usable, quality & ~np.uint32(_OF_THE_CATALOG), quality).astype(np.uint32)
    factor = np.ones(len(flux), np.float32)
    for i in np.flatnonzero(usable):
        factor[i], bits = scale_of(flux[i], ivar[i] > 0, z[i], grid)
        quality[i] |= np.uint32(bits)
    column = factor[:, None]
    return Scaled(flux / column, ivar * (column * column), quality, factor)
