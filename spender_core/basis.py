"""Basis: what is known beforehand of a model's spectra: templates of its decoder, and how its latents are distributed.

Made once of a checkpoint, and kept: redshifts and latents are fitted with it.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .instrument import get_instrument
from .latent_fit import Prior
from .model import SpectrumModel
from .templates import COMPONENTS, KINDS, Templates, of_decoder
from .weights import load_model, read_extras

LATENTS = "sdss-galaxies"
"""The embedded model whose galaxies stand in where a checkpoint brings no latents of its own."""

_GALAXIES = 128  # that are made then
_SEED = 20
_MARGIN = 600 / 299_792.458
"""What is scanned beyond a model's redshifts, so that a minimum at their end has two sides."""

_NARROWEST = 0.01  # range of redshifts that is worth a scan


@dataclass(frozen=True)
class Basis:
    """Templates and prior of one checkpoint."""

    templates: Templates
    prior: Prior

    def to_bytes(self) -> bytes:
        """Return the file of it (NPZ)."""
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            kind=self.templates.kind,
            start=self.templates.start,
            flux=self.templates.flux.numpy(),
            mean=self.prior.mean.numpy(),
            covariance=self.prior.covariance.numpy(),
        )
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, sha256: str | None = None) -> Self:
        """Read what `to_bytes` wrote. ValueError for anything else, and for another SHA-256 than expected."""
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("its SHA-256 is another than planned: the file is damaged or was replaced")
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                arrays = {name: torch.from_numpy(stored[name]) for name in ("flux", "mean", "covariance")}
                templates = Templates(str(stored["kind"]), float(stored["start"]), arrays["flux"])
        except Exception as error:  # whatever NumPy and zipfile raise for other bytes
            raise ValueError(f"it is not a file of templates ({error})") from error
        return cls(templates, Prior(arrays["mean"], arrays["covariance"]))

    @classmethod
    def of(cls, model: SpectrumModel, latents: Tensor, kind: str = "GALAXY") -> Self:
        """Make it of latents that the model gave, shape (M, S). kind: of object; ValueError as for `of_decoder`."""
        return cls(of_decoder(model, latents, kind), Prior.of(latents))

    @classmethod
    def of_checkpoint(
        cls, checkpoint: str, instrument: str, z_range: tuple[float, float], sha256: str | None = None
    ) -> Self:
        """Make that of a checkpoint: of the latents that it brings, or of its latents of galaxies made for it.

        z_range: redshifts that these are given. sha256: as for `load_model`. Raises WeightsError as that does,
        ValueError where too few latents are finite, and for a decoder that makes spectra that are not.
        """
        model, _ = load_model(checkpoint, get_instrument(instrument), sha256=sha256)
        extras = read_extras(checkpoint)
        latents = extras.get("latents")
        if not isinstance(latents, Tensor) or len(latents) < 2 * COMPONENTS:
            latents = _latents(model, z_range)
        return cls.of(model, latents, _kind(extras))


def scannable(
    wave_obs: NDArray[np.floating[Any]], wave_rest: NDArray[np.floating[Any]], domain: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Redshifts that a model can be scanned over: those of its domain, or where it covers a spectrum's blue end.

    wave_obs, wave_rest: shapes (L,) and (R,), Angstrom. ValueError where none are left.
    """
    least, most = domain or (0.0, float(wave_obs[0]) / float(wave_rest[0]) - 1)
    if most - least < _NARROWEST:
        reach = f"{wave_rest[0]:.0f}-{wave_rest[-1]:.0f} Angstrom"
        raise ValueError(
            f"it covers no range of redshifts: its restframe is {reach}, spectra begin at {wave_obs[0]:.0f} Angstrom"
        )
    return least - _MARGIN, most + _MARGIN * (1 + most)


@torch.no_grad()
def _latents(model: SpectrumModel, z_range: tuple[float, float]) -> Tensor:
    """Encode galaxies of another model, noise-free, shape (M, S); of those that the model sees the half of."""
    source, _ = load_model(LATENTS, get_instrument("sdss"))
    sample = read_extras(LATENTS)["latents"].float()
    random = torch.Generator().manual_seed(_SEED)
    pairs = torch.randint(len(sample), (2, _GALAXIES), generator=random)
    share = torch.rand(_GALAXIES, 1, generator=random)
    restframe = source.decode(share * sample[pairs[0]] + (1 - share) * sample[pairs[1]])
    least, most = max(z_range[0], 0.0), z_range[1]
    z = least + (most - least) * torch.rand(_GALAXIES, generator=random)
    observed, valid = source.decoder.observe(restframe, model.encoder.instrument, z)
    is_seen = valid.float().mean(dim=1) > 0.5
    observed, z = observed[is_seen].float(), z[is_seen]
    aux = z[:, None] if model.encoder.n_aux else None
    latents = model.encode(observed, aux)
    return latents[torch.isfinite(latents).all(dim=1)]


def _kind(extras: dict[str, Any]) -> str:
    """Kind of object that a checkpoint is for: its domain's, where that is one of `KINDS`, else galaxies."""
    domain = extras.get("domain")
    classes = domain.get("classes") if isinstance(domain, dict) else None
    own = classes[0] if isinstance(classes, list) and len(classes) == 1 else None
    return own if own in KINDS else KINDS[0]
