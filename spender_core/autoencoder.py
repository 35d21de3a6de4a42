"""SpectrumAutoencoder: the default architecture, encoder and decoder of the spender papers together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import decoder, encoder
from .decoder import SpectrumDecoder
from .encoder import SpectrumEncoder
from .instrument import Instrument
from .model import Memory, SpectrumModel

FLOAT32 = 4  # bytes
# Measured, bytes: the encoder's weights as `convolution` keeps them, transformed.
TRANSFORMED = 82 * 2**20
# Measured: how many copies a forward pass holds of the encoder's first layer, per spectrum in it, and of each
# spectrum's pixels and restframe bins. In bfloat16 the plain layers hold all spectra of a batch at once.
ACTIVATION_COPIES = 2
OUTPUT_COPIES = 10


def fit_amplitude(spec: Tensor, w: Tensor, reconstruction: Tensor) -> Tensor:
    """Weighted least-squares factor that scales reconstructions to spectra.

    All shape (N, L); w is the inverse variance, 0 outside of the model. Returns shape (N,), NaN without weight.
    """
    weighted = w * reconstruction
    return torch.sum(weighted * spec, dim=1) / torch.sum(weighted * reconstruction, dim=1)


class SpectrumAutoencoder(SpectrumModel):
    """Model with a convolutional encoder and a perceptron as decoder; its methods are those of `SpectrumModel`.

    instrument: whose grid the encoder reads; also the default of the reconstruction. wave_rest: shape (R,), Angstrom.
    n_latent: number of latents S. n_aux: 1 if the encoder takes the redshift. speculator: activations of the decoder.
    ValueError for an n_aux other than 0 or 1.
    """

    architecture = "spender"
    encoder: SpectrumEncoder
    decoder: SpectrumDecoder

    def __init__(
        self, instrument: Instrument, wave_rest: Tensor, n_latent: int = 10, n_aux: int = 0, speculator: bool = True
    ) -> None:
        if n_aux not in (0, 1):
            raise ValueError(f"n_aux is {n_aux!r}, expected 0, or 1 for the redshift")
        super().__init__(SpectrumEncoder(instrument, n_latent, n_aux), SpectrumDecoder(wave_rest, n_latent, speculator))

    @property
    def arguments(self) -> dict[str, Any]:
        """n_latent, n_aux and speculator, see `SpectrumModel.arguments`."""
        return {
            "n_latent": self.encoder.n_latent,
            "n_aux": self.encoder.n_aux,
            "speculator": self.decoder.speculator,
        }

    @staticmethod
    def projected_memory(*, n_pixels: int, n_latent: int, n_rest: int, batch: int, precision: str) -> Memory:
        """Memory that encoding needs, in bytes, see `SpectrumModel.projected_memory`.

        kept: the encoder's weights, transformed, and the decoder's last layer, packed.
        """
        layer = encoder.CHANNELS[0] * n_pixels * FLOAT32
        spectra = batch if precision == "bf16" else min(batch, encoder.BLOCK)
        activations = ACTIVATION_COPIES * spectra * layer
        outputs = OUTPUT_COPIES * batch * (n_pixels + n_rest) * FLOAT32
        return Memory(kept=TRANSFORMED + decoder.HIDDEN[-1] * n_rest * FLOAT32, at_once=activations + outputs)
