"""`plot`: draw one spectrum with its reconstruction."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import ConfigError, redacted


def _add_options(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", metavar="ID", help="PLATE-MJD-FIBER, RUN2D/PLATE-MJD-FIBER or a SPECOBJID")
    which.add_argument("--row", metavar="N", type=int, help="row number of the spectrum in the run, from 0")
    parser.add_argument("--model", metavar="NAME", help="model of the plan (default: its only one)")
    parser.add_argument("--attention", action="store_true", help="also show where the encoder looks")
    parser.add_argument("--output", metavar="FILE", required=True, help="figure to write: .png, .pdf, .svg")


def _execute(args: Namespace) -> int:
    from pipeline.results.plot import plot_spectrum
    from pipeline.results.run import open_run

    opened = open_run(root_of(args))
    row = opened.find(args.id) if args.row is None else args.row
    if not 0 <= row < opened.plan.n_spectra:
        raise ConfigError("--row", row, f"0 to {opened.plan.n_spectra - 1}")
    plot_spectrum(opened, row, args.output, model=args.model, attention=args.attention)
    print(redacted(args.output))
    return 0


PLOT = Verb("plot", "draw one spectrum with its reconstruction", _execute, _add_options)
