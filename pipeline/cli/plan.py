"""`plan`: define what a run does, or add a model to it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from pipeline import api
from pipeline.cli.arguments import Verb, add_rate, place_of, root_of
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning.plan import Plan
from pipeline.planning.redshift import METHODS, WINDOW

_SURVEY_OPTIONS = (
    (
        "--source",
        "URL",
        "release root: the folder, on disk or at any fsspec URL, that holds sdss/ and eboss/ (SDSS-V, DESI: spectro/)",
    ),
    ("--survey", "NAME", "survey of the targets: sdss or desi (default: by their columns)"),
    (
        "--layout",
        "NAME",
        "which of the source's files to read; SDSS: spec-lite (default), spec or spPlate; DESI: desi-healpix",
    ),
    ("--instrument", "NAME", "wavelength grid of the spectra: sdss (default) or boss; DESI: desi"),
)


_COMMON = {"command", "root", "verbose", "drop_model"}


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--config", metavar="URL", help="TOML file with the same options")
    parser.add_argument(
        "--targets",
        metavar="URL",
        action="append",
        default=[],
        help="targets table, as written by the targets command; to restore a lost targets.parquet of a run that has "
        "grown: all of its tables",
    )
    for option, metavar, text in _SURVEY_OPTIONS:
        parser.add_argument(option, metavar=metavar, help=text)
    parser.add_argument(
        "--model",
        metavar="[NAME=]M",
        action="append",
        default=[],
        help="checkpoint: a file, a URL or a published name; NAME labels it; may be given more than once "
        "(default for new plans on the sdss grid: sdss-galaxies)",
    )
    parser.add_argument(
        "--variables", metavar="A,B", help="outputs to store: latents,restframe,reconstruction,chi2,..."
    )
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), help="numerical precision of the model")
    parser.add_argument("--micro-batch", metavar="N", type=int, help="spectra per forward pass")
    parser.add_argument(
        "--redshift",
        choices=METHODS,
        help="redshifts that the model takes: the catalog's (default), the best near it, or, blind, the best of all",
    )
    parser.add_argument(
        "--redshift-window",
        metavar="KM/S",
        type=float,
        help=f"how far from the catalog's redshift refine looks (default {WINDOW:.0f})",
    )
    text = "density of the models' latents, which says how rare each spectrum is: a file of the density command, a URL "
    text += "or a published name; of a model that is planned already, nothing else is done again"
    parser.add_argument("--density", metavar="FLOW", help=text)
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
    parser.add_argument(
        "--expect", metavar="N", type=int, help="spectra that the run will grow to; it sizes shards and chunks"
    )
    parser.add_argument("--extend", action="store_true", help="add those of --targets that the run does not have yet")
    parser.add_argument(
        "--single-client",
        action="store_true",
        help="nobody else works on the run: for an object store without conditional writes",
    )
    parser.add_argument("--drop-model", metavar="NAME", help="take a model out of the run, with all that it has made")
    add_rate(parser)
    parser.add_argument(
        "--cache", metavar="URL", help="folder or bucket that keeps fetched files; it is read before the source"
    )


def _execute(args: Namespace) -> int:
    root = root_of(args)
    for key, url in (("--cache", args.cache), *(("--targets", each) for each in args.targets)):
        if url is not None:
            place_of(key, url)
    if args.drop_model is not None:
        _require_alone(args)
        left = api.drop_model(root, args.drop_model)
        names = ", ".join(model.name for model in left.models) or "none"
        print(f"dropped {args.drop_model} and its encodings; models left: {names}")
        return 0
    from pipeline.catalog.targets import count
    from pipeline.planning.estimate import lines

    before = _spectra_of(root) if args.extend else 0
    made = api.plan(
        root,
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
        redshift=args.redshift,
        redshift_window=args.redshift_window,
        density=args.density,
        shard=args.shard,
        chunk=args.chunk,
        concurrency=args.concurrency,
        max_requests=args.max_requests,
        max_requests_per_second=args.max_requests_per_second,
        cache=args.cache,
        expect=args.expect,
        extend=args.extend,
        single_client=args.single_client,
    )
    if args.extend:
        added, given = made.n_spectra - before, count(args.targets[0])
        print(f"{added} targets added, {given - added} were in the run already")
    names = ", ".join(model.name for model in made.models) or "none: only ingest can be run"
    print(f"{made.n_spectra} spectra in {len(made.shards())} chunks of {made.shard}; models: {names}")
    for line in lines(api.estimate(root)):
        print(line)
    for line in [*_outside(root, made), *(_unchecked(root, made) if args.density else ())]:
        print(line)
    print(f"next: spender-pipeline run {args.root}")
    return 0


def _outside(root: str, made: Plan) -> Iterator[str]:
    """Say in a line for each model how many targets are not like what it was trained on."""
    from pipeline.compute.planner import out_of_domain

    for name, count in out_of_domain(root).items():
        if count:
            yield (
                f"warning: {count} of {made.n_spectra} targets lie outside of what {name} was trained on "
                f"({made.model(name).domain}); their encodings get the bit OUT_OF_DOMAIN"
            )


def _unchecked(root: str, made: Plan) -> Iterator[str]:
    """Say in a line for each model that its density does not tell whose latents it is of."""
    from pipeline.compute.choice import unchecked_densities

    for name in unchecked_densities(root):
        yield (
            f"warning: the density {made.model(name).density_label} does not say which checkpoint's latents it is of: "
            f"be sure that it is of {name}'s"
        )


def _require_alone(args: Namespace) -> None:
    """Refuse other options beside --drop-model, which would be ignored. Raises ConfigError."""
    others = {key: value for key, value in vars(args).items() if key not in _COMMON}
    given = [f"--{key.replace('_', '-')}" for key, value in others.items() if value not in (None, False, [])]
    if given:
        raise RefusedError("--drop-model", f"--drop-model does not go with {given[0]}", "plan once more for the rest")


def _spectra_of(root: str) -> int:
    """Return how many targets a run has, 0 where there is none."""
    from pipeline.store.root import read_plan

    try:
        return read_plan(root).n_spectra
    except ConfigError:
        return 0


PLAN = Verb("plan", "define what a run does, or add a model to it", _execute, _add_options)
