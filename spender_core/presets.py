"""Training as the papers did it, by upstream's scripts; any part may be replaced."""

from __future__ import annotations

from typing import NamedTuple

from .augment import Augmentation
from .objective import Losses, Slope
from .settings import Settings


class Preset(NamedTuple):
    """Settings and losses of a published training."""

    settings: Settings
    losses: Losses


_PAPER1 = Settings(epochs=200, batch_size=1024, lr=1e-3, schedule="epoch", summed=True)
_PAPER2 = Settings(epochs=1000, batch_size=512, lr=1e-3, schedule="epoch", eps=1e-4, clip=1.0, lsf_lr=1e-4, summed=True)

PRESETS: dict[str, Preset] = {
    "paper1": Preset(_PAPER1, Losses()),
    "paper2": Preset(
        _PAPER2,
        Losses(
            similarity=1.0,
            consistency=1.0,
            form="paper2",
            amplitude=20.0,
            width=1000.0,
            slope=Slope("cycles", top=9.9, step=0.1, cycle=100, last=10),
            scale2=0.01,
            augmentation=Augmentation.SDSS,
        ),
    ),
}
"""By name: the autoencoder of arXiv:2211.07890 and the latent space of arXiv:2302.02496, both for SDSS.

Upstream's scripts trained in float16 mixed precision, which `Settings.bf16` comes closest to, and clipped the gradient
without that of the line spread function.
"""
