"""SpectrumEncoder: observed spectrum -> latents, by convolution and attention (paper I, section 3.1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .instrument import Instrument

CHANNELS = (128, 256, 512)
KERNELS = (5, 11, 21)
N_FEATURE = CHANNELS[-1] // 2  # half of the last channels are values, half are keys of the attention
HIDDEN = (128, 64, 32)


def perceptron(sizes: Sequence[int], activations: Sequence[nn.Module]) -> nn.Sequential:
    """Fully connected layers, each followed by its activation.

    sizes: input, hidden and output lengths. The layers are named 0, 1, 3, 4, 6, ...: published checkpoints had a
    dropout at every third place.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers[str(3 * i)] = nn.Linear(n_in, n_out)
        layers[str(3 * i + 1)] = activations[i]
    return nn.Sequential(layers)


def _convolution(n_in: int, n_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(n_in, n_out, kernel, padding=kernel // 2), nn.InstanceNorm1d(n_out), nn.PReLU(n_out))


class SpectrumEncoder(nn.Module):
    """Convolutional encoder with attention over wavelength (after Serra+2018, arXiv:1805.03908).

    instrument: whose wavelength grid the spectra are on. n_latent: number of latents S.
    n_aux: auxiliary numbers appended to the features; 1 for the first-paper models, which take the redshift.
    """

    def __init__(self, instrument: Instrument, n_latent: int, n_aux: int = 0) -> None:
        super().__init__()
        self.instrument = instrument
        self.n_latent = n_latent
        self.n_aux = n_aux
        self.conv1 = _convolution(1, CHANNELS[0], KERNELS[0])
        self.conv2 = _convolution(CHANNELS[0], CHANNELS[1], KERNELS[1])
        self.conv3 = _convolution(CHANNELS[1], CHANNELS[2], KERNELS[2])
        self.pool1, self.pool2 = (nn.MaxPool1d(k, padding=k // 2) for k in KERNELS[:2])
        activations = [*(nn.PReLU(n) for n in HIDDEN), nn.Identity()]  # no activation last: latents center on 0
        self.mlp = perceptron((N_FEATURE + n_aux, *HIDDEN, n_latent), activations)

    def features(self, spec: Tensor) -> Tensor:
        """Attended features before the perceptron, shape (N, L) -> (N, 256)."""
        x = self.pool1(self.conv1(spec.unsqueeze(1)))
        x = self.conv3(self.pool2(self.conv2(x)))
        value, key = x.split(N_FEATURE, dim=1)
        return torch.sum(value * torch.softmax(key, dim=-1), dim=2)

    def forward(self, spec: Tensor, aux: Tensor | None = None) -> Tensor:
        """Encode normalized spectra.

        spec: shape (N, L), L the instrument's bins. aux: shape (N, n_aux), needed if and only if the model has it.
        Returns latents, shape (N, S). ValueError for another length or a missing or unexpected aux.
        """
        n_bins = len(self.instrument.wave_obs)
        if spec.ndim != 2 or spec.shape[1] != n_bins:
            raise ValueError(
                f"spectra have shape {tuple(spec.shape)}, expected (N, {n_bins}): the {self.instrument.name} grid"
            )
        n_aux = 0 if aux is None else aux.shape[-1]
        if n_aux != self.n_aux:
            wanted = "no aux input" if self.n_aux == 0 else "aux of shape (N, 1): pass aux=z.unsqueeze(1)"
            raise ValueError(f"aux has {n_aux} columns, this model takes {wanted}")
        x = self.features(spec)
        if aux is not None:
            x = torch.cat((x, aux.to(x)), dim=1)
        latents: Tensor = self.mlp(x)
        return latents
