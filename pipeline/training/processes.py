"""Processes that torchrun started to train together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from pipeline.compute.stages.process import device
from spender_core.parallel import World

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def own_device() -> torch.device:
    """Return where this process computes: the CPU, or the GPU of its number among this machine's processes."""
    where = device()
    return where if where.type == "cpu" else torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun started, if it did, for as long as the context lasts; give who they are.

    gloo connects CPUs, nccl GPUs. Processes that a caller has connected already stay so.
    """
    started = all(name in os.environ for name in _VARIABLES)
    if not started or not distributed.is_available() or distributed.is_initialized():
        yield World.current()
        return
    where = own_device()
    if where.type == "cuda":
        torch.cuda.set_device(where)
    distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield World.current()
    finally:
        distributed.destroy_process_group()
