"""`targets`: select targets from a catalog into a table."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipeline import api
from pipeline.cli.arguments import Verb
from pipeline.errors import redacted


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("catalog", metavar="CATALOG", help="specObj or spAll file: FITS, CSV or Parquet")
    parser.add_argument("--where", metavar="EXPR", help="condition on its columns: CLASS == 'GALAXY' and 0 < Z < 0.5")
    parser.add_argument(
        "--select",
        metavar="NAME",
        action="append",
        default=[],
        help="a ready-made condition: main-galaxies, all-galaxies or clean; given more than once, all must hold",
    )
    parser.add_argument("--output", metavar="URL", required=True, help="table to write, Parquet")
    parser.add_argument("--survey", metavar="NAME", default="sdss", help="survey of the catalog (default sdss)")


def _execute(args: Namespace) -> int:
    found = api.select_targets(
        args.catalog, select=args.select, where=args.where, output=args.output, survey=args.survey
    )
    print(f"{len(found.frame)} targets, selected from {found.rows} rows, written to {redacted(args.output)}")
    for remark, count in found.remarks.items():
        print(f"{count} {remark}")
    return 0


TARGETS = Verb("targets", "select targets from a catalog into a table", _execute, _add_options, has_root=False)
