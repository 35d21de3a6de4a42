"""Fit real galaxies with the templates and lines that mocks are made of, by non-negative least squares."""

from __future__ import annotations

import emission
import numpy as np
import torch
from galaxies import Array, Galaxies, rest_grid
from mocks import Fits, Mocks
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from spender_core.instrument import SDSS
from spender_core.resample import resample, spacing, within

DISPERSIONS = (60.0, 200.0)  # km/s
COVERED = 0.3  # share of a column, squared, that must be there for it to be fitted
DETECTED = 3.0  # standard deviations from which a line's flux is taken as it is
WIDTHS = (80.0, 140.0, 280.0)  # km/s, as observed
BROAD_WIDTHS = (900.0, 2200.0)


def fit_galaxies(galaxies: Galaxies, rows: NDArray[np.intp], mocks: Mocks) -> tuple[Fits, Array]:
    """Fit these rows of the catalog in the observed frame, at their redshifts.

    mocks: any that hold the templates. Returns the fits and each one's reduced chi2 over the bins with weight.
    """
    rest, obs = torch.from_numpy(rest_grid()), SDSS().wave_obs
    columns, n_star = _columns(mocks)
    grid = spacing(rest)
    found, chi2, errors = [], [], []
    for i in rows:
        z = torch.full((len(columns),), float(galaxies.z[i]))
        design = resample(columns, rest, obs, z, grid)
        valid = within(rest, obs, z[:1])[0].numpy()
        weight = np.sqrt(galaxies.ivar[i] * valid)
        use = weight > 0
        a = (design.numpy()[:, use] * weight[use]).T.astype(np.float64)
        b = (galaxies.flux[i][use] * weight[use]).astype(np.float64)
        information = (a * a).sum(0)
        # a line that a mask or an end hides would take any flux
        seen = design[:, torch.from_numpy(use)].square().sum(1).numpy() > COVERED * columns.square().sum(1).numpy()
        solution = np.zeros(a.shape[1])
        solution[seen], norm = nnls(a[:, seen], b, maxiter=20 * a.shape[1])
        found.append(solution)
        errors.append(np.where(seen, 1 / np.sqrt(np.maximum(information, 1e-12)), np.inf))
        chi2.append(norm**2 / use.sum())
    solutions, sigmas = torch.from_numpy(np.array(found)), torch.from_numpy(np.array(errors))
    return _parts(solutions, sigmas, n_star), np.array(chi2, np.float32)


def _columns(mocks: Mocks) -> tuple[Tensor, int]:
    """Templates at each dispersion, lines at each width, broad lines at each: shape (columns, R)."""
    templates = mocks._templates
    n = len(templates)
    still = torch.Generator(mocks.device).manual_seed(0)
    parts = []
    for dispersion in DISPERSIONS:
        stars = mocks.starlight(templates, torch.full((n,), dispersion), still)
        parts.append(stars)
    one = torch.eye(len(emission.NAMES))
    parts += [emission.render(one, torch.full((len(one),), s), mocks._log_rest, emission.WAVES) for s in WIDTHS]
    waves = torch.tensor([emission.LINES[k] for k in emission.BROAD], dtype=torch.float64)
    one = torch.eye(len(waves))
    parts += [emission.render(one, torch.full((len(one),), s), mocks._log_rest, waves) for s in BROAD_WIDTHS]
    return torch.cat(parts), n


def _parts(solution: Tensor, sigma: Tensor, n: int) -> Fits:
    """Sum what a fit gave over the dispersions and widths, and average these."""
    n_line, n_broad = len(emission.NAMES), len(emission.BROAD)
    edges = np.cumsum([n * len(DISPERSIONS), n_line * len(WIDTHS), n_broad * len(BROAD_WIDTHS)])
    stars = solution[:, : edges[0]].reshape(len(solution), len(DISPERSIONS), n)
    lines = solution[:, edges[0] : edges[1]].reshape(len(solution), len(WIDTHS), n_line)
    broad = solution[:, edges[1] : edges[2]].reshape(len(solution), len(BROAD_WIDTHS), n_broad)
    error = sigma[:, edges[0] : edges[1]].reshape(lines.shape)[:, 1]
    error_broad = sigma[:, edges[1] : edges[2]].reshape(broad.shape)[:, 0]
    flux, total = lines.sum(1), broad.sum(1)
    total = torch.where(total > 2 * DETECTED * error_broad, total, 0.0)
    flux = torch.where(flux > DETECTED * error, flux, 0.0)
    return Fits(
        stars.sum(1),
        _mean(stars, DISPERSIONS),
        flux,
        DETECTED * error,
        _mean(lines * (flux > 0)[:, None], WIDTHS),
        total,
        _mean(broad, BROAD_WIDTHS),
    )


def _mean(parts: Tensor, values: tuple[float, ...]) -> Tensor:
    total = parts.sum(2)
    weights = total + 1e-6 * (total.sum(1, keepdim=True) + 1e-3)
    return (weights @ torch.tensor(values, dtype=parts.dtype)) / weights.sum(1)
