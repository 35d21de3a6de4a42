"""What a plan and its stores need to know of a checkpoint and of an instrument."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.planning.domain import Domain
from pipeline.spectra.normalize import Grid
from spender_core.instrument import get_instrument
from spender_core.weights import PUBLISHED, WeightsError, checkpoint_sha256, load_model, read_extras


@dataclass(frozen=True)
class Checkpoint:
    """What a plan and a store need to know of a checkpoint; wave_rest: shape (R,), Angstrom; domain: None for none."""

    sha256: str
    architecture: str
    n_latent: int
    wave_rest: NDArray[np.floating[Any]]
    domain: Domain | None = None


def inspect(checkpoint: str, instrument: str, sha256: str | None = None) -> Checkpoint:
    """Read a checkpoint's facts, on the CPU and without keeping the model.

    Raises spender_core's WeightsError for a checkpoint that cannot be loaded, has another SHA-256 than given, was
    trained on another wavelength grid than the instrument's, or has a domain that cannot be read.
    """
    known = PUBLISHED.get(checkpoint)
    # of a published model nothing is fetched that is refused
    extras = {"instruments": [known.instrument]} if known else read_extras(checkpoint)
    trained_for = extras.get("instruments", [instrument])
    if instrument not in trained_for:
        raise WeightsError(
            f"model {checkpoint!r} was trained for {', '.join(trained_for)}, the plan's instrument is {instrument!r}:"
            " choose another --model or another --instrument"
        )
    domain = _domain((read_extras(checkpoint) if known else extras).get("domain"), checkpoint)
    sha256 = sha256 or checkpoint_sha256(checkpoint)
    model, _ = load_model(checkpoint, get_instrument(instrument), sha256=sha256)
    return Checkpoint(sha256, model.architecture, model.n_latent, model.wave_rest.numpy().copy(), domain)


def _domain(entry: object, checkpoint: str) -> Domain | None:
    """Read a checkpoint's entry `domain`; None where it has none."""
    try:
        return None if entry is None else Domain.from_dict(entry)
    except ValueError as error:
        raise WeightsError(f"checkpoint {checkpoint!r}: its {error}; save it again without") from error


@cache
def grid(instrument: str) -> Grid:
    """Give the wavelength grid of an instrument, for normalization."""
    return Grid.of(get_instrument(instrument))
