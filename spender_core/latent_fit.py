"""Latents that fit a spectrum best, and how sure they are: damped Gauss-Newton steps through decoder and transform."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from .autoencoder import fit_amplitude
from .model import SpectrumModel

STEPS = 4
"""Steps of the fit. Most spectra stay where they are after three; those that begin far away take six or more."""

BLOCK = {"cpu": 16, "cuda": 256}
"""Spectra that are fitted at once on a device: the derivatives of one take some 0.5 MB, and as much again while they
are made."""

_DIFFERENCE = 0.01  # of a latent, in units of its spread, that derivatives of the decoder are taken over
_HALF_BIN = 1.2e-4  # of 1 + z: between nodes of the restframe its slope is that of one interval, and jumps at each
_DAMPING = (1e-3, 0.1, 10.0)  # at first; factor after a step that lowers the objective, and after one that does not
_SHRINKAGE = 0.05  # of a sample's covariance towards its diagonal


@dataclass(frozen=True)
class Prior:
    """What latents are like before a spectrum is seen: normal, mean (S,) and covariance (S, S), float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> Self:
        """Take it from a sample, shape (M, S), M at least 2; the covariance is drawn a little to its diagonal."""
        sample = latents.double()
        covariance = torch.cov(sample.T).reshape(sample.shape[1], sample.shape[1])
        diagonal = torch.diag(covariance.diagonal().clamp(min=1e-6))
        return cls(sample.mean(dim=0), (1 - _SHRINKAGE) * covariance + _SHRINKAGE * diagonal)

    @property
    def precision(self) -> Tensor:
        """Inverse of the covariance, shape (S, S)."""
        inverse: Tensor = torch.linalg.inv(self.covariance)
        return inverse

    def to(self, device: torch.device) -> Self:
        """Move to a device."""
        return type(self)(self.mean.to(device), self.covariance.to(device))


@dataclass(frozen=True)
class LatentFit:
    """Best-fitting latents of N spectra.

    latents: shape (N, S), float32. covariance: shape (N, S, S), float64, of the latents alone, amplitude and, where it
    was fitted, redshift taken into account; the data count less by the reduced chi2 where that is above 1. amplitude:
    shape (N,), the factor on the decoded spectrum. z, z_error: shape (N,), float64; the error is 0 where z was given.
    chi2: shape (N,). Spectra without a pixel within the model keep their latents, the prior's covariance and a chi2 of
    NaN.
    """

    latents: Tensor
    covariance: Tensor
    amplitude: Tensor
    z: Tensor
    z_error: Tensor
    chi2: Tensor

    @property
    def packed(self) -> Tensor:
        """The covariance's lower triangle, row by row: shape (N, S (S + 1) / 2)."""
        n_latent = self.covariance.shape[1]
        row, column = torch.tril_indices(n_latent, n_latent, device=self.covariance.device)
        return self.covariance[:, row, column]


@dataclass(frozen=True)
class _State:
    """Where the fit stands: latents (N, S) and z (N,), float64, their model without amplitude (N, L) and its fit."""

    s: Tensor
    z: Tensor
    model: Tensor
    weight: Tensor
    amplitude: Tensor
    chi2: Tensor
    objective: Tensor


class _Problem:
    """Spectra, a model and a prior."""

    def __init__(self, model: SpectrumModel, flux: Tensor, ivar: Tensor, prior: Prior) -> None:
        self.model, self.flux, self.ivar, self.prior = model, flux, ivar, prior
        self.precision = prior.precision
        self.spread = prior.covariance.diagonal().sqrt()

    def at(self, s: Tensor, z: Tensor) -> _State:
        """Compare the model of latents with the data; the amplitude is the best one."""
        restframe = self.model.decode(s.float())
        observed, valid = self.model.decoder.observe(restframe, self.model.encoder.instrument, z.float())
        weight = self.ivar * valid
        amplitude = torch.nan_to_num(fit_amplitude(self.flux, weight, observed), posinf=0.0, neginf=0.0)
        chi2 = (weight * (self.flux - amplitude[:, None] * observed) ** 2).double().sum(dim=1)
        off = s - self.prior.mean
        objective = chi2 + torch.einsum("ni,ij,nj->n", off, self.precision, off)
        return _State(s, z, observed, weight, amplitude.double(), chi2, objective)

    def normal(self, state: _State, *, free_z: bool) -> tuple[Tensor, Tensor]:
        """Return normal matrix, (N, P, P), and vector, (N, P), float64; P: latents, amplitude and, if free, z."""
        n, n_latent = state.s.shape
        step = (_DIFFERENCE * self.spread).float()
        moved = state.s.float()[:, None] + torch.diag(step)
        restframes = self.model.decode(moved.flatten(0, 1))
        instrument, decoder = self.model.encoder.instrument, self.model.decoder
        z = state.z.float()
        observed = decoder.observe(restframes, instrument, z.repeat_interleave(n_latent))[0].view(n, n_latent, -1)
        amplitude = state.amplitude.float()[:, None]
        rows = [amplitude[:, None] * (observed - state.model[:, None]) / step[:, None], state.model[:, None]]
        if free_z:
            restframe = self.model.decode(state.s.float())
            before, after = z - _HALF_BIN * (1 + z), z + _HALF_BIN * (1 + z)
            ends = [decoder.observe(restframe, instrument, at)[0] for at in (before, after)]
            rows.append((amplitude * (ends[1] - ends[0]) / (after - before)[:, None])[:, None])
        jacobian = torch.cat(rows, dim=1)
        weighted = jacobian * state.weight[:, None]
        residual = self.flux - amplitude * state.model
        return torch.bmm(weighted, jacobian.transpose(1, 2)).double(), (weighted @ residual[:, :, None])[
            ..., 0
        ].double()


