"""Blocks of spectra shared among threads: each block is computed by one thread, whatever their number.

Threads that work together on one small operation wait for the slowest of them, which on a busy machine is thousands of
times a batch. Those that have a block each wait once, and what they compute does not depend on how many there are.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

B = TypeVar("B")
R = TypeVar("R")


class _Context(Protocol):
    """What autograd keeps between a function's two directions."""

    leaves: list[Tensor]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors until the caller's graph is let go."""


_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def share(work: Callable[[B], R], blocks: Iterable[B]) -> Iterator[R]:
    """Do the work of each block in one thread, as many at once as `torch.get_num_threads()`.

    Each thread computes alone, in the caller's inference and gradient modes; other modes of torch do not reach it.
    Yields the results in the order of the blocks; few more than the threads wait to be taken. An error is raised at its
    block's turn, when no other block is under way. With one thread, and so within a block, nothing is shared, with the
    same results. Gradients: one block may have them; the order of those of several would be by chance, so use
    `shared_function`.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(work, blocks)
        return
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def alone(block: B) -> R:
        with torch.inference_mode(modes[0]), torch.set_grad_enabled(modes[1]):
            return work(block)

    pool, remaining = _pool(threads), iter(blocks)
    waiting = deque(pool.submit(alone, block) for block in islice(remaining, threads + 1))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(alone, block) for block in islice(remaining, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


class _Shared(torch.autograd.Function):
    """A function of blocks and parameters, shared among threads in both directions."""

    @staticmethod
    def forward(ctx: _Context, work: Callable[..., Tensor], blocks: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        """Return the results of all blocks, joined."""
        # each block's graph ends at these, and none of them at the caller's
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]

        def alone(block: Tensor) -> Tensor:
            with torch.enable_grad():
                return work(block, *leaves)

        results = list(share(alone, blocks))
        ctx.leaves = leaves
        ctx.save_for_backward(*results)  # let go with the caller's graph, and the blocks' graphs with them
        return torch.cat([result.detach() for result in results])

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        results = ctx.saved_tensors
        parts = torch.split(grad, [len(result) for result in results])

        def alone(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
            # kept, as long as the caller keeps its own: that may come here again
            return torch.autograd.grad(pair[0], ctx.leaves, pair[1], retain_graph=True)

        found = share(alone, zip(results, parts, strict=True))
        total = next(found)
        for gradients in found:
            for whole, part in zip(total, gradients, strict=True):
                whole.add_(part)
        return None, None, *total


def shared_function(work: Callable[..., Tensor], blocks: Sequence[Tensor], *parameters: Tensor) -> Tensor:
    """Join what work(block, *parameters) gives for every block, shared among threads.

    Gradients flow to the parameters, not to the blocks, in one order whatever the threads; all parameters need one if
    any does, and work uses all. Each block under way holds gradients of all parameters.
    """
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
        joined: Tensor = _Shared.apply(work, blocks, *parameters)  # type: ignore[no-untyped-call]
        return joined
    return torch.cat(list(share(lambda block: work(block, *parameters), blocks)))


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return the pool of so many threads, each of which has one of torch's."""
    with _lock:
        if threads not in _pools:
            started = threading.Barrier(threads + 1)
            pool = ThreadPoolExecutor(threads, "spender-block", _begin, (started,))
            try:
                for _ in range(threads):
                    pool.submit(int)
                started.wait()
            except BaseException:  # Ctrl-C, or no more threads: those that wait would keep the process from ending
                started.abort()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            # torch takes the last number that any thread has asked for as that of threads to come
            torch.set_num_threads(threads)
            _pools[threads] = pool
        return _pools[threads]


def _begin(started: threading.Barrier) -> None:
    torch.get_num_threads()  # a thread's first operation would set its number again, to that of all; this is it
    torch.set_num_threads(1)
    started.wait()


def _forget() -> None:
    """Leave a parent's pools behind: a forked process has none of its threads."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget)
