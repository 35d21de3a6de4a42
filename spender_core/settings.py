"""Settings of a training run, and what it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

History = dict[str, list[dict[str, float]]]
"""Losses by epoch, as `fit` returns them."""


@dataclass(frozen=True)
class Settings:
    """What a training run is made of; a checkpoint is resumed only under the same ones, but for epochs and patience.

    epochs: passes over the spectra. batch_size: spectra per step, over all processes. lr: peak learning rate of Adam.
    seed: of the order of batches, augmentation and torch. bf16: convolutions and matrix products in bfloat16.
    schedule: one cycle that moves on with every step or every epoch, or a constant rate. eps: Adam's.
    clip: largest norm of the gradient, None for any. average: decay of a running mean of the weights, which is what is
    validated and kept; None for the weights themselves. patience: end after so many epochs without a lower fidelity
    (or loss, without such a term) in validation, and keep the best epoch's weights; None to go on.
    freeze: the part that stays as it is. lsf_lr: peak learning rate of line spread functions, None for lr.
    summed: follow the gradient of the sum over a batch, as upstream does, instead of its mean; by Adam's and clip's
    scales only. ValueError for values out of range.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    bf16: bool = False
    schedule: Literal["step", "epoch", "constant"] = "step"
    eps: float = 1e-8
    clip: float | None = None
    average: float | None = None
    patience: int | None = None
    freeze: Literal["encoder", "decoder"] | None = None
    lsf_lr: float | None = None
    summed: bool = False

    def __post_init__(self) -> None:
        expected = {
            "epochs": (self.epochs >= 0, "0 or more"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "seed": (0 <= self.seed < 2**63, "0 or more, below 2**63"),
            "lr": (0 < self.lr < math.inf, "a positive number"),
            "schedule": (self.schedule in ("step", "epoch", "constant"), "step, epoch or constant"),
            "eps": (0 < self.eps < math.inf, "a positive number"),
            "clip": (self.clip is None or self.clip > 0, "a positive number, or None"),
            "average": (self.average is None or 0 < self.average < 1, "between 0 and 1, or None"),
            "patience": (self.patience is None or self.patience >= 1, "at least 1, or None"),
            "freeze": (self.freeze in (None, "encoder", "decoder"), "encoder, decoder or None"),
            "lsf_lr": (self.lsf_lr is None or self.lsf_lr >= 0, "0 or more, or None"),
        }
        for key, (is_right, words) in expected.items():
            if not is_right:
                raise ValueError(f"{key} is {getattr(self, key)!r}, expected {words}")


class Stopped(Exception):  # noqa: N818 - no error
    """Training was asked to stop. epoch: the one under way, from 0; step: steps of it that are done and saved."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"stopped in epoch {epoch} after {step} steps")
        self.epoch = epoch
        self.step = step


@dataclass(frozen=True)
class EpochReport:
    """An epoch that is over: its number, from 0, of `epochs`; mean losses per instrument and terms as in `History`.

    lr: learning rate of the last step. seconds: that it took, validation included, since it began or was resumed.
    """

    epoch: int
    epochs: int
    train: dict[str, float]
    valid: dict[str, float]
    train_terms: dict[str, float]
    valid_terms: dict[str, float]
    lr: float
    seconds: float
