"""`outliers` and `similar`: the rarest spectra of a run and why, and the spectra that are most like one."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import ExitStatus, printable, redacted

if TYPE_CHECKING:
    import pandas as pd


def _add_common(parser: ArgumentParser, n: int) -> None:
    parser.add_argument("-n", metavar="N", type=int, default=n, help=f"how many spectra ({n})")
    parser.add_argument("--model", metavar="NAME", help="model of the plan (default: its only one)")
    text = "file to write: a table, .csv, .ecsv, .parquet or .fits, or a contact sheet, .pdf or .png; may be repeated"
    parser.add_argument("--output", metavar="FILE", action="append", default=[], help=text)
    parser.add_argument("--remake", action="store_true", help="make the index of the latents again")


def _add_outliers(parser: ArgumentParser) -> None:
    _add_common(parser, 50)
    parser.add_argument("--where", metavar="EXPR", help="condition on the columns of the table, such as 'z < 0.1'")


def _add_similar(parser: ArgumentParser) -> None:
    text = "spectrum whose neighbors are looked for: SDSS: PLATE-MJD-FIBER or a SPECOBJID; DESI: a key or a TARGETID"
    parser.add_argument("--id", metavar="ID", required=True, help=text)
    _add_common(parser, 20)


def _outliers(args: Namespace) -> int:
    from pipeline.results.run import open_run

    run = open_run(root_of(args))
    if args.remake:
        run.index(args.model, remake=True)
    found = run.outliers(args.n, model=args.model, where=args.where, output=args.output)
    return _say(args, found, ["target", "z", "reason"])


def _similar(args: Namespace) -> int:
    from pipeline.results.run import open_run

    run = open_run(root_of(args))
    if args.remake:
        run.index(args.model, remake=True)
    found = run.similar(args.id, n=args.n, model=args.model, output=args.output)
    return _say(args, found, ["target", "distance", "z", "class", "quality_words"])


def _say(args: Namespace, found: pd.DataFrame, names: list[str]) -> int:
    """Print the files that were written, else the table; on stderr what it lacks."""
    for output in args.output:
        print(f"{len(found)} spectra: {redacted(output)}")
    if not args.output:
        shown = found[[name for name in names if name in found]]
        print(printable(shown.to_string(index=False, float_format=lambda value: f"{value:.4g}")))
    said = found.attrs
    lines = {
        "ranked by": said.get("ranked_by"),
        "distances in units of": said.get("distance_in"),
        "missing": said.get("missing"),
    }
    for key, text in lines.items():
        if text:
            print(f"{key}: {text}", file=sys.stderr)
    left_out = int(said.get("left_out", said.get("rows_not_finite", 0)))
    if left_out:
        print(f"left out: {left_out} spectra without latents", file=sys.stderr)
    if not int(said["rows_not_done"]):
        return ExitStatus.DONE
    print(f"left out: {said['rows_not_done']} spectra that are not encoded yet; status says why", file=sys.stderr)
    return ExitStatus.SOME_FAILED


OUTLIERS = Verb("outliers", "list the rarest spectra, and why they are rare", _outliers, _add_outliers)
SIMILAR = Verb("similar", "list the spectra that are most like one", _similar, _add_similar)
