"""Redshift and resample restframe spectra onto an observed wavelength grid, differentiably."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchinterp1d import Interp1d

# a grid counts as uniform if no bin lies further than this from its ideal place, in bins: float32 wavelengths do
# (1e-3), and the index found from the spacing is then at most one off, which `_nodes` corrects
UNIFORM_TOLERANCE = 0.1


@dataclass(frozen=True)
class Spacing:
    """A uniform grid: bin i lies at origin + i * step, in wavelength or its natural logarithm.

    slack: how far, in bins, a bin or a wavelength compared with it may be from there, by rounding.
    """

    origin: float
    step: float
    logarithmic: bool
    slack: float


def spacing(wave: Tensor) -> Spacing | None:
    """Find the spacing of a grid, shape (R,), uniform in wavelength or in its logarithm; None for any other."""
    if len(wave) < 2 or not bool((wave.diff() > 0).all()):
        raise ValueError("wavelengths are not increasing, expected at least two in increasing order")
    rounding = 8 * torch.finfo(wave.dtype).eps * (wave[-1] / wave.diff().min()).item()
    wave = wave.double()
    for logarithmic in (False, True):
        x = wave.log() if logarithmic else wave
        origin, step = x[0].item(), ((x[-1] - x[0]) / (len(x) - 1)).item()
        ideal = origin + step * torch.arange(len(x), device=x.device)
        deviation = ((x - ideal).abs().max() / step).item()
        if deviation < UNIFORM_TOLERANCE:
            return Spacing(origin, step, logarithmic, deviation + rounding)
    return None


def within(wave_rest: Tensor, wave_obs: Tensor, z: Tensor) -> Tensor:
    """Observed bins strictly inside of the redshifted restframe grid: bool, shape (N, L) for z of shape (N,)."""
    stretch = 1 + z[:, None]
    return (wave_obs > wave_rest[0] * stretch) & (wave_obs < wave_rest[-1] * stretch)


def resample(restframe: Tensor, wave_rest: Tensor, wave_obs: Tensor, z: Tensor, grid: Spacing | None) -> Tensor:
    """Interpolate redshifted restframe spectra linearly at observed wavelengths.

    restframe: shape (N, R) on wave_rest, shape (R,). wave_obs: shape (L,). z: shape (N,), dimensionless.
    grid: the spacing of wave_rest; None takes the general, slower interpolation. Returns shape (N, L), dtype of
    restframe; beyond the restframe the outermost interval is extrapolated, see `within`. Differentiable with respect to
    restframe and z.
    """
    if grid is None:
        return _irregular(restframe, wave_rest, wave_obs, z)
    return _uniform(restframe, wave_rest, wave_obs, z, grid)


def _uniform(restframe: Tensor, wave_rest: Tensor, wave_obs: Tensor, z: Tensor, grid: Spacing) -> Tensor:
    stretch = 1 + z[:, None]
    with torch.no_grad():
        left = _nodes(wave_rest, wave_obs, stretch, grid)
    nodes = wave_rest.expand(len(left), -1)
    lower, upper = nodes.gather(1, left) * stretch, nodes[:, 1:].gather(1, left) * stretch
    y_lower, y_upper = restframe.gather(1, left), restframe[:, 1:].gather(1, left)
    return (y_lower + (y_upper - y_lower) / (upper - lower) * (wave_obs - lower)).to(restframe.dtype)


def _nodes(wave_rest: Tensor, wave_obs: Tensor, stretch: Tensor, grid: Spacing) -> Tensor:
    """Index of the last redshifted restframe bin below each observed one, int64, shape (N, L)."""
    last = len(wave_rest) - 2
    dtype = torch.promote_types(wave_rest.dtype, wave_obs.dtype)
    if grid.logarithmic:
        own, shift = (wave_obs.double().log() - grid.origin) / grid.step, stretch.double().log() / grid.step
        place = own.to(dtype) - shift.to(dtype)
    else:
        place = wave_obs * (1 / (stretch.double() * grid.step)).to(dtype)
        place.sub_(grid.origin / grid.step)
    place.clamp_(0, last)
    left = place.long()
    # So close to a node, rounding can have put the bin on its other side: these few are compared with the node itself.
    is_close = place.frac_().sub_(0.5).abs_() > 0.5 - grid.slack
    row, column = is_close.nonzero(as_tuple=True)
    near, own, observed = left[row, column], stretch[row, 0], wave_obs[column]
    near += (wave_rest[near + 1] * own < observed).long()
    near.clamp_(0, last)
    near -= (wave_rest[near] * own >= observed).long()
    left[row, column] = near.clamp_(0, last)
    return left


class _Context:
    """Stands in for autograd's context: torchinterp1d's own backward recurses without end under torch 2."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        pass


def _irregular(restframe: Tensor, wave_rest: Tensor, wave_obs: Tensor, z: Tensor) -> Tensor:
    wave = wave_rest * (1 + z[:, None])
    common = torch.promote_types(wave.dtype, wave_obs.dtype)
    # the forward pass is plain differentiable torch, called as such
    observed: Tensor = Interp1d.forward(_Context(), wave.to(common), restframe, wave_obs.to(common)[None])
    return observed.to(restframe.dtype)
