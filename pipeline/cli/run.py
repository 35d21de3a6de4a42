"""`run`, `ingest`, `encode`, `finalize`: do what is pending."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, Namespace
from functools import partial

from pipeline import api
from pipeline.cli.arguments import Verb, add_accept_missing, add_rate, root_of
from pipeline.cli.status import print_status
from pipeline.errors import ChunksFailed, ConfigError, ExitStatus, Unfinished
from pipeline.planning.stages import STAGES
from pipeline.store.root import read_plan


def _add_options(parser: ArgumentParser, *, models: bool = True, fetches: bool = True) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", metavar="N", type=int, help="processes on this machine (default: one per core)")
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="address of the Dask scheduler to use, such as tcp://host:8786"
    )
    where.add_argument("--serial", action="store_true", help="run in this process, for debugging")
    parser.add_argument("--memory-limit", metavar="SIZE", help="memory of each worker on this machine, such as '4 GB'")
    text = "how long to wait for a scheduler, its first worker and, with --gpu, its first GPU (default 50 s in total)"
    parser.add_argument("--wait", metavar="SECONDS", type=_seconds, help=text)
    kinds = "kinds of workers that the cluster will have, CPU,GPU where both will come: then those only ingest and"
    parser.add_argument("--kinds", metavar="KINDS", help=f"{kinds} these only encode, whoever comes first")
    parser.add_argument("--only", metavar="IDS|A:B", help="do only the chunks of these targets, or of these rows")
    parser.add_argument(
        "--single-client",
        action="store_true",
        help="nobody else works on the run: for an object store without conditional writes",
    )
    if fetches:
        add_rate(parser)
        parser.add_argument(
            "--retry",
            metavar="BITS",
            help="do chunks again that have spectra with these quality bits: no_file, bad_file, wrong_file",
        )
        add_accept_missing(parser)
    if models:
        parser.add_argument("--model", metavar="NAME", action="append", help="only this model of the plan")
        parser.add_argument(
            "--gpu", action="store_true", help="require a GPU to encode (default: use one where available)"
        )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


_seconds.__name__ = "number of seconds"  # argparse names it in its message


def open_statements(url: str, shard: int) -> str:
    """Return the Python that opens a store in blocks of whole chunks of the run, one request each.

    By itself xarray makes a block of every 32 spectra. Coordinates, whose objects hold many chunks, stay as they are.
    """
    opened = f'd = xr.open_zarr("{url}", chunks=None)'
    return f"{opened}; d = d.assign(d.drop_vars(d.coords).chunk(spectrum={shard}))"


def _execute(args: Namespace) -> int:
    root = root_of(args)
    stages = STAGES if args.command == "run" else (args.command,)
    models = getattr(args, "model", None)
    try:
        api.run(
            root,
            stages=stages,
            models=models,
            workers=args.workers,
            scheduler=args.scheduler,
            serial=args.serial,
            memory_limit=args.memory_limit,
            wait=args.wait,
            gpu=getattr(args, "gpu", False),
            kinds=None if args.kinds is None else [kind.strip().upper() for kind in args.kinds.split(",")],
            max_requests_per_second=getattr(args, "max_requests_per_second", None),
            only=None if args.only is None else _only(args.only),
            retry=args.retry.split(",") if getattr(args, "retry", None) else (),
            accept_missing=getattr(args, "accept_missing", False),
            single_client=args.single_client,
        )
    except ChunksFailed as error:
        print(f"error: {error}:", file=sys.stderr)
        for task, reason in error.reasons.items():
            print(f"  {task}: {reason}", file=sys.stderr)
        print("run the same command again to retry them; finished chunks are not repeated", file=sys.stderr)
        return ExitStatus.SOME_FAILED
    except Unfinished as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitStatus.SOME_FAILED
    found = api.status(root)
    print_status(found.stages)
    planned = [each.model for each in found.stages if each.stage == "encode" and each.model is not None]
    if "encode" not in stages:
        return 0
    shard = read_plan(root).shard
    for name in models or planned:
        url = f"{args.root.rstrip('/')}/encodings/{name}.zarr"
        print(f"\nimport xarray as xr; {open_statements(url, shard)}")
    return 0


def _only(text: str) -> slice | list[str]:
    """Read what --only was given: rows A:B, or ids separated by commas."""
    rows = re.fullmatch(r"(-?\d*):(-?\d*)", text)
    if rows is None:
        return text.split(",")
    if "-" in text:
        raise ConfigError("--only", text, "rows that count from 0, such as 0:100")
    start, stop = (int(each) if each else None for each in rows.groups())
    return slice(start, stop)


def _finalize(args: Namespace) -> int:
    api.finalize(root_of(args))
    print(f"finalized {args.root}")
    return 0


RUN = Verb(
    "run",
    "ingest, encode and score what is pending, then finalize",
    _execute,
    _add_options,
    resumes=True,
    works=True,
)
INGEST = Verb(
    "ingest",
    "fetch and normalize the spectra of pending chunks",
    _execute,
    partial(_add_options, models=False),
    resumes=True,
    works=True,
)
ENCODE = Verb(
    "encode",
    "encode the spectra of pending chunks",
    _execute,
    partial(_add_options, fetches=False),
    resumes=True,
    works=True,
)
FINALIZE = Verb(
    "finalize", "check that all chunks are done, write provenance, consolidate metadata", _finalize, resumes=True
)
