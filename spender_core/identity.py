"""What a training run is made of: checks before the first step, and comparison with what a checkpoint was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from .architectures import describe
from .dataset import Batches
from .instrument import LSF
from .model import SpectrumModel
from .objective import Objective
from .settings import Settings

MAY_CHANGE = ("epochs", "patience")
"""Settings that a run may be resumed with other values of."""


def name_of(model: SpectrumModel) -> str:
    """Name of the instrument whose spectra a model encodes."""
    return model.encoder.instrument.name


def check(models_and_data: Sequence[tuple[SpectrumModel, Batches]], batch_size: int, *, with_valid: bool) -> None:
    """Raise ValueError for models that cannot be trained together, or data without spectra to train on.

    with_valid: whether some must be kept for validation, too.
    """
    if not models_and_data:
        raise ValueError("models_and_data is empty, expected at least one (model, dataset)")
    _check_models([model for model, _ in models_and_data])
    empty = [name_of(model) for model, data in models_and_data if not data.steps("train", batch_size)]
    if empty:
        raise ValueError(
            f"no spectra to train on for {', '.join(empty)}: none is usable, or all are kept for validation"
            " (a hash of each id decides: check that the ids are distinct)"
        )
    if with_valid and not any(data.steps("valid", batch_size) for _, data in models_and_data):
        raise ValueError("no spectra are kept for validation, by which patience judges: train without patience")


def _check_models(models: Sequence[SpectrumModel]) -> None:
    descriptions = [describe(model) for model in models]
    different = [other for other in descriptions if other != descriptions[0]]
    if different:
        raise ValueError(
            f"the models are {descriptions[0]} and {different[0]}, expected the same architecture and arguments for all"
        )
    if any(model.decoder is not models[0].decoder for model in models):
        raise ValueError("the models have different decoders, expected one decoder shared by all instruments")
    names = [name_of(model) for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"instruments {names} repeat, expected one model per instrument: pool the samples of each")


def identity_of(
    models: Sequence[SpectrumModel], data: Sequence[Batches], settings: Settings, objective: Objective
) -> dict[str, Any]:
    """Name what must be the same for a checkpoint to be resumed: nested, plain values."""
    return {
        **{key: value for key, value in asdict(settings).items() if key not in MAY_CHANGE},
        **describe(models[0]),
        "instruments": [name_of(model) for model in models],
        "spectra": [part.identity for part in data],
        "latents": models[0].n_latent,
        "restframe bins": len(models[0].wave_rest),
        "restframe": _digest(models[0].wave_rest),
        "wavelengths": [_digest(model.wave_obs) for model in models],
        "lsf": [_lsf(model.encoder.instrument.lsf) for model in models],
        "objective": objective.identity,
    }


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.cpu().numpy().tobytes()).hexdigest()


def _lsf(lsf: LSF | None) -> dict[str, Any] | None:
    if lsf is None:
        return None
    return {"taps": lsf.weight.shape[-1], "symmetric": lsf.symmetric, "nonnegative": lsf.nonnegative}


def require_same(here: dict[str, Any], there: dict[str, Any], name: str) -> None:
    """Raise ValueError that names what differs between a run and the one of the checkpoint `name`."""
    found = "; ".join(_differences(here, there, ""))
    if found:
        raise ValueError(f"{name} belongs to another training run: {found}. Give another checkpoint file")


def _differences(here: dict[str, Any], there: dict[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for key in sorted(here.keys() | there.keys(), key=str):
        ours, theirs = here.get(key), there.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            found += _differences(ours, theirs, f"{prefix}{key}.")
        elif ours != theirs:
            found.append(f"{prefix}{key} is {ours!r} here and {theirs!r} there")
    return found
