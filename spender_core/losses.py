"""Losses of the autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor


def fidelity(spec: Tensor, w: Tensor, reconstruction: Tensor) -> Tensor:
    """Half the squared deviation in units of the noise, per bin (paper I, eq. 1).

    spec, w, reconstruction: shape (N, L), w the inverse variance. Returns shape (N,). All L bins divide, also those
    without weight, so that spectra with more valid bins count more: a perfect fit has half the valid fraction.
    """
    return torch.sum(0.5 * w * (spec - reconstruction).square(), dim=1) / spec.shape[1]
