"""The running mean of a model's weights, which often fits better than the last ones (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningMean:
    """Exponential moving mean of parameters.

    decay: weight of the mean so far at each step, 0 to 1; at step n (from 0) at most (1 + n) / (10 + n), so that the
    first weights are forgotten. values: the mean of each parameter; until the first update, the parameters themselves.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._decay = decay
        self.updates = 0
        self.values = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, self._parameters, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the parameters their means for as long as the context lasts."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        self.copy_to_parameters()
        try:
            yield
        finally:
            _copy(own, self._parameters)

    def copy_to_parameters(self) -> None:
        """Give the parameters their means for good."""
        _copy(self.values, self._parameters)

    def state(self) -> dict[str, object]:
        """Return what `restore` takes."""
        return {"updates": self.updates, "values": self.values}

    def restore(self, updates: int, values: Sequence[Tensor]) -> None:
        """Go on from a `state`."""
        self.updates = updates
        _copy(values, self.values)


@torch.no_grad()
def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    # in place, and not through .data: who keeps weights in another layout must see the change
    for value, place in zip(source, target, strict=True):
        place.copy_(value)
