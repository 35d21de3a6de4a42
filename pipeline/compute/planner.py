"""Make a plan and write ROOT: settings or a file -> a configuration -> a plan and its targets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, TypeAlias

import pandas as pd

from pipeline import storage
from pipeline.catalog import targets as target_table
from pipeline.catalog.targets import Selection
from pipeline.config import SurveyConfig, release_of
from pipeline.errors import ConfigError, RefusedError, require_place
from pipeline.planning.model import ModelConfig, model_name, read_toml, with_defaults
from pipeline.planning.plan import Plan
from pipeline.storage import Place
from pipeline.store.checkpoint import inspect
from pipeline.store.root import read_plan, targets_url, use_storage
from pipeline.surveys.registry import get_survey
from spender_core.weights import PUBLISHED

DEFAULT_MODEL = "sdss-demo"

Targets: TypeAlias = Selection | pd.DataFrame | Place
"""Targets in memory, or the Parquet file of them."""

ModelChoice: TypeAlias = ModelConfig | Place
"""A model as it is asked for: a checkpoint, "NAME=checkpoint", or all of its settings."""

_NAMED_MODEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)\Z")


def plan(
    root: str,
    *,
    targets: Targets | None,
    settings: Mapping[str, Any],
    models: Sequence[ModelChoice] = (),
    config: str | None = None,
    variables: Sequence[str] | None = None,
    precision: str | None = None,
    micro_batch: int | None = None,
) -> Plan:
    """Make the plan of a run, or add models to the one that is there, and write it into ROOT.

    settings: of SurveyConfig, all but the targets; those that are left out are as in the existing plan. Others as in
    `pipeline.plan`. Returns the plan. Raises ConfigError, WeightsError.
    """
    require_place("ROOT", root, with_query=False)
    existing = _existing_plan(root)
    wishes = {"variables": variables, "precision": precision, "micro_batch": micro_batch}
    asked = [_model(choice, {key: value for key, value in wishes.items() if value is not None}) for choice in models]
    for key, value in wishes.items():
        if not models and value is not None:
            option = f"--{key.replace('_', '-')}"
            raise ConfigError(option, value, "a --model with it", "name the model that it applies to")
    if config is not None:
        survey_config, asked = _from_file(config, beside=bool(settings or models or targets is not None))
    else:
        survey_config = _survey_config(root, targets, settings, existing)
    use_storage(root, survey_config)
    frame = _rows(root, survey_config, targets, existing, is_new=existing is None or config is not None)
    made = _make_plan(survey_config, existing, frame)
    _refuse_other(root, made, existing)
    for model in asked or _default_models(made):
        made = made.with_model(_resolve(model, made))
    storage.require_writable("ROOT", root)
    if existing is None:
        target_table.write_targets(frame, targets_url(root), row_group=made.shard, survey=made.survey)
    # Written last: where there is a plan, its targets are there too.
    storage.write_bytes(storage.join(root, "plan.json"), made.to_json())
    return made


def _existing_plan(root: str) -> Plan | None:
    if not storage.exists(storage.join(root, "plan.json")):
        return None
    return read_plan(root)


def _from_file(url: str, beside: bool) -> tuple[SurveyConfig, list[ModelConfig]]:
    """Read a survey file. beside: whether other settings were given as well."""
    if beside:
        raise RefusedError("--config", "--config takes no other options", f"write them into {url}")
    try:
        config, written = read_toml(storage.read_bytes(url).decode())
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ConfigError("--config", url, "a TOML file that exists") from error
    cache = config.cache and storage.absolute(config.cache)
    config = replace(
        config, targets=storage.absolute(config.targets), source=storage.absolute(config.source), cache=cache
    )
    return config, [replace(model, checkpoint=_checkpoint(model.checkpoint)) for model in written]


def _survey_config(
    root: str, targets: Targets | None, settings: Mapping[str, Any], existing: Plan | None
) -> SurveyConfig:
    """Build the configuration from settings; settings not given are taken from the existing plan."""
    said = dict(settings)
    if isinstance(targets, str | PathLike):
        said["targets"] = storage.place(targets)
    elif targets is not None:
        said["targets"] = targets_url(root)
    if existing is not None:
        release = _release(said.get("source"), existing.config)
        return SurveyConfig.from_dict({**existing.config.to_dict(), **said, "release": release})
    for key in ("targets", "source"):
        if key not in said:
            raise ConfigError(f"--{key}", None, "a URL", f"a new plan needs it: {root} has no plan yet")
    return SurveyConfig.from_dict(with_defaults(said))


def _release(source: str | None, config: SurveyConfig) -> str:
    """Read the release from a new source for an existing plan: a mirror whose URL names none has the plan's release."""
    new = release_of(source) if source else ""
    if new and config.release and new != config.release:
        remedy = "another release has other spectra: plan it in another ROOT"
        raise ConfigError("source", source, f"a mirror of {config.release}, the release of the plan", remedy)
    return new or config.release


