"""SpectrumDecoder: latents -> restframe spectrum -> spectrum as an instrument observes it (paper I, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .encoder import perceptron
from .instrument import Instrument
from .resample import Spacing, resample, spacing, within

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


def _respace(decoder: SpectrumDecoder, _incompatible: object) -> None:
    """Follow a state that brings another restframe grid of the same length."""
    decoder._spacing = spacing(decoder.wave_rest)


class SpectrumDecoder(nn.Module):
    """Perceptron that makes a restframe spectrum, and the transform that observes it.

    wave_rest: shape (R,), restframe wavelengths in Angstrom, increasing. n_latent: number of latents S.
    speculator: Speculator activations; False for the leaky ReLU of the oldest models.
    """

    wave_rest: Tensor

    def __init__(self, wave_rest: Tensor, n_latent: int, speculator: bool = True) -> None:
        super().__init__()
        self.n_latent = n_latent
        n_rest = len(wave_rest)
        if speculator:
            activations: list[nn.Module] = [*(SpeculatorActivation(n) for n in HIDDEN)]
            activations.append(SpeculatorActivation(n_rest, plus_one=True))
        else:
            activations = [nn.LeakyReLU() for _ in range(len(HIDDEN) + 1)]
        self.mlp = perceptron((n_latent, *HIDDEN, n_rest), activations)
        self.register_buffer("wave_rest", wave_rest)
        self._spacing: Spacing | None = spacing(wave_rest)
        self.register_load_state_dict_post_hook(_respace)  # type: ignore[no-untyped-call]

    def decode(self, s: Tensor) -> Tensor:
        """Restframe spectra of latents, shape (N, S) -> (N, R)."""
        restframe: Tensor = self.mlp(s)
        return restframe

    def forward(self, s: Tensor, instrument: Instrument | None = None, z: Tensor | None = None) -> Tensor:
        """Restframe spectra, shape (N, R); given an instrument or redshifts, shape (N,), the observed ones, (N, L)."""
        restframe = self.decode(s)
        if instrument is None and z is None:
            return restframe
        return self.transform(restframe, instrument=instrument, z=z)

    def transform(self, restframe: Tensor, instrument: Instrument | None = None, z: Tensor | None = None) -> Tensor:
        """Observe restframe spectra: redshift, resample, line spread function, calibration.

        restframe: shape (N, R). z: shape (N,), dimensionless, default 0. Without an instrument the restframe grid is
        the observed one, with no line spread function. Returns shape (N, L); bins outside of the model are 0.
        """
        return self.observe(restframe, instrument, z)[0]

    def observe(
        self, restframe: Tensor, instrument: Instrument | None = None, z: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`transform` and the bins that the model covers: shapes (N, L), float and bool."""
        if z is None:
            z = torch.zeros(len(restframe), device=restframe.device)
        if z.shape != restframe.shape[:1]:
            raise ValueError(f"z has shape {tuple(z.shape)}, expected ({len(restframe)},): one redshift per spectrum")
        wave_obs = self.wave_rest if instrument is None else instrument.wave_obs
        valid = within(self.wave_rest, wave_obs, z)
        spectrum = resample(restframe, self.wave_rest, wave_obs, z, self._spacing)
        spectrum = torch.where(valid, spectrum, 0)
        if instrument is not None:
            spectrum = instrument.observe(spectrum)
        return spectrum, valid
