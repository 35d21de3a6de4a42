"""SpectrumAutoencoder: encoder and decoder together."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from .decoder import SpectrumDecoder
from .encoder import SpectrumEncoder
from .instrument import Instrument
from .losses import fidelity


def fit_amplitude(spec: Tensor, w: Tensor, reconstruction: Tensor) -> Tensor:
    """Weighted least-squares factor that scales reconstructions to spectra.

    All shape (N, L); w is the inverse variance, 0 outside of the model. Returns shape (N,), NaN without weight.
    """
    weighted = w * reconstruction
    return torch.sum(weighted * spec, dim=1) / torch.sum(weighted * reconstruction, dim=1)


class SpectrumAutoencoder(nn.Module):
    """Observed spectrum -> latents -> restframe spectrum -> observed spectrum.

    instrument: whose grid the encoder reads; also the default of the reconstruction. wave_rest: shape (R,), Angstrom.
    n_latent: number of latents S. n_aux: 1 if the encoder takes the redshift. speculator: activations of the decoder.
    """

    def __init__(
        self, instrument: Instrument, wave_rest: Tensor, n_latent: int = 10, n_aux: int = 0, speculator: bool = True
    ) -> None:
        super().__init__()
        self.encoder = SpectrumEncoder(instrument, n_latent, n_aux)
        self.decoder = SpectrumDecoder(wave_rest, n_latent, speculator)
        self._warned = False

    @property
    def n_latent(self) -> int:
        """Number of latents S."""
        return self.encoder.n_latent

    @property
    def wave_obs(self) -> Tensor:
        """Wavelengths the encoder reads, shape (L,), Angstrom."""
        return self.encoder.instrument.wave_obs

    @property
    def wave_rest(self) -> Tensor:
        """Wavelengths of the restframe spectra, shape (R,), Angstrom."""
        return self.decoder.wave_rest

    def encode(self, spec: Tensor, aux: Tensor | None = None) -> Tensor:
        """Latents of normalized spectra, shape (N, L) -> (N, S); first-paper models need aux = z.unsqueeze(1)."""
        latents: Tensor = self.encoder(spec, aux)
        return latents

    def decode(self, s: Tensor) -> Tensor:
        """Restframe spectra of latents, shape (N, S) -> (N, R)."""
        return self.decoder.decode(s)

    def reconstruct(
        self, spec: Tensor, instrument: Instrument | None = None, z: Tensor | None = None, s: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents (N, S), restframe (N, R), reconstruction (N, L) and the bins that the model covers (N, L), bool.

        spec: shape (N, L). instrument: default the model's own. z: shape (N,), default 0. s: latents to use instead of
        encoding. The redshift is also the encoder's aux input if it has one.
        """
        if s is None:
            if self.encoder.n_aux and z is None:
                raise ValueError("z is missing: this model's encoder takes the redshift as well")
            s = self.encode(spec, aux=z.unsqueeze(1) if self.encoder.n_aux and z is not None else None)
        restframe = self.decode(s)
        reconstruction, valid = self.decoder.observe(restframe, self._instrument(instrument), z)
        return s, restframe, reconstruction, valid

    def _instrument(self, instrument: Instrument | None) -> Instrument:
        own = self.encoder.instrument
        if instrument is None:
            return own
        if own.lsf is not None and instrument.lsf is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"the instrument {instrument.name!r} has no line spread function, this model was trained with one:"
                " leave the instrument out to use the model's own",
                stacklevel=2,
            )
        return instrument

    def _forward(
        self, spec: Tensor, instrument: Instrument | None = None, z: Tensor | None = None, s: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (N, S), restframe (N, R) and reconstruction (N, L) of spectra, see `reconstruct`."""
        return self.reconstruct(spec, instrument, z, s)[:3]

    def forward(
        self, spec: Tensor, instrument: Instrument | None = None, z: Tensor | None = None, s: Tensor | None = None
    ) -> Tensor:
        """Reconstruction of spectra, shape (N, L), see `reconstruct`."""
        return self.reconstruct(spec, instrument, z, s)[2]

    def loss(
        self,
        spec: Tensor,
        w: Tensor,
        instrument: Instrument | None = None,
        z: Tensor | None = None,
        s: Tensor | None = None,
    ) -> Tensor:
        """Fidelity loss summed over spectra, a scalar; bins that the model does not cover carry no weight.

        spec, w: shape (N, L), normalized spectra and their inverse variance. Others as in `reconstruct`.
        """
        _, _, reconstruction, valid = self.reconstruct(spec, instrument, z, s)
        return fidelity(spec, w * valid, reconstruction).sum()
