"""Make a plan and write ROOT: settings or a file -> a configuration -> a plan and its targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, TypeAlias

import pandas as pd

from pipeline import storage
from pipeline.archive.answers import require_server
from pipeline.catalog import targets as target_table
from pipeline.catalog.kept import kept_columns
from pipeline.catalog.recognition import survey_of
from pipeline.catalog.targets import Selection
from pipeline.compute import growth, job
from pipeline.compute.choice import (
    DEFAULT_MODEL,
    ModelChoice,
    default_models,
    named,
    placed,
    resolved,
    restore_bases,
    with_outputs_of,
)
from pipeline.config import SurveyConfig, release_of
from pipeline.errors import ConfigError, RefusedError, require_place
from pipeline.planning.estimate import Estimate, estimate, require_space
from pipeline.planning.model import ModelConfig, read_toml, with_defaults
from pipeline.planning.partition import Shard, choose_shard
from pipeline.planning.plan import Plan, targets_sha256
from pipeline.planning.redshift import CATALOG
from pipeline.planning.stages import STAGES, Kind
from pipeline.storage import Place
from pipeline.store import generations
from pipeline.store.arrays import density_url, encodings_url
from pipeline.store.clients import PLANNING, planning, require_writable
from pipeline.store.root import density_ledger, encode_ledger, index_url, read_plan, targets_url, use_storage
from pipeline.surveys.columns import Coordinate
from pipeline.surveys.registry import get_survey

Targets: TypeAlias = Selection | pd.DataFrame | Place
"""Targets in memory, or the Parquet file of them."""

_ROWS = 2**20  # of targets read at once


def plan(
    root: str,
    *,
    targets: Targets | Sequence[Targets] | None,
    settings: Mapping[str, Any],
    models: Sequence[ModelChoice] = (),
    config: str | None = None,
    variables: Sequence[str] | None = None,
    precision: str | None = None,
    micro_batch: int | None = None,
    redshift: str | None = None,
    redshift_window: float | None = None,
    density: str | None = None,
    keep: Sequence[str] = (),
    extend: bool = False,
    single_client: bool = False,
) -> Plan:
    """Make the plan of a run, or add models or targets to the one that is there, and write it into ROOT.

    settings: of SurveyConfig, all but the targets; those left out are as in the existing plan. targets: several
    tables are those that an existing plan was made and extended with, to restore ROOT's own. Others as in
    `pipeline.plan`. Returns the plan. Raises ConfigError, WeightsError.
    """
    require_place("ROOT", root, with_query=False)
    existing = _existing_plan(root)
    tables = _tables(root, targets, existing, extend)
    targets = tables[0] if tables else None
    if extend:
        _require_extendable(root, existing, targets, config)
    if existing is not None and settings.get("expect") not in (None, existing.config.expect):
        problem = f"the chunks of {root} are sized already: {existing.shard} spectra each"
        raise RefusedError("--expect", problem, "leave --expect out, or plan all targets in another ROOT")
    wishes = {
        "variables": variables,
        "precision": precision,
        "micro_batch": micro_batch,
        "redshift": redshift,
        "redshift_window": redshift_window,
        "density": density,
    }
    wished = {key: value for key, value in wishes.items() if value is not None}
    asked = [named(choice, wished, existing) for choice in models]
    for key, value in wishes.items():
        if not models and value is not None:
            option = f"--{key.replace('_', '-')}"
            remedy = f"name the model that it applies to, such as --model {DEFAULT_MODEL}"
            raise ConfigError(option, value, "a --model with it", remedy)
    if config is not None:
        survey_config, asked = _from_file(config, beside=bool(settings or models or targets is not None))
    else:
        survey_config = _survey_config(root, targets, settings, existing)
    use_storage(root, survey_config)
    present, problem = (None, "") if existing is None else generations.read(root, existing, kept=True)
    if existing is not None and present is None and (extend or (targets is None and config is None)):
        raise RefusedError("targets.parquet", problem, generations.remedy(root, existing))
    if present is not None and existing is not None and targets is None and config is None:
        frame, kept = present, dict(existing.kept)
    else:
        frame, kept = _table(survey_config.targets if targets is None else targets, survey_config.survey, keep)
    if existing is not None and (present is None or len(tables) > 1):
        frame = generations.restored(root, existing, [frame, *_others(root, tables[1:], existing, keep)])
    _require_paths(survey_config, frame)
    if existing is None:
        made = Plan.create(survey_config, frame, kept)
    else:
        made = _as_existing(root, survey_config, existing, kept)
        if present is not None and extend:
            frame = _all_rows(present, existing, frame)
            made = growth.extended(made, frame)
        elif present is not None:
            _require_same_targets(root, existing, present, frame)
    files: dict[str, bytes] = {}
    if variables is None:
        asked = [with_outputs_of(existing, model) for model in asked]
    for model in asked or (default_models(made) if existing is None else []):
        made = made.with_model(resolved(root, model, made, files))
    restore_bases(root, made, files)
    replaced = [] if existing is None else _replaced_densities(existing, made)
    require_writable(root)
    require_space(root, estimate_of(root, made, frame))
    grows = existing is not None and made.n_spectra > existing.n_spectra
    command = growth.COMMAND if grows else PLANNING
    with planning(root, command, single_client=single_client or bool(replaced)) as presence:
        _require_unchanged(root, existing)
        if present is None:
            target_table.write_targets(frame, targets_url(root), made.shard, made.survey, made.kept)
        elif grows and existing is not None:
            growth.require_idle(root, existing, presence.id)
            growth.prepare(root, made, frame)
        for url, data in files.items():
            storage.write_bytes(url, data)
        for name in replaced:
            _forget_density(root, existing, name)
        # Written last: where there is a plan, its targets are there too.
        storage.write_bytes(storage.join(root, "plan.json"), made.to_json())
    return made


def estimate_of(root: str, plan: Plan, frame: pd.DataFrame | None = None) -> Estimate:
    """Return what the pending chunks of a plan will take. frame: its targets; None: those of ROOT."""
    found: dict[Kind, list[Shard]] = {}
    for task in job.pending(root, plan, STAGES, [model.name for model in plan.models]).tasks:
        found.setdefault(task.kind, []).append(task.shard)

    def keys(shard: Shard) -> list[str]:
        if frame is not None:
            return list(frame["target"].iloc[shard.start : shard.stop])
        return list(target_table.read_rows(targets_url(root), shard.start, shard.stop, plan.survey)["target"])

    return estimate(plan, keys, found)


def out_of_domain(root: str) -> dict[str, int]:
    """Return how many targets of a run lie outside of the domain of each of its models that have one.

    By the catalog: of models that do not take its redshifts it is not known before they have run.
    """
    plan = read_plan(root)
    judged = [model for model in plan.models if model.domain is not None and model.redshift == CATALOG]
    found = {model.name: 0 for model in judged}
    for start in range(0, plan.n_spectra if found else 0, _ROWS):
        rows = target_table.read_rows(targets_url(root), start, min(start + _ROWS, plan.n_spectra), plan.survey)
        for model in judged:
            if model.domain is not None:
                found[model.name] += int(model.domain.outside(rows).sum())
    return found


def drop_model(root: str, name: str) -> Plan:
    """Take a model out of the plan of a run, and remove what it has made: its encodings and their markers.

    Raises ConfigError for a model that the plan does not have, and while a client works on the run.
    """
    existing = read_plan(root)
    existing.require_current()
    made = existing.without_model(name)
    with planning(root, f"{PLANNING} --drop-model", single_client=True):  # it goes beside nobody
        _require_unchanged(root, existing)
        _forget_density(root, existing, name)
        # Markers first, and the plan last: what remains of it when this is interrupted is never taken for done.
        for url in (encode_ledger(root, existing, name).folder, encodings_url(root, name), index_url(root, name)):
            storage.remove(url, recursive=True)
        storage.write_bytes(storage.join(root, "plan.json"), made.to_json())
    return made


def _replaced_densities(existing: Plan, made: Plan) -> list[str]:
    """Return the models whose scores are of another density than the new plan's."""
    scored = [model for model in existing.models if model.density is not None]
    return [each.name for each in scored if made.model(each.name).density_sha256 != each.density_sha256]


