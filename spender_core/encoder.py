"""SpectrumEncoder: observed spectrum -> latents, by convolution and attention (paper I, section 3.1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .convolution import TiledConvolution, first_stage, second_stage, third_stage
from .instrument import Instrument
from .model import Encoder
from .packed import PackedLinear
from .sharing import share, shared_function

CHANNELS = (128, 256, 512)
KERNELS = (5, 11, 21)
N_FEATURE = CHANNELS[-1] // 2  # half of the last channels are values, half are keys of the attention
HIDDEN = (128, 64, 32)

# Spectra that one thread of a CPU computes at once: fewer share the weights of the third convolution less, 64 MB once
# transformed, more leave the cache after the second. Of a few, each half is a block, from the smallest size on.
BLOCK = 32
SMALLEST = 4


def _blocks(spec: Tensor) -> Sequence[Tensor]:
    """Split a batch into blocks of like sizes, whatever the threads; shape (N, L)."""
    n = len(spec)
    return torch.tensor_split(spec, max(-(-n // BLOCK), min(2, n // SMALLEST), 1))


def perceptron(sizes: Sequence[int], activations: Sequence[nn.Module]) -> nn.Sequential:
    """Fully connected layers, each followed by its activation.

    sizes: input, hidden and output lengths. The layers are named 0, 1, 3, 4, 6, ...: published checkpoints had a
    dropout at every third place.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers[str(3 * i)] = PackedLinear(n_in, n_out)
        layers[str(3 * i + 1)] = activations[i]
    return nn.Sequential(layers)


class Stage(nn.Sequential):
    """Convolution, instance norm and PReLU; the layers have the names of published checkpoints: 0, 1, 2."""

    def __init__(self, convolution: nn.Conv1d) -> None:
        n = convolution.out_channels
        super().__init__(convolution, nn.InstanceNorm1d(n), nn.PReLU(n))

    @property
    def weight(self) -> Tensor:
        """The convolution's, shape (C out, C in, K)."""
        return self.get_parameter("0.weight")

    @property
    def slope(self) -> Tensor:
        """The PReLU's, shape (C out,)."""
        return self.get_parameter("2.weight")

    def forward(self, x: Tensor) -> Tensor:
        """Apply, shape (N, C in, L) -> (N, C out, L)."""
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y


class TiledStage(Stage):
    """A stage whose convolution can be had by tiles."""

    @property
    def convolution(self) -> TiledConvolution:
        """The layer 0."""
        return cast("TiledConvolution", self[0])


