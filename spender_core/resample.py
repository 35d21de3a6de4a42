"""Redshift and resample restframe spectra onto an observed wavelength grid, differentiably."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchinterp1d import Interp1d

# a grid counts as uniform if no bin lies further than this from its ideal place, in bins: float32 wavelengths do
# (1e-3), and the index found from the spacing is then at most one off, which `_uniform` corrects
UNIFORM_TOLERANCE = 0.1


@dataclass(frozen=True)
class Spacing:
    """A uniform grid: bin i lies at origin + i * step, in wavelength or its natural logarithm."""

    origin: float
    step: float
    logarithmic: bool


def spacing(wave: Tensor) -> Spacing | None:
    """Find the spacing of a grid, shape (R,), uniform in wavelength or in its logarithm; None for any other."""
    if len(wave) < 2 or not bool((wave.diff() > 0).all()):
        raise ValueError("wavelengths are not increasing, expected at least two in increasing order")
    wave = wave.double()
    for logarithmic in (False, True):
        x = wave.log() if logarithmic else wave
        origin, step = x[0].item(), ((x[-1] - x[0]) / (len(x) - 1)).item()
        ideal = origin + step * torch.arange(len(x), device=x.device)
        if ((x - ideal).abs() < UNIFORM_TOLERANCE * step).all():
            return Spacing(origin, step, logarithmic)
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
        x = wave_obs.double() / stretch.double()
        place = ((x.log() if grid.logarithmic else x) - grid.origin) / grid.step
        last = len(wave_rest) - 2
        left = place.long().clamp(0, last)
        # rounding of the float32 wavelengths can put a bin on the other side of the node
        left += (wave_rest[left + 1] * stretch < wave_obs).long()
        left.clamp_(0, last)
        left -= (wave_rest[left] * stretch >= wave_obs).long()
        left.clamp_(0, last)
    lower, upper = wave_rest[left] * stretch, wave_rest[left + 1] * stretch
    y_lower, y_upper = restframe.gather(1, left), restframe.gather(1, left + 1)
    return (y_lower + (y_upper - y_lower) / (upper - lower) * (wave_obs - lower)).to(restframe.dtype)


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