def _forget_density(root: str, plan: Plan | None, name: str) -> None:
    """Remove the scores of a model, markers first, if it has any."""
    if plan is not None and plan.model(name).density is not None:
        for url in (density_ledger(root, plan, name).folder, density_url(root, name)):
            storage.remove(url, recursive=True)


def _existing_plan(root: str) -> Plan | None:
    if not storage.exists(storage.join(root, "plan.json")):
        return None
    existing = read_plan(root)
    existing.require_current()
    return existing


def _require_extendable(root: str, existing: Plan | None, targets: Targets | None, config: str | None) -> None:
    if existing is None:
        raise RefusedError("--extend", f"{root} has no plan yet", "leave --extend out to make one")
    if config is not None:
        raise RefusedError("--extend", "--extend does not go with --config", "pass the targets with --targets FILE")
    if targets is None:
        raise RefusedError("--extend", "there are no targets to add", "pass them with --targets FILE")


def _require_unchanged(root: str, existing: Plan | None) -> None:
    """Refuse to write a plan made from one that another client has changed meanwhile. Raises ConfigError."""
    if _existing_plan(root) != existing:
        problem = f"another client has changed the plan of {root} meanwhile"
        raise RefusedError("plan.json", problem, "start the same command again")


def _from_file(url: str, beside: bool) -> tuple[SurveyConfig, list[ModelConfig]]:
    """Read a survey file. beside: whether other settings were given as well."""
    if beside:
        raise RefusedError("--config", "--config takes no other options", f"write them into {url}")
    try:
        config, written = read_toml(storage.read_bytes(url).decode())
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ConfigError("--config", url, "a TOML file that exists") from error
    config = replace(
        config,
        targets=storage.place(config.targets, "targets"),
        source=storage.place(config.source, "source"),
        cache=config.cache and storage.place(config.cache, "cache"),
    )
    return config, [placed(model) for model in written]


