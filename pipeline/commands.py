"""What each subcommand does; `cli` parses the options and turns errors into messages.

What computes is imported where it is used: torch and Dask take longer to start than `status` to answer.
"""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import __version__, dataset, layouts, runs, selection, storage
from pipeline import status as run_status
from pipeline import targets as target_table
from pipeline.cli import SOME_FAILED
from pipeline.config import ConfigError, ModelConfig, SurveyConfig, model_name, read_toml, release_of
from pipeline.journal import Journal
from pipeline.plan import Plan
from pipeline.progress import Counted, Several, make_progress
from pipeline.quality import Quality
from pipeline.sources import SourceError
from pipeline.status import StageStatus

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.executor import Summary

DEFAULT_MODEL = "sdss-demo"


_NAMED_MODEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)\Z")


def is_expected(error: Exception) -> bool:
    """Tell errors that a user meets and can mend, to be told in one line, from mistakes of ours."""
    from pipeline.finalize import Unfinished
    from spender_core.weights import WeightsError

    return isinstance(error, (ConfigError, WeightsError, SourceError, Unfinished, OSError))


def describe(error: BaseException) -> str:
    """Say what is wrong, in one line."""
    if isinstance(error, OSError):
        what = error.strerror or str(error) or "no further reason"
        where = f": {error.filename}" if error.filename else ""
        return f"{type(error).__name__}: {what}{where}".splitlines()[0]
    return " ".join(str(error).split())


def targets(args: Namespace) -> int:
    """Select targets from a catalog and write their table."""
    if _absolute(args.catalog) == _absolute(args.output):
        raise ConfigError("--output", args.output, "another file than the catalog", "the catalog would be lost")
    found = target_table.find_targets(args.catalog, selection.combined(args.select, args.where))
    target_table.write_targets(found.frame, args.output)
    print(f"{len(found.frame)} targets of {found.rows} rows written to {args.output}")
    for remark, count in found.remarks.items():
        print(f"{count} {remark}")
    return 0


def plan(args: Namespace) -> int:
    """Make the plan of a run, or add models to the one that is there."""
    root = _absolute(args.root)
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


def run(args: Namespace) -> int:
    """Do all that is pending, then finalize."""
    return _work(args, ("ingest", "encode"))


def ingest(args: Namespace) -> int:
    """Do the pending chunks of the ingest."""
    return _work(args, ("ingest",))


def encode(args: Namespace) -> int:
    """Do the pending chunks of the encodings."""
    return _work(args, ("encode",))


def close(args: Namespace) -> int:
    """Check that all is done and complete the stores."""
    from pipeline import finalize

    root = _absolute(args.root)
    finalize.finalize(root, runs.read_plan(root))
    print(f"finalized {args.root}")
    return 0


def status(args: Namespace) -> int:
    """Show how far a run is."""
    root = _absolute(args.root)
    made = runs.read_plan(root)
    found = run_status.read_status(root, made)
    if args.json:
        values = {"root": args.root, "spectra": made.n_spectra, "stages": [each.to_dict() for each in found]}
        print(json.dumps(values, indent=1))
    else:
        _print_status(found)
    return 0


def verify(args: Namespace) -> int:
    """Compare every chunk with its marker."""
    from pipeline import finalize

    root = _absolute(args.root)
    made = runs.read_plan(root)
    problems = finalize.verify(root, made)
    for problem in problems:
        print(problem)
    if problems and args.repair:
        removed = finalize.repair(root, made)
        print(f"{removed} markers removed: spender-pipeline run {args.root} does these chunks again", file=sys.stderr)
        return SOME_FAILED
    if problems:
        remedy = f"to do damaged chunks again: spender-pipeline verify {args.root} --repair, then run"
        print(f"error: {len(problems)} problems found in {args.root}; {remedy}", file=sys.stderr)
        return SOME_FAILED
    print(f"verified: every chunk of {args.root} is as its marker says")
    return 0


def plot(args: Namespace) -> int:
    """Draw one spectrum."""
    from pipeline import report as figures
    from pipeline import results

    opened = results.open_run(_absolute(args.root))
    row = opened.find(args.id) if args.row is None else args.row
    if not 0 <= row < opened.plan.n_spectra:
        raise ConfigError("--row", row, f"0 to {opened.plan.n_spectra - 1}")
    figures.plot_spectrum(opened, row, args.output, model=args.model)
    print(args.output)
    return 0


def report(args: Namespace) -> int:
    """Write the report of a run."""
    from pipeline import page

    page.write_page(_absolute(args.root), args.output)
    print(args.output)
    return 0


def train(args: Namespace) -> int:
    """Train a model on the spectra of runs."""
    from pipeline import train as training
    from spender_core.training import Settings

    settings = Settings(args.epochs, args.batch_size, args.learning_rate, args.seed)
    roots = [_absolute(root) for root in args.roots]
    n_spectra, history = training.train(roots, args.output, settings, n_latent=args.latents, start=args.start)
    for split, epochs in history.items():
        told = ", ".join(f"{name} {loss:.4g}" for name, loss in epochs[-1].items()) if epochs else ""
        print(f"{split} loss after {len(epochs)} epochs: {told or 'no spectra'}")
    print(f"trained on {n_spectra} spectra: {args.output}")
    print(f"next: spender-pipeline plan {args.roots[0]} --model {args.output}")
    return 0


