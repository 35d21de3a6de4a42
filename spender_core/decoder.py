"""SpectrumDecoder: latents -> restframe spectrum, by a perceptron (paper I, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .encoder import perceptron
from .model import Decoder

HIDDEN = (64, 256, 1024)


class SpeculatorActivation(nn.Module):
    """Activation with a learned transition between linear and gated (Alsing+2020, arXiv:1911.11778, eq. 8).

    n: number of units. plus_one: add one, so that a normalized spectrum starts from its mean level.
    """

    def __init__(self, n: int, plus_one: bool = False) -> None:
        super().__init__()
        self.plus_one = plus_one
        self.beta = nn.Parameter(torch.randn(n))
        self.gamma = nn.Parameter(torch.randn(n))

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise, shape (*, n) -> (*, n)."""
        x = (self.gamma + (1 - self.gamma) * torch.sigmoid(self.beta * x)) * x
        return x + 1 if self.plus_one else x


class SpectrumDecoder(Decoder):
    """Decoder that is a perceptron.

    wave_rest: shape (R,), restframe wavelengths in Angstrom, increasing. n_latent: number of latents S.
    speculator: Speculator activations; False for the leaky ReLU of the oldest models.
    """

    def __init__(self, wave_rest: Tensor, n_latent: int, speculator: bool = True) -> None:
        super().__init__(wave_rest, n_latent)
        self.speculator = speculator
        n_rest = len(wave_rest)
        if speculator:
            activations: list[nn.Module] = [*(SpeculatorActivation(n) for n in HIDDEN)]
            activations.append(SpeculatorActivation(n_rest, plus_one=True))
        else:
            activations = [nn.LeakyReLU() for _ in range(len(HIDDEN) + 1)]
        self.mlp = perceptron((n_latent, *HIDDEN, n_rest), activations)

    def decode(self, s: Tensor) -> Tensor:
        """Restframe spectra of latents, shape (N, S) -> (N, R)."""
        restframe: Tensor = self.mlp(s)
        return restframe
