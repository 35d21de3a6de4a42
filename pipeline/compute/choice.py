"""Models as they are asked for -> models of a plan: names, facts of their checkpoints, what they are fitted with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from pipeline import storage
from pipeline.errors import RefusedError
from pipeline.planning.model import ModelConfig, model_name
from pipeline.planning.plan import Plan
from pipeline.planning.redshift import CATALOG
from pipeline.planning.schema import default_outputs
from pipeline.storage import Place
from pipeline.store.checkpoint import Checkpoint, basis_of, basis_sha256, inspect, redshift_range
from pipeline.store.root import basis_url
from spender_core.weights import PUBLISHED

DEFAULT_MODEL = "sdss-galaxies"

ModelChoice: TypeAlias = ModelConfig | Place
"""A model as it is asked for: a checkpoint, "NAME=checkpoint", or all of its settings."""

_NAMED_MODEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)\Z")


def named(choice: ModelChoice, wishes: Mapping[str, Any]) -> ModelConfig:
    """Return a model that is asked for under its name. wishes: settings that it gets. Raises ConfigError."""
    if isinstance(choice, ModelConfig):
        return replace(choice, checkpoint=checkpoint_place(choice.checkpoint), **wishes)
    text = str(choice)
    found = _NAMED_MODEL.match(text)
    name, checkpoint = (found[1], found[2]) if found else (model_name(text), text)
    return ModelConfig(name=name, checkpoint=checkpoint_place(checkpoint), **wishes)


def with_outputs_of(existing: Plan | None, model: ModelConfig) -> ModelConfig:
    """Return a model that is planned already, and for which no outputs are chosen now, with those of the plan.

    The outputs of new plans may have changed since: a run keeps those that it began with.
    """
    known = [each for each in existing.models if each.name == model.name] if existing is not None else []
    return replace(model, variables=known[0].variables) if known and model.variables == default_outputs() else model


def checkpoint_place(text: str) -> str:
    """Return where a checkpoint is: its published name, or its path or URL, as workers reach it."""
    return text if text in PUBLISHED else storage.place(text, "--model")


def default_models(made: Plan) -> list[ModelConfig]:
    """Return the models of a plan that names none."""
    if made.models or made.config.instrument != PUBLISHED[DEFAULT_MODEL].instrument:
        return []
    return [ModelConfig(name=DEFAULT_MODEL, checkpoint=DEFAULT_MODEL)]


def resolved(root: str, model: ModelConfig, made: Plan, bases: dict[str, bytes]) -> ModelConfig:
    """Return a model with the facts of its checkpoint. bases: what it is fitted with is added where ROOT lacks it."""
    facts = inspect(model.checkpoint, made.config.instrument)
    reach, basis = _basis(root, model, facts, made.config.instrument, bases) if model.needs_basis else (None, None)
    return model.resolve(
        redshift_range=reach,
        basis=basis,
        sha256=facts.sha256,
        n_latent=facts.n_latent,
        n_rest=len(facts.wave_rest),
        architecture=facts.architecture,
        domain=facts.domain,
    )


def _basis(
    root: str, model: ModelConfig, facts: Checkpoint, instrument: str, bases: dict[str, bytes]
) -> tuple[tuple[float, float], str]:
    """Return the redshifts that a model is scanned over, and the SHA-256 of what it is fitted with.

    Raises ConfigError for a model that cannot be scanned.
    """
    try:
        reach = redshift_range(facts, instrument)
    except ValueError as error:
        if model.redshift != CATALOG:
            problem = f"model {model.name} cannot be scanned for redshifts: {error}"
            raise RefusedError("--redshift", problem, "plan it with --redshift catalog, or take another") from error
        reach = (0.0, 0.01)
    url = basis_url(root, facts.sha256)
    data = bases.get(url) or _present(url)
    sha256 = None if data is None else basis_sha256(data)
    if data is None or sha256 is None:
        try:
            bases[url] = basis_of(model.checkpoint, instrument, reach, facts.sha256)
        except ValueError as error:
            problem = f"model {model.name} gives nothing to fit with: {error}"
            raise RefusedError("--redshift", problem, "take another model") from error
        sha256 = basis_sha256(bases[url])
    return reach, str(sha256)


def _present(url: str) -> bytes | None:
    """Read a file; None where there is none."""
    try:
        return storage.read_bytes(url)
    except (FileNotFoundError, NotADirectoryError):
        return None