def _survey_config(
    root: str, targets: Targets | None, settings: Mapping[str, Any], existing: Plan | None
) -> SurveyConfig:
    """Build the configuration from settings; settings not given are taken from the existing plan."""
    said = dict(settings)
    if isinstance(targets, str | PathLike):
        said["targets"] = storage.place(targets, "--targets")
    elif targets is not None:
        said["targets"] = targets_url(root)
    if existing is not None:
        release = _release(said.get("source"), existing.config)
        return SurveyConfig.from_dict({**existing.config.to_dict(), **said, "release": release})
    for key in ("targets", "source"):
        if key not in said:
            raise ConfigError(f"--{key}", None, "a URL", f"a new plan needs it: {root} has no plan yet")
    if "survey" not in said and targets is not None:
        said["survey"] = _survey_of(targets)
    return SurveyConfig.from_dict(with_defaults(said))


def _survey_of(targets: Targets) -> str:
    """Return the name of the survey that a table of targets is of, by its columns."""
    if isinstance(targets, Selection):
        return survey_of(targets.frame.columns).name
    if isinstance(targets, pd.DataFrame):
        return survey_of(targets.columns).name
    url = storage.place(targets, "--targets")
    require_server(url)
    return survey_of(target_table.columns_of(url)).name


def _release(source: str | None, config: SurveyConfig) -> str:
    """Read the release from a new source for an existing plan: a mirror whose URL names none has the plan's release."""
    new = release_of(source) if source else ""
    if new and config.release and new != config.release:
        remedy = "another release has other spectra: plan it in another ROOT"
        raise ConfigError("source", source, f"a mirror of {config.release}, the release of the plan", remedy)
    return new or config.release


def _table(targets: Targets, survey: str, keep: Sequence[str]) -> tuple[pd.DataFrame, dict[str, Coordinate]]:
    """Return the rows of a table of targets, and its further columns."""
    known = get_survey(survey)
    if isinstance(targets, Selection):
        kept = dict(targets.kept)
        return target_table.checked_frame(targets.frame, known, kept), kept
    if isinstance(targets, pd.DataFrame):
        frame, kept = kept_columns(targets, keep, known)
        return target_table.checked_frame(frame, known, kept), kept
    url = storage.place(targets, "--targets")
    require_server(url)
    frame, kept = target_table.read_table(url, known)
    lacking = [name for name in keep if name not in kept]
    if lacking:
        has = ", ".join(kept) or "it has none"
        raise ConfigError("keep", lacking[0], f"a further column of {url}: {has}")
    return frame, kept


