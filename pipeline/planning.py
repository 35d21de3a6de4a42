"""What the `plan` command does: options or a file -> a configuration -> a plan and its targets, in ROOT."""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import layouts, runs, storage
from pipeline import targets as target_table
from pipeline.config import ConfigError, ModelConfig, SurveyConfig, model_name, read_toml, release_of, require_place
from pipeline.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_MODEL = "sdss-demo"

_NAMED_MODEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)\Z")


def plan(args: Namespace) -> int:
    """Make the plan of a run, or add models to the one that is there."""
    root = storage.absolute(args.root)
    require_place("ROOT", root, with_query=False)
    existing = _existing_plan(root)
    config, models = _asked_for(args, existing)
    runs.use_storage(root, config)
    table = config.targets if existing is None or args.targets or args.config else runs.targets_url(root)
    made, frame = _make_plan(config, existing, table)
    _refuse_other(root, made, existing)
    for model in models or _default_models(made):
        made = made.with_model(_resolve(model, made))
    storage.require_writable("ROOT", root)
    if existing is None:
        target_table.write_targets(frame, runs.targets_url(root), row_group=made.shard)
    # Written last: where there is a plan, its targets are there too.
    storage.write_bytes(storage.join(root, "plan.json"), made.to_json())
    names = ", ".join(model.name for model in made.models) or "none: only ingest can be run"
    print(f"{made.n_spectra} spectra in {len(made.chunks())} chunks of {made.shard}; models: {names}")
    print(f"next: spender-pipeline run {args.root}")
    return 0


def _existing_plan(root: str) -> Plan | None:
    if not storage.exists(storage.join(root, "plan.json")):
        return None
    return runs.read_plan(root)


def _release(source: str | None, config: SurveyConfig) -> str:
    """Read the release from a new source for an existing plan: a mirror whose URL names none is one of the same."""
    new = release_of(source) if source else ""
    if new and config.release and new != config.release:
        remedy = "files of another release are other spectra: plan it in another ROOT"
        raise ConfigError("source", source, f"a mirror of {config.release}, the release of the plan", remedy)
    return new or config.release


def _asked_for(args: Namespace, existing: Plan | None) -> tuple[SurveyConfig, list[ModelConfig]]:
    """Read the configuration from the options or the file; what is not said is as in the existing plan."""
    choices = {
        "targets": args.targets and storage.absolute(args.targets),
        "source": args.source and storage.absolute(args.source),
        "layout": args.layout,
        "instrument": args.instrument,
        "shard": args.shard,
        "chunk": args.chunk,
        "concurrency": args.concurrency,
        "max_requests": args.max_requests,
        "max_requests_per_second": args.max_requests_per_second,
        "cache": args.cache and storage.absolute(args.cache),
    }
    said = {key: value for key, value in choices.items() if value is not None}
    models = [_model(text, args) for text in args.model]
    for key in ("variables", "precision", "micro_batch"):
        if not models and getattr(args, key) is not None:
            option = f"--{key.replace('_', '-')}"
            raise ConfigError(option, getattr(args, key), "a --model beside it", "say which model it is for")
    if args.config is not None:
        if said or models:
            raise ConfigError("--config", args.config, "no other options beside it", "write them into the file")
        try:
            config, written = read_toml(storage.read_bytes(args.config).decode())
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise ConfigError("--config", args.config, "a TOML file that exists") from error
        cache = config.cache and storage.absolute(config.cache)
        config = replace(
            config, targets=storage.absolute(config.targets), source=storage.absolute(config.source), cache=cache
        )
        return config, [replace(model, checkpoint=_checkpoint(model.checkpoint)) for model in written]
    if existing is not None:
        release = _release(said.get("source"), existing.config)
        return replace(existing.config, **said, release=release), models
    for key in ("targets", "source"):
        if key not in said:
            raise ConfigError(f"--{key}", None, "a URL", f"a new plan needs it: {args.root} holds none yet")
    return SurveyConfig.from_dict(said), models


def _model(text: str, args: Namespace) -> ModelConfig:
    named = _NAMED_MODEL.match(text)
    name, checkpoint = (named[1], named[2]) if named else (model_name(text), text)
    asked = ModelConfig(
        name=name,
        checkpoint=_checkpoint(checkpoint),
        precision=args.precision or "float32",
        micro_batch=args.micro_batch,
    )
    return replace(asked, variables=tuple(args.variables.split(","))) if args.variables else asked


def _checkpoint(text: str) -> str:
    from spender_core.weights import PUBLISHED

    return text if text in PUBLISHED else storage.absolute(text)


def _default_models(made: Plan) -> list[ModelConfig]:
    from spender_core.weights import PUBLISHED

    if made.models or made.config.instrument != PUBLISHED[DEFAULT_MODEL].instrument:
        return []
    return [ModelConfig(name=DEFAULT_MODEL, checkpoint=DEFAULT_MODEL)]


def _resolve(model: ModelConfig, made: Plan) -> ModelConfig:
    from pipeline import worker

    facts = worker.inspect(model.checkpoint, made.config.instrument)
    return model.resolve(sha256=facts.sha256, n_latent=facts.n_latent, n_rest=len(facts.wave_rest))


def _make_plan(config: SurveyConfig, existing: Plan | None, table: str) -> tuple[Plan, pd.DataFrame]:
    """Plan a survey over a targets table, and give its rows; what the existing plan has chosen stays chosen."""
    frame = target_table.read_rows(table, 0, target_table.count(table))
    layouts.paths(config.layout, frame.drop_duplicates("run2d")["target"])  # refuses reductions that the layout lacks
    if existing is None:
        return Plan.create(config, frame), frame
    as_before = config
    if existing.n_spectra == len(frame) and config.shard is None and config.chunk is None:
        as_before = replace(config, shard=existing.shard, chunk=existing.chunk)
    return replace(Plan.create(as_before, frame), config=config, models=existing.models), frame


def _refuse_other(root: str, made: Plan, existing: Plan | None) -> None:
    differences = made.difference(existing) if existing is not None else []
    if differences:
        raise ConfigError("ROOT", root, f"a ROOT with the same plan ({'; '.join(differences)})", "choose another ROOT")
