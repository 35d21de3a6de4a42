"""SpectrumModel: what every architecture is, an encoder and a decoder, and what follows from the two."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .instrument import Instrument
from .losses import fidelity
from .resample import Spacing, resample, spacing, within


class Memory(NamedTuple):
    """Projected memory of a model, in bytes.

    kept: what a process keeps between forward passes beside the parameters, such as weights in another layout.
    at_once: what one forward pass holds, its input and output included.
    """

    kept: int
    at_once: int


class Encoder(nn.Module, ABC):
    """Observed spectrum -> latents: the part that belongs to one instrument.

    instrument: whose wavelength grid the spectra are on. n_latent: number of latents S. n_aux: auxiliary numbers that
    `forward` takes beside a spectrum, 0, or 1 for the redshift.
    """

    def __init__(self, instrument: Instrument, n_latent: int, n_aux: int = 0) -> None:
        super().__init__()
        self.instrument = instrument
        self.n_latent = n_latent
        self.n_aux = n_aux
        self._warned = False

    @abstractmethod
    def forward(self, spec: Tensor, aux: Tensor | None = None) -> Tensor:
        """Latents of normalized spectra, shape (N, L) -> (N, S); aux: shape (N, n_aux), None without."""

    def checked_aux(self, aux: Tensor | None) -> Tensor | None:
        """Return the aux that the encoder uses: the one given, or None, with one warning, where it takes none.

        aux: shape (N, n_aux). ValueError for a missing one, and for one of another width.
        """
        if self.n_aux == 0:
            if aux is not None and not self._warned:
                self._warned = True
                warnings.warn("this model takes no aux: what was given is ignored", stacklevel=3)
            return None
        n_columns = 0 if aux is None else aux.shape[-1]
        if n_columns != self.n_aux:
            raise ValueError(
                f"aux has {n_columns} columns, this model takes {self.n_aux}, the redshift: pass aux=z.unsqueeze(1)"
            )
        return aux


def _respace(decoder: Decoder, _incompatible: object) -> None:
    """Follow a state that brings another restframe grid of the same length."""
    decoder._spacing = spacing(decoder.wave_rest)


class Decoder(nn.Module, ABC):
    """Latents -> restframe spectrum -> spectrum as an instrument observes it.

    An architecture defines `decode`; models of several instruments share one decoder.
    wave_rest: shape (R,), restframe wavelengths in Angstrom, increasing. n_latent: number of latents S.
    """

    wave_rest: Tensor

    def __init__(self, wave_rest: Tensor, n_latent: int) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.register_buffer("wave_rest", wave_rest)
        self._spacing: Spacing | None = spacing(wave_rest)
        self.register_load_state_dict_post_hook(_respace)  # type: ignore[no-untyped-call]

    @abstractmethod
    def decode(self, s: Tensor) -> Tensor:
        """Restframe spectra of latents, shape (N, S) -> (N, R)."""

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
        """`transform` and the bins that the model covers: shapes (N, L), float and bool.

        A spectrum whose z is not finite, or not above -1, is NaN, and none of its bins is covered.
        """
        if z is None:
            z = torch.zeros(len(restframe), device=restframe.device)
        if z.shape != restframe.shape[:1]:
            raise ValueError(f"z has shape {tuple(z.shape)}, expected ({len(restframe)},): one redshift per spectrum")
        wave_obs = self.wave_rest if instrument is None else instrument.wave_obs
        known = (torch.isfinite(z) & (z > -1))[:, None]
        z = torch.where(known[:, 0], z, 0)
        valid = within(self.wave_rest, wave_obs, z) & known
        spectrum = resample(restframe, self.wave_rest, wave_obs, z, self._spacing)
        spectrum = torch.where(valid, spectrum, 0)
        if instrument is not None:
            spectrum = instrument.observe(spectrum)
        return torch.where(known, spectrum, torch.nan), valid


class SpectrumModel(nn.Module, ABC):
    """Observed spectrum -> latents -> restframe spectrum -> observed spectrum: the contract of an architecture.

    A subclass is built as `Class(instrument, wave_rest, **arguments)`, instrument and wave_rest as in `Encoder` and
    `Decoder`. It sets `architecture`, the name that checkpoints give it, and defines `arguments` and
    `projected_memory`. Its state has the instrument below `encoder.instrument` and the grid as `decoder.wave_rest`;
    all other names are free. `spender_core.architectures` says how it becomes known.
    """

    architecture: ClassVar[str]
    encoder: Encoder
    decoder: Decoder

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self._warned = False

    @property
    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Arguments that build the model again, beside instrument and wave_rest; plain values that JSON can hold."""

    @staticmethod
    @abstractmethod
    def projected_memory(*, n_pixels: int, n_latent: int, n_rest: int, batch: int, precision: str) -> Memory:
        """Memory that encoding needs, in bytes.

        n_pixels, n_latent, n_rest: lengths L, S and R. batch: spectra per forward pass.
        precision: one of `spender_core.precision.PRECISIONS`.
        """

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
        """Latents of normalized spectra, shape (N, L) -> (N, S).

        First-paper models need aux = z.unsqueeze(1); others ignore it, with one warning.
        """
        latents: Tensor = self.encoder(spec, self.encoder.checked_aux(aux))
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
