"""The one-cycle schedule of learning rate and momentum (Smith 2018, arXiv:1803.09820), as a function of the step."""

from __future__ import annotations

import math

# torch.optim.lr_scheduler.OneCycleLR's
RISING = 0.3
START = 1 / 25
END = START / 1e4
MOMENTA = (0.95, 0.85)


def one_cycle(step: int, steps: int) -> tuple[float, float]:
    """Learning rate, in units of its peak, and Adam's first beta at a step, from 0, of so many.

    The values of torch's OneCycleLR, which keeps them as a state: a function of the step can be asked again after the
    number of steps was raised.
    """
    top = RISING * steps - 1
    low, high = MOMENTA
    if step <= top:
        return _cosine(START, 1.0, step / top), _cosine(low, high, step / top)
    part = (step - top) / (steps - 1 - top)
    return _cosine(1.0, END, part), _cosine(high, low, part)


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))