@torch.no_grad()
def fit_latents(
    model: SpectrumModel,
    flux: Tensor,
    ivar: Tensor,
    s: Tensor,
    z: Tensor,
    prior: Prior,
    *,
    free_z: bool = False,
    steps: int = STEPS,
) -> LatentFit:
    """Fit latents, amplitude and, if it is free, the redshift to spectra.

    flux, ivar: shape (N, L), on the grid of the model's instrument; ivar is 0 where masked. s: shape (N, S), latents to
    begin with. z: shape (N,). prior: of the latents. What is minimized is chi2 plus the prior's; the latents returned
    never have a higher chi2 than those given.
    """
    parts = []
    block = BLOCK[flux.device.type]
    for start in range(0, len(flux), block):
        rows = slice(start, start + block)
        parts.append(_fit(_Problem(model, flux[rows], ivar[rows], prior), s[rows], z[rows], free_z=free_z, steps=steps))
    return LatentFit(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(LatentFit)))


def _fit(problem: _Problem, s: Tensor, z: Tensor, *, free_z: bool, steps: int) -> LatentFit:
    """Fit a block of spectra."""
    prior = problem.prior
    start = problem.at(s.double(), z.double())
    state = start
    n_latent = s.shape[1]
    first, better, worse = _DAMPING
    damping = torch.full_like(state.chi2, first)
    is_seen = (start.weight > 0).any(dim=1)
    data, vector = problem.normal(state, free_z=free_z)
    for step in range(steps):
        if step:
            data, vector = problem.normal(state, free_z=free_z)
        matrix = data.clone()
        matrix[:, :n_latent, :n_latent] += problem.precision
        vector[:, :n_latent] -= (state.s - prior.mean) @ problem.precision
        change = _solved(matrix, vector, damping)
        tried = problem.at(state.s + change[:, :n_latent], state.z + (change[:, -1] if free_z else 0))
        is_lower = (tried.objective < state.objective) & torch.isfinite(tried.objective) & is_seen
        state = _chosen(is_lower, tried, state)
        damping = damping * torch.where(is_lower, better, worse)
    state = _chosen(state.chi2 <= start.chi2, state, start)
    return _result(problem, state, data, free_z=free_z)


def _solved(matrix: Tensor, vector: Tensor, damping: Tensor) -> Tensor:
    """Solve damped normal equations, scaled to a unit diagonal; shape (N, P)."""
    scale = matrix.diagonal(dim1=1, dim2=2).clamp(min=1e-30).sqrt()
    unit = matrix / (scale[:, :, None] * scale[:, None, :])
    unit = unit + torch.diag_embed((damping + 1e-9)[:, None].expand_as(scale))
    solution: Tensor = torch.linalg.solve_ex(unit, vector / scale)[0]
    return solution / scale


def _chosen(where: Tensor, one: _State, other: _State) -> _State:
    """Take spectra from one state where told, else from the other."""

    def pick(name: str) -> Tensor:
        a, b = getattr(one, name), getattr(other, name)
        return torch.where(where.view(-1, *[1] * (a.ndim - 1)), a, b)

    return _State(*(pick(field.name) for field in fields(_State)))


def _result(problem: _Problem, state: _State, matrix: Tensor, *, free_z: bool) -> LatentFit:
    """Finish: `matrix` is the normal matrix without the prior, where the last step began."""
    n_latent = state.s.shape[1]
    n_pixels = torch.count_nonzero(state.weight, dim=1)
    scatter = (state.chi2 / (n_pixels - matrix.shape[1]).clamp(min=1)).clamp(min=1)
    matrix = matrix / scatter[:, None, None]
    matrix[:, :n_latent, :n_latent] += problem.precision
    scale = matrix.diagonal(dim1=1, dim2=2).clamp(min=1e-30).sqrt()
    outer = scale[:, :, None] * scale[:, None, :]
    unit = matrix / outer + 1e-12 * torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    covariance = torch.linalg.inv_ex(unit)[0] / outer
    is_seen = n_pixels > 0
    alone = torch.where(is_seen[:, None, None], covariance[:, :n_latent, :n_latent], problem.prior.covariance)
    error = covariance[:, -1, -1].clamp(min=0).sqrt() if free_z else torch.zeros_like(state.z)
    return LatentFit(
        latents=state.s.float(),
        covariance=alone,
        amplitude=state.amplitude,
        z=state.z,
        z_error=torch.where(is_seen, error, torch.nan) if free_z else error,
        chi2=torch.where(is_seen, state.chi2, torch.nan),
    )
