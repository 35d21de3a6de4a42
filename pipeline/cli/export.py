"""`export`: the results of a run as one table, or its spectra."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import ExitStatus, RefusedError, redacted

if TYPE_CHECKING:
    from pipeline.results.tables.export import Exported


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="model of the plan (default: its only one)")
    text = "file to write: .parquet, .fits, .csv, .ecsv or .hats; with --spectra: .fits, or a folder for a file each"
    parser.add_argument("--output", metavar="FILE", required=True, help=text)
    parser.add_argument("--columns", metavar="A,B", help="columns of the table (default: all)")
    parser.add_argument("--where", metavar="EXPR", help="condition on the columns, such as 'z < 0.1 and quality == 0'")
    parser.add_argument("--good", action="store_true", help="only the recommended selection")
    text = "write spectra, reconstructions and restframes as FITS instead of the table"
    parser.add_argument("--spectra", action="store_true", help=text)
    parser.add_argument("--ids", metavar="ID,ID", help="with --spectra: those of these ids")


def _execute(args: Namespace) -> int:
    done = _export_spectra(args) if args.spectra else _export_table(args)
    print(f"{done.rows} {'spectra' if args.spectra else 'rows'}: {redacted(args.output)}")
    if not done.rows_not_done:
        return ExitStatus.DONE
    print(f"left out: {done.rows_not_done} spectra that are not encoded yet; status says why", file=sys.stderr)
    return ExitStatus.SOME_FAILED


def _export_table(args: Namespace) -> Exported:
    from pipeline.results.tables.export import export

    if args.ids is not None:
        raise RefusedError("--ids", "--ids chooses spectra of --spectra", "choose rows of the table with --where")
    return export(root_of(args), args.output, model=args.model, columns=args.columns, where=args.where, good=args.good)


def _export_spectra(args: Namespace) -> Exported:
    from pipeline.results.tables.spectra import export_spectra

    if args.columns is not None:
        raise RefusedError("--columns", "--columns chooses columns of the table", "leave it out with --spectra")
    ids = None if args.ids is None else args.ids.split(",")
    return export_spectra(root_of(args), args.output, model=args.model, ids=ids, where=args.where, good=args.good)


EXPORT = Verb("export", "write the results of a model as one table, or spectra", _execute, _add_options)
