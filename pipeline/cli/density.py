"""`density`: train the density of a model's latents, by which a run says how rare its spectra are."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace

from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import RefusedError, redacted
from pipeline.signals import Terminated

_SETTINGS = ("epochs", "patience", "members", "seed")


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="whose latents (may be left out when the run has one only)")
    text = "file to write, a path or URL; an existing one is resumed"
    parser.add_argument("--output", metavar="FILE", required=True, help=text)
    text = "take only spectra that fulfil this condition, beside the recommended selection"
    parser.add_argument("--where", metavar="EXPR", help=text)
    parser.add_argument("--epochs", metavar="N", type=int, help="epochs at most, of 128 steps each (default 16)")
    text = "end after so many epochs without a better log p of what is held out, with the best weights (default 4)"
    parser.add_argument("--patience", metavar="N", type=int, help=text)
    parser.add_argument("--members", metavar="N", type=int, help="flows whose densities are averaged (default 1)")
    parser.add_argument("--seed", metavar="N", type=int, help="seed of random weights and of the order (default 0)")


def _execute(args: Namespace) -> int:
    from pipeline.training.density import train_density
    from spender_core.density_fit import FlowSettings

    root = root_of(args)
    chosen = {key: getattr(args, key) for key in _SETTINGS if getattr(args, key) is not None}
    try:
        settings = FlowSettings(**chosen)
    except ValueError as error:
        raise RefusedError(f"--{str(error).partition(' ')[0]}", f"--{error}") from error
    try:
        trained = train_density(root, args.output, args.model, settings, where=args.where, stream=sys.stderr)
    except (KeyboardInterrupt, Terminated):
        words = sys.argv[1:]
        if "density" in words:
            print(f"\nresume with: {redacted(shlex.join(['spender-pipeline', *words]))}", file=sys.stderr)
        raise
    print(f"trained on {trained.training} spectra, {trained.held_out} held out: {trained.output}")
    output = redacted(args.output)
    print(f"next: spender-pipeline plan {args.root} --model {trained.model} --density {output}")
    return 0


DENSITY = Verb("density", "train the density of a model's latents on a run", _execute, _add_options, resumes=True)