def _tables(
    root: str, targets: Targets | Sequence[Targets] | None, existing: Plan | None, extend: bool
) -> Sequence[Targets]:
    """Return the tables of targets that were given; refuse several, but for restoring those of a plan."""
    if targets is None:
        return ()
    if isinstance(targets, str | PathLike | Selection | pd.DataFrame):
        return (targets,)
    if len(targets) > 1 and (existing is None or extend):
        problem = f"{len(targets)} tables of targets are given"
        raise RefusedError("--targets", problem, f"plan {root} with one of them, then add each other with --extend")
    return targets


def _others(root: str, tables: Sequence[Targets], existing: Plan, keep: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Read the other tables that an existing plan was made and extended with."""
    for each in tables:
        frame, own = _table(each, existing.config.survey, keep)
        _require_kept(root, existing, own)
        yield frame


def _require_paths(config: SurveyConfig, frame: pd.DataFrame) -> None:
    """Refuse targets that the layout lacks. Raises ConfigError."""
    survey = get_survey(config.survey)
    survey.require(config)
    distinct = frame.drop_duplicates(list(survey.path_columns)) if survey.path_columns else frame.head(1)
    survey.paths(config.layout, distinct["target"].tolist())


def _as_existing(root: str, config: SurveyConfig, existing: Plan, kept: Mapping[str, Coordinate]) -> Plan:
    """Return the existing plan with a configuration's source and rates. Raises ConfigError where it is another plan.

    What the existing plan has chosen stays chosen.
    """
    if config.shard in (None, existing.shard):
        shard, chunk = existing.shard, config.chunk or existing.chunk
    else:
        shard, chunk = choose_shard(existing.n_spectra, config.shard, config.chunk)
    made = replace(existing, config=config, shard=shard, chunk=chunk)
    differences = made.difference(existing)
    if differences:
        raise ConfigError("ROOT", root, f"a ROOT with the same plan ({'; '.join(differences)})", "choose another ROOT")
    _require_kept(root, existing, kept)
    return made


def _require_kept(root: str, existing: Plan, kept: Mapping[str, Coordinate]) -> None:
    if dict(kept) != dict(existing.kept):
        problem = f"the targets have the further columns {_named(kept)}, those of {root} {_named(existing.kept)}"
        raise RefusedError("--targets", problem, "bring them to the same columns and types, or choose another ROOT")


def _require_same_targets(root: str, existing: Plan, rows: pd.DataFrame, frame: pd.DataFrame) -> None:
    """Refuse targets that are not those of the run, in any order. Raises ConfigError."""
    new = generations.new_rows(rows, frame, existing.survey, existing.kept)
    if len(new):
        problem = f"{root} lacks {len(new)} of these {len(frame)} targets"
        raise RefusedError("--targets", problem, "pass --extend to add them, or choose another ROOT")
    where = pd.Index(frame["target"]).get_indexer(pd.Index(rows["target"]))
    absent = int((where < 0).sum())
    remedy = "leave --targets out to change the rest of the plan"
    if absent:
        raise RefusedError("--targets", f"{root} has these {len(frame)} targets and {absent} more", remedy)
    if targets_sha256(frame.iloc[where], existing.survey.coordinates) != existing.targets_sha256:
        raise RefusedError("--targets", f"{root} has these targets with other coordinates", remedy)


def _all_rows(rows: pd.DataFrame, existing: Plan, more: pd.DataFrame) -> pd.DataFrame:
    """Return the targets of a run with the new ones behind them."""
    new = generations.new_rows(rows, more, existing.survey, existing.kept)
    return pd.concat([rows, new], ignore_index=True) if len(new) else rows


def _named(kept: Mapping[str, Coordinate]) -> str:
    return ", ".join(f"{name} ({each.dtype})" for name, each in kept.items()) or "none"
