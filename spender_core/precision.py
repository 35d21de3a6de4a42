"""What float32 means on a device: all of it, unless less is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("float32", "tf32", "bf16")


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision for as long as the context lasts, and restore what was set before.

    "float32": in full; torch's own default lets CUDA's convolutions round their inputs to TF32 without a word.
    "tf32": products on CUDA's tensor cores with inputs rounded to 10 bits. "bf16": products in bfloat16 on any device.
    ValueError for any other.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected {', '.join(PRECISIONS)}")
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        # torch keeps weights in bfloat16 until the outermost context ends, here perhaps after many steps of training
        torch.clear_autocast_cache()
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
