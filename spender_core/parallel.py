"""Several processes that train one model: their ranks, what they exchange, and sums whose gradients are exact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class World:
    """The processes that train together; by default this one alone.

    rank: number of this process, from 0. size: how many there are. Every process must make the same calls in the same
    order, as torch.distributed asks. All processes see the same batches, and each works on its share of every batch.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> World:
        """Return those of torch.distributed if it is initialized (gloo on CPUs, nccl on GPUs), else this one alone."""
        if distributed.is_available() and distributed.is_initialized():
            return World(distributed.get_rank(), distributed.get_world_size())
        return World()

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Rows of a batch of `count` that this process works on; the first processes take one more where it is uneven.

        ValueError for fewer rows than processes.
        """
        if count < self.size:
            raise ValueError(f"count is {count}, expected at least one row for each of {self.size} processes")
        least, more = divmod(count, self.size)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def gather(self, *tensors: Tensor) -> list[Tensor]:
        """Rows of all processes, in the order of `share`: each (n, K) -> (N, K), differentiable.

        The number of rows n may differ between processes, and is the same for all tensors of a call, which must have
        one dtype and device. The gradient of a row is the sum of what all processes' losses ask of it, so that
        gradients of the processes' losses, summed over processes, are those of the sum of the losses.
        """
        if self.size == 1:
            return list(tensors)
        widths = [tensor.shape[1] for tensor in tensors]
        joined: Tensor = _Gather.apply(torch.cat(tensors, dim=1), self)  # type: ignore[no-untyped-call]
        return list(torch.split(joined, widths, dim=1))

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of parameters over processes; those without one stay without."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            # one message, not one for each of a hundred layers
            flat = self.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def from_first(self, value: Any) -> Any:  # noqa: ANN401 - whatever pickle can hold
        """Return what the first process gives, on all of them."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Make tensors those of the first process, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), 0)


class _Gather(torch.autograd.Function):
    """Rows of all processes; going back, the sum of all processes' gradients of the own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:  # noqa: ANN401
        mine = torch.tensor([len(rows)], device=rows.device)
        found = [torch.empty_like(mine) for _ in range(world.size)]
        distributed.all_gather(found, mine)
        counts = [int(count) for count in found]
        # messages of equal length are asked for: padded to the longest share
        padded = rows.new_zeros(max(counts), rows.shape[1])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(world.size)]
        distributed.all_gather(parts, padded)
        ctx.own = slice(sum(counts[: world.rank]), sum(counts[: world.rank + 1]))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        total = grad.contiguous().clone()
        distributed.all_reduce(total)
        return total[ctx.own], None
