"""What each subcommand does; `cli` parses the options and turns errors into messages.

What computes is imported where it is used: torch and Dask take longer to start than `status` to answer.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pipeline import __version__, dataset, planning, runs, selection, storage
from pipeline import status as run_status
from pipeline import targets as target_table
from pipeline.cli import SOME_FAILED
from pipeline.config import ConfigError, redacted, require_place
from pipeline.journal import Journal
from pipeline.plan import Plan
from pipeline.progress import Counted, Several, make_progress
from pipeline.quality import Quality
from pipeline.sources import SourceError
from pipeline.status import StageStatus

if TYPE_CHECKING:
    from pipeline.executor import Summary


def is_expected(error: Exception) -> bool:
    """Tell errors that a user meets and can mend, to be told in one line, from mistakes of ours."""
    from pipeline.finalize import Unfinished
    from spender_core.weights import WeightsError

    ours = isinstance(error, (ConfigError, WeightsError, SourceError, Unfinished, OSError))
    return ours or storage.is_a_clients(error)


def describe(error: BaseException) -> str:
    """Say what is wrong, in one line, without the secrets that URLs may hold."""
    if isinstance(error, OSError):
        what = error.strerror or str(error) or "no further reason"
        where = f": {error.filename}" if error.filename else ""
        return redacted(f"{type(error).__name__}: {what}{where}".splitlines()[0])
    return redacted(" ".join(str(error).split()))


def _root(url: str) -> str:
    """Return a ROOT as given, or as an absolute path; refuse one with a secret in it before anybody opens it."""
    require_place("ROOT", url, with_query=False)
    return storage.absolute(url)


def targets(args: Namespace) -> int:
    """Select targets from a catalog and write their table."""
    if storage.absolute(args.catalog) == storage.absolute(args.output):
        raise ConfigError("--output", args.output, "another file than the catalog", "the catalog would be lost")
    found = target_table.find_targets(args.catalog, selection.combined(args.select, args.where))
    target_table.write_targets(found.frame, args.output)
    print(f"{len(found.frame)} targets of {found.rows} rows written to {redacted(args.output)}")
    for remark, count in found.remarks.items():
        print(f"{count} {remark}")
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

    root = _root(args.root)
    finalize.finalize(root, runs.read_plan(root))
    print(f"finalized {args.root}")
    return 0


def status(args: Namespace) -> int:
    """Show how far a run is."""
    root = _root(args.root)
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
    from pipeline import verification

    root = _root(args.root)
    made = runs.read_plan(root)
    found = verification.verify(root, made, repair=args.repair)
    for problem in found.problems:
        print(problem)
    if not found.problems:
        print(f"verified: every chunk of {args.root} is as its marker says")
        return 0
    counted = f"{len(found.problems)} problem{'s' if len(found.problems) > 1 else ''} found in {args.root}"
    if not args.repair:
        remedy = f"to mend what is damaged: spender-pipeline verify {args.root} --repair, then run"
        print(f"error: {counted}; {remedy}", file=sys.stderr)
        return SOME_FAILED
    mended = [f"coordinates and descriptions written again: {label}" for label in found.restored]
    mended += [f"{found.unmarked} markers removed"] if found.unmarked else []
    told = f"{'; '.join(mended) or 'nothing to repair'}; spender-pipeline run {args.root} does the rest"
    print(f"{counted}; {told}", file=sys.stderr)
    return SOME_FAILED


def plot(args: Namespace) -> int:
    """Draw one spectrum."""
    from pipeline import report as figures
    from pipeline import results

    opened = results.open_run(_root(args.root))
    row = opened.find(args.id) if args.row is None else args.row
    if not 0 <= row < opened.plan.n_spectra:
        raise ConfigError("--row", row, f"0 to {opened.plan.n_spectra - 1}")
    figures.plot_spectrum(opened, row, args.output, model=args.model)
    print(redacted(args.output))
    return 0


def report(args: Namespace) -> int:
    """Write the report of a run."""
    from pipeline import page

    page.write_page(_root(args.root), args.output)
    print(redacted(args.output))
    return 0


def train(args: Namespace) -> int:
    """Train a model on the spectra of runs."""
    from pipeline import train as training
    from spender_core.training import Settings

    settings = Settings(args.epochs, args.batch_size, args.learning_rate, args.seed)
    roots = [_root(root) for root in args.roots]
    n_spectra, history = training.train(roots, args.output, settings, n_latent=args.latents, start=args.start)
    for split, epochs in history.items():
        told = ", ".join(f"{name} {loss:.4g}" for name, loss in epochs[-1].items()) if epochs else ""
        print(f"{split} loss after {len(epochs)} epochs: {told or 'no spectra'}")
    print(f"trained on {n_spectra} spectra: {redacted(args.output)}")
    print(f"next: spender-pipeline plan {args.roots[0]} --model {args.output}")
    return 0


def _work(args: Namespace, stage_names: Sequence[str]) -> int:
    from pipeline import cluster, executor, finalize, job, preflight, scheduler

    root = _root(args.root)
    made = runs.read_plan(root)
    if getattr(args, "max_requests_per_second", None) is not None:
        made = replace(made, config=replace(made.config, max_requests_per_second=args.max_requests_per_second))
    models = [model.name for model in made.models]
    if getattr(args, "model", None):
        models = [made.model(name).name for name in args.model]
    pending = job.pending(root, made, stage_names, models)
    if pending.tasks:
        storage.require_writable("ROOT", root)  # before anything is started for it
    needed = preflight.memory_needed(made, pending.kinds)
    asked = {"command": args.command, "version": __version__, "stages": list(stage_names), "models": models}
    # Nothing pending: no worker processes for it.
    serial = args.serial or not pending.tasks
    if args.wait is not None and not serial:
        print(f"waiting up to {args.wait:.0f} s for the cluster", file=sys.stderr)
    began = time.monotonic()
    with cluster.connect(
        workers=None if serial else args.workers,
        scheduler=None if serial else args.scheduler,
        serial=serial,
        memory_limit=args.memory_limit,
        memory_needed=int(needed / preflight.MEMORY_FRACTION),
        memory_to_overlap=int(preflight.memory_at_once(needed, cluster.THREADS) / preflight.MEMORY_FRACTION),
        wait=args.wait,
    ) as client:
        counted = [] if client is None else [Counted(partial(scheduler.on_scheduler, client))]
        progress = Several(Journal(root, asked), make_progress(), *counted)
        gpu = getattr(args, "gpu", False)
        wait = max(0.0, (args.wait or preflight.PATIENCE) - (time.monotonic() - began))
        summary = executor.run(pending, client, progress, gpu=gpu, wait=wait)
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
            print(f"\n{_name(each)}: {each.rate:.1f} spectra/s, {run_status.duration(each.eta)} left")


def _status_row(each: StageStatus) -> tuple[str, ...]:
    latents = "" if each.model is None else str(each.usable)
    counts = (each.chunks, each.done, each.pending, len(each.failed), each.spectra)
    return (each.stage, each.model or "", *(str(count) for count in counts), latents, str(each.good))


def _name(each: StageStatus) -> str:
    return f"{each.stage} {each.model}" if each.model else each.stage


def submit(args: Namespace) -> int:
    """Have a run done on Kubernetes."""
    from pipeline import cluster, job, manifests, preflight

    root = _root(args.root)
    made = runs.read_plan(root)
    _refuse_places_on_this_machine(root, made)
    preflight.check_targets(root, made)
    rate = args.max_requests_per_second
    if rate is not None:
        replace(made.config, max_requests_per_second=rate)  # refuses what is no rate
    if not job.pending(root, made, ("ingest", "encode"), [model.name for model in made.models]).tasks:
        print(f"nothing is pending in {root}; to complete its stores: spender-pipeline run {root}")
        return 0
    request = manifests.Request(
        name=manifests.name_of(root),
        root=root,
        memory=preflight.worker_memory(made, cluster.THREADS),
        image=args.image,
        gpu_image=args.gpu_image,
        cpu_workers=args.cpu_workers,
        gpu_workers=args.gpu_workers,
        namespace=args.namespace,
        options=() if rate is None else ("--max-requests-per-second", str(rate)),
    )
    folder = manifests.base() if args.manifests is None else Path(args.manifests)
    documents = manifests.fill(manifests.render(folder), request)
    if args.no_operator:
        documents = manifests.without_operator(documents)
    if args.dry_run:
        print(manifests.to_yaml(documents), end="")
        return 0
    submission = _submission()
    api = submission.connect(manifests.namespace_of(documents))
    submitted = submission.Submitted(root, made, request.name, api)
    submission.create(submitted, documents)
    print(f"submitted as {request.name} in the namespace {api.namespace}")
    print(f"how far it is, from anywhere: spender-pipeline status {root}", flush=True)
    if args.detach:
        return 0
    try:
        ended: int = submission.follow(submitted)
    except BaseException:
        print(f"\nthe run goes on; to end it: {submitted.ending(not args.no_operator)}", file=sys.stderr)
        raise
    if not args.keep:
        try:
            submission.remove(submitted)
        except ConfigError as error:
            print(f"error: {describe(error)}\nto remove it: {submitted.ending(not args.no_operator)}", file=sys.stderr)
    if ended != 0:
        print(f"error: the run has ended with {ended}; submit it again to resume", file=sys.stderr)
    return ended


def _submission() -> ModuleType:
    try:
        from pipeline import submission
    except ModuleNotFoundError as error:
        remedy = "pip install 'spender-pipeline[kubernetes]'"
        raise ConfigError("kubernetes", f"no module {error.name}", "a client of Kubernetes", remedy) from error
    return submission


def _refuse_places_on_this_machine(root: str, made: Plan) -> None:
    """Refuse what pods do not reach."""
    from spender_core.weights import PUBLISHED

    config = made.config
    places = {"ROOT": root, "source": config.source, "cache": config.cache}
    places |= {
        f"the checkpoint of {model.name}": model.checkpoint
        for model in made.models
        if model.checkpoint not in PUBLISHED
    }
    for key, url in places.items():
        if url is not None and ("://" not in url or storage.local_path(url) is not None or url.startswith("memory:")):
            remedy = "pods have no part of this machine's disk: use a bucket, and plan with it"
            raise ConfigError(key, url, "a URL that every pod reaches, such as s3://bucket/dr17", remedy)


def scale(args: Namespace) -> int:
    """Change how many workers a submitted run has."""
    if args.cpu_workers is None and args.gpu_workers is None:
        raise ConfigError("--cpu-workers, --gpu-workers", None, "at least one of them", "say how many there shall be")
    submission = _submission()
    api = submission.connect(args.namespace)
    for group, (before, after) in submission.scale(args.root, api, args.cpu_workers, args.gpu_workers).items():
        print(f"{group}: {before} -> {after} workers")
    return 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "targets": targets,
    "plan": planning.plan,
    "run": run,
    "ingest": ingest,
    "encode": encode,
    "finalize": close,
    "status": status,
    "verify": verify,
    "plot": plot,
    "report": report,
    "train": train,
    "submit": submit,
    "scale": scale,
}
