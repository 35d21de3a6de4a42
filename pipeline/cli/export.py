"""`export`: the results of a run as one table."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import ExitStatus, redacted


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="model of the plan (default: its only one)")
    parser.add_argument("--output", metavar="FILE", required=True, help="file to write: .parquet, .fits or .csv")
    parser.add_argument("--columns", metavar="A,B", help="columns of the table (default: all)")
    parser.add_argument("--where", metavar="EXPR", help="condition on the columns, such as 'z < 0.1 and quality == 0'")
    parser.add_argument("--good", action="store_true", help="only the recommended selection")


def _execute(args: Namespace) -> int:
    from pipeline.results.tables.export import export

    done = export(root_of(args), args.output, model=args.model, columns=args.columns, where=args.where, good=args.good)
    print(f"{done.rows} rows: {redacted(args.output)}")
    if not done.rows_not_done:
        return ExitStatus.DONE
    print(f"left out: {done.rows_not_done} spectra that are not encoded yet; status says why", file=sys.stderr)
    return ExitStatus.SOME_FAILED


EXPORT = Verb("export", "write the results of a model as one table: Parquet, FITS or CSV", _execute, _add_options)
