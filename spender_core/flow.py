"""Normalizing flows of latents: zuko's neural spline flow, which this package trains, and upstream's, which is read.

Both say log p of latents in the latents' own units. Durkan et al. 2019, arXiv:1906.04032; Papamakarios et al. 2017,
arXiv:1705.07057; upstream's: Liang et al. 2023, doi:10.3847/1538-3881/ace100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
import zuko
from torch import Tensor, nn
from torch.nn import functional

_SLOPE = 1e-3  # least slope of a spline: zuko's own default has changed
_LOG_2PI = math.log(2 * math.pi)


class Flow(nn.Module):
    """A density of latents."""

    n_latent: int

    def log_prob(self, latents: Tensor) -> Tensor:
        """Return the natural log of the density, shape (N, S) -> (N,), per unit of the latents' volume."""
        raise NotImplementedError


class SplineFlow(Flow):
    """Masked autoregressive rational-quadratic splines on whitened latents; the mean density of several members.

    mean, whitening: shapes (S,) and (S, S), float64: y = whitening (s - mean) has no mean and unit covariance. bins:
    of each spline, over five standard deviations to both sides; beyond, a spline is the identity. transforms, hidden:
    splines in a row, and the widths of the network that makes each. A new member is the Gaussian of the sample, so that
    training can only add to it.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(
        self, mean: Tensor, whitening: Tensor, *, members: int, bins: int, transforms: int, hidden: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.n_latent = len(mean)
        self.register_buffer("mean", mean.double())
        self.register_buffer("whitening", whitening.double())
        made = [_member(self.n_latent, bins, transforms, hidden) for _ in range(members)]
        self.members = nn.ModuleList(made)

    def whitened(self, latents: Tensor) -> Tensor:
        """Return latents in units of the sample's scatter, shape (N, S), float32."""
        return ((latents.double() - self.mean) @ self.whitening.T).float()

    def log_prob(self, latents: Tensor) -> Tensor:
        """Return the natural log of the density, shape (N, S) -> (N,), float32."""
        y = self.whitened(latents)
        each = torch.stack([member().log_prob(y) for member in self.members])
        volume = torch.linalg.slogdet(self.whitening).logabsdet
        found: Tensor = torch.logsumexp(each, dim=0) - math.log(len(each)) + volume.float()
        return found


def whitening_of(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of latents, shape (N, S), and what whitens them, shapes (S,) and (S, S), float64.

    ValueError for fewer than two latents per dimension, and for those that do not scatter.
    """
    n, s = latents.shape
    if n < 2 * s:
        raise ValueError(f"{n} spectra are too few for {s} latents, expected at least {2 * s}")
    mean = latents.double().mean(dim=0)
    covariance = torch.cov(latents.double().T).reshape(s, s)
    least = 1e-9 * float(covariance.diagonal().mean())
    if not least > 0:
        raise ValueError("the latents of all spectra are the same")
    lower = torch.linalg.cholesky(covariance + least * torch.eye(s, dtype=torch.float64))
    return mean, torch.linalg.inv(lower)


def _member(n_latent: int, bins: int, transforms: int, hidden: tuple[int, ...]) -> nn.Module:
    flow: nn.Module = zuko.flows.NSF(n_latent, bins=bins, slope=_SLOPE, transforms=transforms, hidden_features=hidden)
    make_gaussian(flow)
    return flow


@torch.no_grad()
def make_gaussian(member: nn.Module) -> None:
    """Make a member the identity: the last layers of its networks are zero, and so its splines are straight."""
    transforms: Any = member.get_submodule("transform.transforms")
    for transform in transforms:
        last = transform.hyper[-1] if hasattr(transform, "hyper") else transform  # one latent needs no network
        for parameter in last.parameters():
            parameter.zero_()


class AffineFlow(Flow):
    """The flow that upstream publishes: an affine step, then masked affine steps, each followed by a permutation.

    A masked affine step has a network S -> H -> H -> H -> 2 S with tanh after all layers but the last; its scale is
    softplus(u) + 0.001.
    """

    _ROOT = "_transform._transforms"

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.n_latent = len(state[f"{self._ROOT}.0._shift"])
        self.steps = len([key for key in state if key.endswith("._permutation")])
        for name, value in self._kept(state).items():
            self.register_buffer(name, value)

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Make it of upstream's state dict. ValueError for anything else."""
        try:
            return cls(state)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a flow of upstream's form, it lacks {error}") from error

    def log_prob(self, latents: Tensor) -> Tensor:
        """Return the natural log of the density, shape (N, S) -> (N,), float32."""
        y = latents.float() * self._buffer("scale") + self._buffer("shift")
        total = self._buffer("scale").log().sum().expand(len(y))
        for i in range(self.steps):
            hidden = y
            for j in range(3):
                hidden = torch.tanh(self._linear(f"{i}_{j}", hidden))
            unscaled, shift = self._linear(f"{i}_3", hidden).reshape(len(y), self.n_latent, 2).unbind(dim=2)
            scale = functional.softplus(unscaled) + 1e-3
            y = (scale * y + shift)[:, self._buffer(f"order_{i}")]
            total = total + scale.log().sum(dim=1)
        return total - 0.5 * (y**2).sum(dim=1) - 0.5 * self.n_latent * _LOG_2PI

    def _kept(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is computed with: masked weights and biases of each layer, permutations, the first step."""
        kept = {name: state[f"{self._ROOT}.0._{name}"].float() for name in ("scale", "shift")}
        for i in range(self.steps):
            step = f"{self._ROOT}.1._transforms.{i}._transforms"
            layers = ("initial_layer", "blocks.0.linear", "blocks.1.linear", "final_layer")
            for j, layer in enumerate(layers):
                place = f"{step}.0.autoregressive_net.{layer}"
                kept[f"weight_{i}_{j}"] = (state[f"{place}.weight"] * state[f"{place}.mask"]).float()
                kept[f"bias_{i}_{j}"] = state[f"{place}.bias"].float()
            kept[f"order_{i}"] = state[f"{step}.1._permutation"]
        return kept

    def _linear(self, place: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._buffer(f"weight_{place}"), self._buffer(f"bias_{place}"))

    def _buffer(self, name: str) -> Tensor:
        return self.get_buffer(name)
