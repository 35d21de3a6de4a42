"""`plan`: define what a run does, or add a model to it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipeline import api
from pipeline.cli.arguments import Verb, add_rate

_SURVEY_OPTIONS = (
    ("--targets", "URL", "targets table, as written by the targets command"),
    (
        "--source",
        "URL",
        "release root: the folder, on disk or at any fsspec URL, that holds sdss/ and eboss/ (SDSS-V: spectro/)",
    ),
    ("--survey", "NAME", "survey of the targets: sdss (default)"),
    ("--layout", "NAME", "which of the source's files to read: spec-lite (default), spec or spPlate"),
    ("--instrument", "NAME", "wavelength grid of the spectra: sdss (default) or boss"),
)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--config", metavar="URL", help="TOML file with the same options")
    for option, metavar, text in _SURVEY_OPTIONS:
        parser.add_argument(option, metavar=metavar, help=text)
    parser.add_argument(
        "--model",
        metavar="[NAME=]M",
        action="append",
        default=[],
        help="checkpoint: a file, a URL or a published name; NAME labels it; may be given more than once "
        "(default for new plans on the sdss grid: sdss-demo)",
    )
    parser.add_argument(
        "--variables", metavar="A,B", help="outputs to store: latents,restframe,reconstruction,chi2,..."
    )
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), help="numerical precision of the model")
    parser.add_argument("--micro-batch", metavar="N", type=int, help="spectra per forward pass")
    parser.add_argument("--shard", metavar="N", type=int, help="spectra per task, at most 4096")
    parser.add_argument(
        "--chunk", metavar="N", type=int, help="spectra per Zarr chunk, the unit of reading; a divisor of --shard"
    )
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=int,
        help="files that a task fetches at the same time (default 64; 8 from a disk)",
    )
    parser.add_argument(
        "--max-requests", metavar="N", type=int, help="files that the whole run fetches at the same time (default 256)"
    )
    add_rate(parser)
    parser.add_argument(
        "--cache", metavar="URL", help="folder or bucket that keeps fetched files; it is read before the source"
    )


def _execute(args: Namespace) -> int:
    made = api.plan(
        args.root,
        targets=args.targets,
        source=args.source,
        models=args.model,
        config=args.config,
        survey=args.survey,
        layout=args.layout,
        instrument=args.instrument,
        variables=args.variables.split(",") if args.variables else None,
        precision=args.precision,
        micro_batch=args.micro_batch,
        shard=args.shard,
        chunk=args.chunk,
        concurrency=args.concurrency,
        max_requests=args.max_requests,
        max_requests_per_second=args.max_requests_per_second,
        cache=args.cache,
    )
    names = ", ".join(model.name for model in made.models) or "none: only ingest can be run"
    print(f"{made.n_spectra} spectra in {len(made.shards())} chunks of {made.shard}; models: {names}")
    print(f"next: spender-pipeline run {args.root}")
    return 0


PLAN = Verb("plan", "define what a run does, or add a model to it", _execute, _add_options)