def _absolute(url: str) -> str:
    """Make a local path absolute: workers elsewhere have another working folder."""
    path = storage.local_path(url)
    return url if path is None else os.path.abspath(path)


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
        "targets": args.targets and _absolute(args.targets),
        "source": args.source and _absolute(args.source),
        "layout": args.layout,
        "instrument": args.instrument,
        "shard": args.shard,
        "chunk": args.chunk,
        "concurrency": args.concurrency,
        "max_requests": args.max_requests,
        "max_requests_per_second": args.max_requests_per_second,
        "cache": args.cache and _absolute(args.cache),
    }
    said = {key: value for key, value in choices.items() if value is not None}
    models = [_model(text, args) for text in args.model]
    if args.config is not None:
        if said or models:
            raise ConfigError("--config", args.config, "no other options beside it", "write them into the file")
        try:
            config, written = read_toml(storage.read_bytes(args.config).decode())
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise ConfigError("--config", args.config, "a TOML file that exists") from error
        cache = config.cache and _absolute(config.cache)
        config = replace(config, targets=_absolute(config.targets), source=_absolute(config.source), cache=cache)
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

    return text if text in PUBLISHED else _absolute(text)


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


def _work(args: Namespace, stage_names: Sequence[str]) -> int:
    from pipeline import cluster, executor, finalize, preflight

    root = _absolute(args.root)
    made = runs.read_plan(root)
    if getattr(args, "max_requests_per_second", None) is not None:
        made = replace(made, config=replace(made.config, max_requests_per_second=args.max_requests_per_second))
    models = [model.name for model in made.models]
    if getattr(args, "model", None):
        models = [made.model(name).name for name in args.model]
    kinds = executor.pending_kinds(root, made, stage_names, models)
    if kinds:
        storage.require_writable("ROOT", root)  # before anything is started for it
    needed = preflight.memory_needed(made, kinds)
    asked = {"command": args.command, "version": __version__, "stages": list(stage_names), "models": models}
    # Nothing pending: no worker processes for it.
    serial = args.serial or not kinds
    if args.wait is not None and not serial:
        print(f"waiting up to {args.wait:.0f} s for the cluster", file=sys.stderr)
    with cluster.connect(
        workers=None if serial else args.workers,
        scheduler=None if serial else args.scheduler,
        serial=serial,
        memory_limit=args.memory_limit,
        memory_needed=int(needed / preflight.MEMORY_FRACTION),
        memory_to_overlap=int(preflight.memory_at_once(needed, cluster.THREADS) / preflight.MEMORY_FRACTION),
        wait=args.wait,
    ) as client:
        counted = [] if client is None else [Counted(client.run_on_scheduler)]
        progress = Several(Journal(root, asked), make_progress(), *counted)
        gpu = getattr(args, "gpu", False)
        wait = preflight.GPU_TIMEOUT if args.wait is None else args.wait
        summary = executor.run(root, made, client, stage_names, models, progress, gpu=gpu, wait=wait)
    if summary.failed:
        _print_failures(summary)
        return SOME_FAILED
    if len(stage_names) > 1 and set(models) == {model.name for model in made.models}:
        finalize.finalize(root, made)
    _print_status(run_status.read_status(root, made))
    for name in models if "encode" in stage_names else ():
        print(f'\nxarray.open_zarr("{dataset.encodings_url(args.root, name)}")')
    return 0


def _print_failures(summary: Summary) -> None:
    print(f"error: {len(summary.failed)} of {summary.total} chunks failed:", file=sys.stderr)
    for outcome in summary.failed:
        print(f"  {outcome.task}: {outcome.reason}", file=sys.stderr)
    print("the same command resumes with these; nothing that is done is repeated", file=sys.stderr)


def _print_status(found: Sequence[StageStatus]) -> None:
    """Print a table of the stages, then the spectra by quality bit of each."""
    header = ("stage", "model", "chunks", "done", "pending", "failed", "spectra", "with latents", "no remarks")
    rows = [header, *(_status_row(each) for each in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
    for each in found:
        for index, reason in each.failed.items():
            print(f"failed: {_name(each)} {index:06d}: {reason}")
    for each in found:
        if each.quality:
            print(f"\nspectra by quality bit, {_name(each)}:")
            for name, count in each.quality.items():
                print(f"  {name.lower():<18}{count:>10}{'   no latents' if Quality[name] & Quality.UNUSABLE else ''}")
    for each in found:
        if each.rate is not None and each.eta is not None:
            print(f"\n{_name(each)}: {each.rate:.1f} spectra/s, {_duration(each.eta)} left")


def _status_row(each: StageStatus) -> tuple[str, ...]:
    latents = "" if each.model is None else str(each.usable)
    counts = (each.chunks, each.done, each.pending, len(each.failed), each.spectra)
    return (each.stage, each.model or "", *(str(count) for count in counts), latents, str(each.good))


def _name(each: StageStatus) -> str:
    return f"{each.stage} {each.model}" if each.model else each.stage


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "targets": targets,
    "plan": plan,
    "run": run,
    "ingest": ingest,
    "encode": encode,
    "finalize": close,
    "status": status,
    "verify": verify,
    "plot": plot,
    "report": report,
    "train": train,
}
