"""Losses of the autoencoder: fidelity to the spectra, similarity and consistency of the latents."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Form = Literal["paper2", "scale_free"]
"""How `similarity` compares distances: as the second paper's scripts of 2023, or as upstream 0.3."""

NORM_WINDOW = (4000.0, 7000.0)
"""Restframe Angstrom, exclusive: the median there is divided out before restframes are compared."""

WEIGHT_CENTER = 5000.0
"""Restframe Angstrom: where the difference of two restframes counts most."""

WIDTHS: dict[Form, float] = {"paper2": 1000.0, "scale_free": 2000.0}
"""Width of that weight, Angstrom: of the SDSS script of 2023, and of upstream 0.3."""

OFFSET = 2.5
"""A pair with X = 0 costs 2 sigmoid(-2.5) = 0.15, one with a large |X| costs 1."""


def fidelity(spec: Tensor, w: Tensor, reconstruction: Tensor) -> Tensor:
    """Half the squared deviation in units of the noise, per bin (paper I, eq. 1).

    spec, w, reconstruction: shape (N, L), w the inverse variance. Returns shape (N,). All L bins divide, also those
    without weight, so that spectra with more valid bins count more: a perfect fit has half the valid fraction.
    """
    return torch.sum(0.5 * w * (spec - reconstruction).square(), dim=1) / spec.shape[1]


def similarity(
    s: Tensor,
    restframe: Tensor,
    wave_rest: Tensor,
    slope: float,
    *,
    form: Form = "scale_free",
    amplitude: float = 20.0,
    width: float | None = None,
    rows: slice | None = None,
) -> Tensor:
    """Cost of pairs that are close in latent space and not in their restframe, or the other way round.

    s: latents, shape (N, S). restframe: what they decode to, shape (N, R) on wave_rest, shape (R,), Angstrom.
    slope: k of (1/N) sum over pairs i != j of sigmoid(k X - 2.5) + sigmoid(-k X - 2.5). Distances are squared
    differences, the mean of S latents or of R bins, the restframes divided by their median in `NORM_WINDOW` and
    weighted by a Gaussian of this width (default: `WIDTHS` of the form).
    form: "paper2" has X = D(latents) - amplitude D(restframes) (arXiv:2302.02496); "scale_free" has X = D / mean D of
    the latents - D / mean D of the restframes, the means over all pairs of the batch, gradients included (upstream
    0.3). rows: sum over these i only, and all j, so that processes that hold the whole batch share the pairs.
    Returns a scalar, at least float32, also under autocast. It needs N x N and N x R numbers. Equal latents, and a
    batch of one, have a finite loss and finite gradients. ValueError for another form, or a grid without a bin in the
    window.
    """
    if form not in get_args(Form):
        raise ValueError(f"form is {form!r}, expected {' or '.join(get_args(Form))}")
    rows = slice(None) if rows is None else rows
    # differences of nearly equal numbers: bfloat16 would round them away
    with torch.autocast(s.device.type, enabled=False):
        s, spectra = _full(s), _weighted(_full(restframe), wave_rest, WIDTHS[form] if width is None else width)
        if form == "paper2":
            x = _distances(s, rows) / s.shape[1] - amplitude * _distances(spectra, rows) / spectra.shape[1]
        else:
            x = _distances(s, rows) / _mean_distance(s) - _distances(spectra, rows) / _mean_distance(spectra)
        cost = torch.sigmoid(slope * x - OFFSET) + torch.sigmoid(-slope * x - OFFSET)
        index = torch.arange(len(s), device=s.device)
        return torch.where(index[rows, None] != index, cost, 0).sum() / len(s)


def consistency(s: Tensor, s_augmented: Tensor, *, scale2: float | None = None, rows: slice | None = None) -> Tensor:
    """Cost of latents that change when their spectrum is augmented, 0 where none does.

    s: shape (N, S). s_augmented: latents of the augmented copies, shape (N, S), or of these rows of s only, whose
    share of the loss is returned. Returns the sum of sigmoid(x) - 1/2 with x = |s - s_augmented|^2 / (S scale2).
    scale2: 0.01 and 0.25 in the scripts of 2023 for SDSS and DESI; None takes the variance of s, the mean of its
    latents', gradients included (upstream 0.3): then unrelated pairs cost about 0.35 each. A scalar, at least float32,
    also under autocast; finite for equal latents and for a batch of one, whose variance is taken as 1.
    """
    with torch.autocast(s.device.type, enabled=False):
        s, s_augmented = _full(s), _full(s_augmented)
        change = (s if rows is None else s[rows]) - s_augmented
        # the squared distance of two independent draws is twice the variance
        tolerance = _mean_distance(s) / 2 if scale2 is None else s.shape[1] * scale2
        return (torch.sigmoid(change.square().sum(dim=1) / tolerance) - 0.5).sum()


def annealed(
    epoch: int, epochs: int, *, top: float = 9.9, step: float = 0.1, cycle: int = 100, last: int = 10
) -> float:
    """Slope of the similarity loss in an epoch, from 0 up to the top in cycles, and 0 in the last epochs.

    epoch: from 0. The defaults are those of SDSS in 2023; DESI's are top 1.9, cycle 20, last 0.
    With slope 0 the loss is a constant without gradient, so that the last epochs improve the fit alone.
    """
    if epoch >= epochs - last:
        return 0.0
    return min(step * (epoch % cycle), top)


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _weighted(restframe: Tensor, wave_rest: Tensor, width: float) -> Tensor:
    """Scale restframes by their median and by the root of the weight: squared differences are then weighted ones."""
    inside = (wave_rest > NORM_WINDOW[0]) & (wave_rest < NORM_WINDOW[1])
    if not bool(inside.any()):
        raise ValueError(
            f"the restframe covers {wave_rest[0].item():.0f}-{wave_rest[-1].item():.0f} Angstrom, expected bins in"
            f" {NORM_WINDOW[0]:.0f}-{NORM_WINDOW[1]:.0f} for the similarity loss: widen it, or leave this loss out"
        )
    median = restframe[:, inside].median(dim=1).values
    root = torch.exp(-0.5 * (0.5 * (wave_rest.double() - WEIGHT_CENTER) / width).square()).to(restframe.dtype)
    return restframe * root / median[:, None]


def _distances(x: Tensor, rows: slice) -> Tensor:
    """Squared distances of these rows to all, shape (n, N), from the Gram matrix: no N x N x R numbers."""
    x = x - x.mean(dim=0)  # whose products are as small as the distances, so that little is lost when they cancel
    squares = x.square().sum(dim=1)
    return squares[rows, None] + squares - 2 * x[rows] @ x.T


def _mean_distance(x: Tensor) -> Tensor:
    """Mean of the squared distance over the distinct pairs of all rows; 2 S where rows differ by rounding at most.

    S columns of variance 1 would have that mean.
    """
    n, columns = x.shape
    mean = 2 * (x - x.mean(dim=0)).square().sum() / max(n - 1, 1)
    rounding = (8 * torch.finfo(x.dtype).eps) ** 2 * x.detach().square().sum() / n
    return torch.where(mean > rounding, mean, 2 * columns)
