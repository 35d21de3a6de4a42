"""What a plan and its stores need to know of a checkpoint and of an instrument."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import RefusedError
from pipeline.planning.domain import Domain
from pipeline.planning.model import ModelConfig
from pipeline.spectra.normalize import Grid
from pipeline.store.root import basis_url, density_file_url
from spender_core.basis import Basis, scannable
from spender_core.density import Density, density_of
from spender_core.instrument import get_instrument
from spender_core.redshift import RedshiftEstimator
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


def redshift_range(facts: Checkpoint, instrument: str) -> tuple[float, float]:
    """Redshifts that a checkpoint's model can be scanned over. ValueError where there are none."""
    domain = None if facts.domain is None else facts.domain.z
    return scannable(get_instrument(instrument).wave_obs.numpy(), facts.wave_rest, domain)


def basis_of(checkpoint: str, instrument: str, z_range: tuple[float, float], sha256: str) -> bytes:
    """Make the file of what redshifts and latents are fitted with. ValueError where the model cannot be scanned."""
    basis = Basis.of_checkpoint(checkpoint, instrument, z_range, sha256=sha256)
    RedshiftEstimator(get_instrument(instrument), basis.templates, z_range)
    return basis.to_bytes()


def basis_sha256(data: bytes) -> str | None:
    """SHA-256 (hex) of such a file; None for anything else."""
    try:
        Basis.from_bytes(data)
    except ValueError:
        return None
    return hashlib.sha256(data).hexdigest()


def read_basis(root: str, config: ModelConfig) -> Basis:
    """Read the templates and the prior of a plan's model. Raises ConfigError where ROOT lacks it."""
    url = basis_url(root, config.sha256 or "")
    try:
        return Basis.from_bytes(storage.read_bytes(url), config.basis)
    except (FileNotFoundError, ValueError) as error:
        reason = "it is not there" if isinstance(error, FileNotFoundError) else str(error)
        raise RefusedError("basis", f"{url}: {reason}", f"make it again: spender-pipeline plan {root}") from error


def read_density(root: str, config: ModelConfig) -> Density:
    """Read the density of a plan's model, which ROOT keeps. Raises ConfigError where it lacks it."""
    url = density_file_url(root, config.density_sha256 or "")
    try:
        data = storage.read_bytes(url)
        if hashlib.sha256(data).hexdigest() != config.density_sha256:
            raise ValueError("its SHA-256 is another than planned: the file is damaged or was replaced")
        return density_of(data, url)
    except (FileNotFoundError, ValueError) as error:
        reason = "it is not there" if isinstance(error, FileNotFoundError) else str(error)
        remedy = f"spender-pipeline plan {root} --model {config.name} --density {config.density}"
        raise RefusedError("density", f"{url}: {reason}", f"bring it back: {remedy}") from error


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