class SpectrumEncoder(Encoder):
    """Convolutional encoder with attention over wavelength (after Serra+2018, arXiv:1805.03908).

    instrument: whose wavelength grid the spectra are on. n_latent: number of latents S.
    n_aux: auxiliary numbers appended to the features; 1 for the first-paper models, which take the redshift.
    """

    def __init__(self, instrument: Instrument, n_latent: int, n_aux: int = 0) -> None:
        super().__init__(instrument, n_latent, n_aux)
        second = -(-len(instrument.wave_obs) // KERNELS[0])
        third = -(-second // KERNELS[1])
        self.conv1 = Stage(nn.Conv1d(1, CHANNELS[0], KERNELS[0], padding=KERNELS[0] // 2))
        self.conv2 = TiledStage(TiledConvolution(CHANNELS[0], CHANNELS[1], KERNELS[1], second))
        self.conv3 = TiledStage(TiledConvolution(CHANNELS[1], CHANNELS[2], KERNELS[2], third))
        self.pool1, self.pool2 = (nn.MaxPool1d(k, padding=k // 2) for k in KERNELS[:2])
        activations = [*(nn.PReLU(n) for n in HIDDEN), nn.Identity()]  # no activation last: latents center on 0
        self.mlp = perceptron((N_FEATURE + n_aux, *HIDDEN, n_latent), activations)

    def features(self, spec: Tensor) -> Tensor:
        """Attended features before the perceptron, shape (N, L) -> (N, 256)."""
        if self._is_tiled(spec):
            slopes = [stage.slope for stage in (self.conv1, self.conv2, self.conv3)]
            spectra = self.conv2.convolution.spectra(), self.conv3.convolution.spectra()
            return shared_function(self._tiled, _blocks(spec), self.conv1.weight, *spectra, *slopes)
        value, attention = self._attended(spec)
        return torch.sum(value * attention, dim=2)

    def _attended(self, spec: Tensor) -> tuple[Tensor, Tensor]:
        """Values and their weights by the plain layers, each shape (N, 256, L')."""
        x = self.pool1(self.conv1(spec.unsqueeze(1)))
        x = self.conv3(self.pool2(self.conv2(x)))
        value, key = torch.split(x, N_FEATURE, dim=1)
        return value, torch.softmax(key, dim=-1)

    def attention(self, spec: Tensor) -> Tensor:
        """Where the encoder looks: weights over wavelength for each feature, shape (N, L) -> (N, 256, L').

        `attention_wave` has the wavelengths of the L' positions. In each channel the weights are positive and sum to
        one over wavelength; `features` are sums of values with these weights. Some 10 MB of memory per spectrum.
        ValueError for spectra of another length.
        """
        self._require_grid(spec)
        return self._attended(spec)[1]

    @property
    def attention_wave(self) -> Tensor:
        """Wavelengths of the positions of `attention`, shape (L',), Angstrom: the centers of what they see.

        Positions are 55 bins apart, and each sees 1209 bins, as far as there are any.
        """
        return self.instrument.wave_obs[:: KERNELS[0] * KERNELS[1]]

    @torch.no_grad()
    def attention_gradient(self, spec: Tensor, line: Tensor) -> Tensor:
        """How attention moves as a line grows: its derivative along a change of the spectra, shape (N, 256, L').

        spec: shape (N, L). line: shape (L,) or (N, L), the change, such as a Gaussian of unit height at H alpha, in
        units of spec. The derivatives of a channel sum to zero. ValueError for spectra of another length.
        """
        self._require_grid(spec)
        change = line.expand_as(spec).to(spec)
        _, gradient = torch.autograd.functional.jvp(self.attention, spec, change)  # type: ignore[no-untyped-call]
        return cast("Tensor", gradient)

    def sensitivity(self, spec: Tensor, latent: int, aux: Tensor | None = None) -> Tensor:
        """Differentiate one latent with respect to the flux of each bin, shape (N, L).

        spec, aux: as in `forward`. latent: its number, from 0. IndexError for a number that the model does not have.
        """
        if not 0 <= latent < self.n_latent:
            raise IndexError(f"latent is {latent}, expected 0 to {self.n_latent - 1}")
        with torch.enable_grad():
            variable = spec.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self(variable, aux)[:, latent].sum(), variable)
        return gradient

    def _is_tiled(self, spec: Tensor) -> bool:
        """Tell whether `convolution` serves: in float32 on a CPU, and not for gradients with respect to the spectra."""
        return (
            len(spec) > 0
            and spec.device.type == "cpu"
            and spec.dtype == self.conv1.weight.dtype == torch.float32
            and not (spec.requires_grad and torch.is_grad_enabled())
            and not torch.is_autocast_enabled("cpu")
        )

    def _tiled(self, spec: Tensor, weight: Tensor, second: Tensor, third: Tensor, *slopes: Tensor) -> Tensor:
        """`features` of a block. second, third: the transformed weights of these convolutions."""
        x = first_stage(spec, weight, slopes[0], KERNELS[0])
        x = second_stage(self.conv2.convolution.tiled(x, second), slopes[1], KERNELS[1])
        x = third_stage(self.conv3.convolution.tiled(x, third), slopes[2])
        value, key = torch.split(x, N_FEATURE, dim=2)
        return torch.sum(value * torch.softmax(key, dim=0), dim=0)

    def forward(self, spec: Tensor, aux: Tensor | None = None) -> Tensor:
        """Encode normalized spectra.

        spec: shape (N, L), L the instrument's bins. aux: shape (N, n_aux); a model without it ignores it, with
        one warning. Returns latents, shape (N, S). ValueError for another length or a missing aux.
        """
        self._require_grid(spec)
        aux = self.checked_aux(aux)
        x = self.features(spec)
        if aux is not None:
            x = torch.cat((x, aux.to(x)), dim=1)
        if self._is_tiled(spec):  # one thread is enough, and more of them would sum in another order
            (latents,) = share(self.mlp, [x])
        else:
            latents = self.mlp(x)
        return cast("Tensor", latents)

    def _require_grid(self, spec: Tensor) -> None:
        """Refuse spectra of another length than the instrument's grid."""
        n_bins = len(self.instrument.wave_obs)
        if spec.ndim != 2 or spec.shape[1] != n_bins:
            raise ValueError(
                f"spectra have shape {tuple(spec.shape)}, expected (N, {n_bins}): the {self.instrument.name} grid"
            )