def _model(choice: ModelChoice, wishes: Mapping[str, Any]) -> ModelConfig:
    if isinstance(choice, ModelConfig):
        return replace(choice, checkpoint=_checkpoint(choice.checkpoint), **wishes)
    text = str(choice)
    named = _NAMED_MODEL.match(text)
    name, checkpoint = (named[1], named[2]) if named else (model_name(text), text)
    return ModelConfig(name=name, checkpoint=_checkpoint(checkpoint), **wishes)


def _checkpoint(text: str) -> str:
    return text if text in PUBLISHED else storage.absolute(text)


def _default_models(made: Plan) -> list[ModelConfig]:
    if made.models or made.config.instrument != PUBLISHED[DEFAULT_MODEL].instrument:
        return []
    return [ModelConfig(name=DEFAULT_MODEL, checkpoint=DEFAULT_MODEL)]


def _resolve(model: ModelConfig, made: Plan) -> ModelConfig:
    facts = inspect(model.checkpoint, made.config.instrument)
    return model.resolve(
        sha256=facts.sha256,
        n_latent=facts.n_latent,
        n_rest=len(facts.wave_rest),
        architecture=facts.architecture,
    )


def _rows(
    root: str, config: SurveyConfig, targets: Targets | None, existing: Plan | None, is_new: bool
) -> pd.DataFrame:
    """Give the targets' rows: those given, else those of the configuration, else ROOT's own."""
    if isinstance(targets, Selection):
        targets = targets.frame
    if isinstance(targets, pd.DataFrame):
        return target_table.checked_frame(targets, get_survey(config.survey))
    url = config.targets if is_new or targets is not None else targets_url(root)
    survey = get_survey(config.survey)
    return target_table.read_rows(url, 0, target_table.count(url), survey)


def _make_plan(config: SurveyConfig, existing: Plan | None, frame: pd.DataFrame) -> Plan:
    """Plan a survey over targets; what the existing plan has chosen stays chosen."""
    survey = get_survey(config.survey)
    survey.require(config)
    distinct = frame.drop_duplicates(list(survey.path_columns)) if survey.path_columns else frame.head(1)
    survey.paths(config.layout, distinct["target"].tolist())  # refuses what the layout lacks
    if existing is None:
        return Plan.create(config, frame)
    as_before = config
    if existing.n_spectra == len(frame) and config.shard in (None, existing.shard):
        as_before = replace(config, shard=existing.shard, chunk=config.chunk or existing.chunk)
    return replace(Plan.create(as_before, frame), config=config, models=existing.models)


def _refuse_other(root: str, made: Plan, existing: Plan | None) -> None:
    differences = made.difference(existing) if existing is not None else []
    if differences:
        raise ConfigError("ROOT", root, f"a ROOT with the same plan ({'; '.join(differences)})", "choose another ROOT")
