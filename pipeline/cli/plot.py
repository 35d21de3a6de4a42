"""`plot`: draw spectra with their reconstructions."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import ConfigError, redacted


def _add_options(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    text = "SDSS: PLATE-MJD-FIBER, RUN2D/PLATE-MJD-FIBER or a SPECOBJID; DESI: a key or a TARGETID; several by commas"
    which.add_argument("--id", metavar="ID[,ID]", help=text)
    which.add_argument("--row", metavar="N", type=int, help="row number of the spectrum in the run, from 0")
    text = "model of the plan (default: its only one); several, separated by commas, are drawn side by side"
    parser.add_argument("--model", metavar="NAME[,NAME]", help=text)
    parser.add_argument("--window", metavar="A:B", help="restframe wavelengths to zoom on, Angstrom")
    parser.add_argument("--lines", metavar="NAME[,NAME]", help="lines to zoom on, such as Halpha,[OIII]")
    parser.add_argument("--smooth", metavar="PIXELS", type=float, default=0.0, help="smooth the observed flux")
    text = "leave out the model where the spectrum was not observed"
    parser.add_argument("--observed-only", action="store_true", help=text)
    parser.add_argument("--width", metavar="INCHES", type=float, default=13.333, help="width of the page (13.333)")
    parser.add_argument("--attention", action="store_true", help="also show where the encoder looks")
    parser.add_argument("--output", metavar="FILE", required=True, help="figure to write: .png, .pdf, .svg")


def _execute(args: Namespace) -> int:
    from pipeline.results.run import open_run

    opened = open_run(root_of(args))
    if args.row is not None and not 0 <= args.row < opened.plan.n_spectra:
        raise ConfigError("--row", args.row, f"0 to {opened.plan.n_spectra - 1}")
    ids = [opened.targets()["target"].iloc[args.row]] if args.row is not None else args.id.split(",")
    opened.plot(
        ids,
        args.output,
        model=None if args.model is None else args.model.split(","),
        window=None if args.window is None else _window(args.window),
        lines=[] if args.lines is None else args.lines.split(","),
        smooth=args.smooth,
        observed_only=args.observed_only,
        width=args.width,
        attention=args.attention,
    )
    print(redacted(args.output))
    return 0


def _window(text: str) -> tuple[float, float]:
    try:
        low, high = (float(each) for each in text.split(":"))
    except ValueError as error:
        raise ConfigError("--window", text, "two restframe wavelengths, such as 4800:5050") from error
    return low, high


PLOT = Verb("plot", "draw spectra with their reconstructions", _execute, _add_options)
