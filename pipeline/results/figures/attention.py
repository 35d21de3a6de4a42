"""Where the encoder of a run's model looks in one spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import RefusedError
from spender_core.encoder import SpectrumEncoder
from spender_core.instrument import get_instrument
from spender_core.weights import load_model

if TYPE_CHECKING:
    from pipeline.results.data import RunData

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Attention:
    """Where an encoder looks in one spectrum.

    wavelength: (L',), observed Angstrom, of its positions. weights: (C, L'), of each channel, their sum one.
    sensitivity: (S, L), derivative of each latent with respect to the normalized flux of each bin of the grid.
    """

    wavelength: Floats
    weights: Floats
    sensitivity: Floats


def read_attention(run: RunData, row: int, model: str | None = None) -> Attention | None:
    """Load the model of a run, and return where it looks in one row; None for a row without latents.

    row: index along `spectrum`. model: name, default the plan's only one. Raises ConfigError for a model whose encoder
    has no attention, WeightsError where the checkpoint cannot be read or is another one.
    """
    config = run.model(model)
    encoding = run.encodings(config.name).isel(spectrum=row)
    loaded, _ = load_model(config.checkpoint, get_instrument(run.plan.config.instrument), sha256=config.sha256)
    encoder = loaded.encoder
    if not isinstance(encoder, SpectrumEncoder):
        problem = f"the architecture {config.architecture} of the model {config.name} has no attention to show"
        raise RefusedError("--attention", problem, "leave --attention out")
    if int(encoding["quality"]) & int(run.plan.unusable):
        return None
    spec = torch.from_numpy(encoding["flux"].to_numpy().astype(np.float32)[None])
    z = "z_fit" if "z_fit" in encoding else "z"
    aux = torch.tensor([[float(encoding[z])]]) if encoder.n_aux else None
    with torch.no_grad():
        weights = encoder.attention(spec)[0]
    sensitivity = torch.cat([encoder.sensitivity(spec, latent, aux) for latent in range(encoder.n_latent)])
    return Attention(encoder.attention_wave.numpy().astype(np.float64), weights.numpy(), sensitivity.numpy())
