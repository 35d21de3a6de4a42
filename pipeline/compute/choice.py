"""Models as they are asked for -> models of a plan: names, facts of their checkpoints, what they are fitted with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from pipeline import storage
from pipeline.errors import ConfigError, RefusedError, redacted
from pipeline.planning.model import ModelConfig, model_name
from pipeline.planning.plan import Plan
from pipeline.planning.redshift import CATALOG
from pipeline.planning.schema import default_outputs
from pipeline.storage import Place
from pipeline.store.checkpoint import Checkpoint, basis_of, basis_sha256, inspect, read_density, redshift_range
from pipeline.store.root import basis_url, density_file_url, read_plan
from spender_core.density import belongs_to, density_of
from spender_core.weights import PUBLISHED, PUBLISHED_FLOWS, WeightsError, read_flow

DEFAULT_MODEL = "sdss-galaxies"

ModelChoice: TypeAlias = ModelConfig | Place
"""A model as it is asked for: a checkpoint, "NAME=checkpoint", or all of its settings."""

_NAMED_MODEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)\Z")


def named(choice: ModelChoice, wishes: Mapping[str, Any], existing: Plan | None) -> ModelConfig:
    """Return a model that is asked for under its name. wishes: settings that it gets. Raises ConfigError.

    A density is wished for a model of the existing plan as that has it.
    """
    if isinstance(choice, ModelConfig):
        return placed(replace(choice, **wishes))
    text = str(choice)
    found = _NAMED_MODEL.match(text)
    checkpoint = checkpoint_place(found[2] if found else text)  # what is no place is no name either
    name = found[1] if found else model_name(text)
    known = {model.name: model for model in existing.models if "density" in wishes} if existing else {}
    if name in known:
        planned = known[name].checkpoint
        return placed(replace(known[name], checkpoint=planned if text == name else checkpoint, **wishes))
    return placed(ModelConfig(name=name, checkpoint=checkpoint, **wishes))


def placed(model: ModelConfig) -> ModelConfig:
    """Return a model with its files where workers reach them."""
    density = model.density
    if density is not None and density not in PUBLISHED_FLOWS:
        density = storage.place(density, "--density")
    return replace(model, checkpoint=checkpoint_place(model.checkpoint), density=density)


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


def resolved(root: str, model: ModelConfig, made: Plan, files: dict[str, bytes]) -> ModelConfig:
    """Return a model with the facts of its checkpoint. files: what ROOT is to keep beside is added, by URL."""
    facts = inspect(model.checkpoint, made.config.instrument)
    reach, basis = _basis(root, model, facts, made, files) if model.needs_basis else (None, None)
    return model.resolve(
        density_sha256=None if model.density is None else _density(root, model, model.density, facts, files),
        redshift_range=reach,
        basis=basis,
        sha256=facts.sha256,
        n_latent=facts.n_latent,
        n_rest=len(facts.wave_rest),
        architecture=facts.architecture,
        domain=facts.domain,
    )


def unchecked_densities(root: str) -> list[str]:
    """Return the models of a run whose density does not say which checkpoint's latents it is of."""
    plan = read_plan(root)
    scored = [model for model in plan.models if model.density is not None]
    return [model.name for model in scored if belongs_to(read_density(root, model), model.sha256 or "") is None]


def _basis(
    root: str, model: ModelConfig, facts: Checkpoint, made: Plan, bases: dict[str, bytes]
) -> tuple[tuple[float, float], str]:
    """Return the redshifts that a model is scanned over, and the SHA-256 of what it is fitted with.

    Raises ConfigError for a model that cannot be scanned.
    """
    try:
        reach = redshift_range(facts, made.config.instrument)
    except ValueError as error:
        if model.redshift != CATALOG:
            problem = f"model {model.name} cannot be scanned for redshifts: {error}"
            raise RefusedError("--redshift", problem, "plan it with --redshift catalog, or take another") from error
        reach = (0.0, 0.01)
    planned = [each.basis for each in made.models if each.sha256 == facts.sha256 and each.basis is not None]
    if planned:
        return reach, planned[0]
    url = basis_url(root, facts.sha256)
    data = bases.get(url) or _present(url)
    sha256 = None if data is None else basis_sha256(data)
    if data is None or sha256 is None:
        try:
            bases[url] = basis_of(model.checkpoint, made.config.instrument, reach, facts.sha256)
        except ValueError as error:
            problem = f"model {model.name} gives nothing to fit with: {error}"
            raise RefusedError("--redshift", problem, "take another model") from error
        sha256 = basis_sha256(bases[url])
    return reach, str(sha256)


def restore_bases(root: str, made: Plan, files: dict[str, bytes]) -> None:
    """Make again what models of a plan are fitted with where ROOT lacks it, or has another; it is added to `files`.

    Raises ConfigError where this machine makes another: the last bits of a singular value decomposition depend on the
    processor.
    """
    for model in made.models:
        url = basis_url(root, model.sha256 or "")
        if model.basis is None or basis_sha256(files.get(url) or _present(url) or b"") == model.basis:
            continue
        reach = model.redshift_range or (0.0, 0.01)
        files[url] = basis_of(model.checkpoint, made.config.instrument, reach, model.sha256 or "")
        if basis_sha256(files[url]) != model.basis:
            problem = f"{url} is lost or damaged, and this machine makes other templates than the run began with"
            remedy = "bring the file back, or plan where it was made; else plan the targets again, in another ROOT"
            raise RefusedError("basis", problem, remedy)


def _density(root: str, model: ModelConfig, file: str, facts: Checkpoint, files: dict[str, bytes]) -> str:
    """Return the SHA-256 of a density's file. Raises ConfigError for one that is not of the model's latents."""
    shown = redacted(file)
    try:
        data = read_flow(file) if file in PUBLISHED_FLOWS else storage.read_bytes(file)
        density = density_of(data, shown)
    except FileNotFoundError as error:
        names = ", ".join(PUBLISHED_FLOWS)
        raise ConfigError("--density", shown, f"a file that exists, or one of {names}") from error
    except WeightsError as error:
        raise RefusedError("--density", f"--density cannot be used: {error}") from error
    remedy = f"train one for it: spender-pipeline density ROOT --model {model.name} --output FILE"
    if density.n_latent != facts.n_latent:
        found = f"{shown}, of {density.n_latent} latents"
        raise ConfigError("--density", found, f"a density of the {facts.n_latent} latents of {model.name}", remedy)
    if belongs_to(density, facts.sha256) is False:
        said = density.model or f"another checkpoint, SHA-256 {str(density.model_sha256)[:12]}..."
        expected = f"a density of the latents of {model.name}, SHA-256 {facts.sha256[:12]}..."
        raise ConfigError("--density", f"{shown}, of the latents of {said}", expected, remedy)
    sha256 = hashlib.sha256(data).hexdigest()
    files[density_file_url(root, sha256)] = data
    return sha256


def _present(url: str) -> bytes | None:
    """Read a file; None where there is none."""
    try:
        return storage.read_bytes(url)
    except (FileNotFoundError, NotADirectoryError):
        return None
