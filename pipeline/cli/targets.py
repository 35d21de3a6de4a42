"""`targets`: select targets from a catalog into a table."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence

from pipeline import api
from pipeline.cli.arguments import Verb
from pipeline.errors import ConfigError, redacted

_REPORTS = 5.0
"""Seconds between two lines about an archive that is asked."""


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "catalog",
        metavar="CATALOG",
        help="specObj, spAll, DESI's zall-pix or redrock files, or any table of their spectra: FITS (file.fits[2] for "
        "an extension), CSV and its like, VOTable, ECSV, Parquet, a folder of Parquet files or a pattern, packed by "
        "gzip or bzip2 or not",
    )
    parser.add_argument("--where", metavar="EXPR", help="condition on its columns: CLASS == 'GALAXY' and 0 < Z < 0.5")
    parser.add_argument(
        "--select",
        metavar="NAME",
        action="append",
        default=[],
        help="a ready-made condition; SDSS: main-galaxies, all-galaxies, clean, sdss-v-galaxies; DESI: bgs, lrg, "
        "galaxies, stars, qso, clean; given more than once, all must hold",
    )
    parser.add_argument("--output", metavar="URL", required=True, help="table to write, Parquet")
    parser.add_argument(
        "--column",
        metavar="OUR=THEIRS",
        action="append",
        default=[],
        help="take one of our columns from this one of the catalog: z=redshift; may be given more than once",
    )
    parser.add_argument("--keep", metavar="A,B", help="further columns of the catalog, which become coordinates")
    parser.add_argument("--unique", action="store_true", help="of rows that repeat a spectrum take the first")
    parser.add_argument(
        "--skip-incomplete", action="store_true", help="leave out rows without the ids of a spectrum (-1 or missing)"
    )
    parser.add_argument(
        "--run2d", metavar="NAME", default="auto", help="reduction of targets that name none (default auto: find out)"
    )
    parser.add_argument(
        "--source",
        metavar="URL",
        help="release root that tells reductions and redshifts which the catalog lacks (default: the public one)",
    )
    parser.add_argument(
        "--layout", metavar="NAME", help="how the source keeps its files: spec-lite, spec, spPlate or desi-healpix"
    )
    parser.add_argument(
        "--no-fetch", action="store_true", help="ask no archive: RUN2D by rule alone, and z stays unknown"
    )
    parser.add_argument(
        "--survey", metavar="NAME", help="survey of the catalog: sdss or desi (default: by its columns)"
    )


def _execute(args: Namespace) -> int:
    found = api.select_targets(
        args.catalog,
        select=args.select,
        where=args.where,
        output=args.output,
        survey=args.survey,
        columns=_columns(args.column),
        keep=[name.strip() for name in (args.keep or "").split(",") if name.strip()],
        unique=args.unique,
        skip_incomplete=args.skip_incomplete,
        run2d=args.run2d,
        source=args.source,
        layout=args.layout,
        fetch=not args.no_fetch,
        progress=_progress(),
    )
    print(f"{len(found.frame)} targets, selected from {found.rows} rows, written to {redacted(args.output)}")
    for line in found.said:
        print(line)
    for remark, count in found.remarks.items():
        print(f"{count} {remark}")
    return 0


def _progress() -> Callable[[str, int, int], None]:
    """Return what reports on the archive's answers, on stderr: a line each so many seconds."""
    last = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _REPORTS or (done == total and last):
            last = now
            print(f"{done} of {total} {what}", file=sys.stderr, flush=True)

    return report


def _columns(given: Sequence[str]) -> dict[str, str]:
    """Return the columns that were chosen, ours -> theirs. Raises ConfigError."""
    found: dict[str, str] = {}
    for text in given:
        ours, equals, theirs = (part.strip() for part in text.partition("="))
        if not (ours and equals and theirs):
            raise ConfigError("--column", text, "OUR=THEIRS, such as z=redshift")
        if ours.lower() in found:
            raise ConfigError(
                "--column", text, f"one column for {ours.lower()}", f"{found[ours.lower()]} is given, too"
            )
        found[ours.lower()] = theirs
    return found


TARGETS = Verb("targets", "select targets from a catalog into a table", _execute, _add_options, has_root=False)
