"""`report`: one HTML file about a run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipeline import api
from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import redacted


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", required=True, help="file to write, .html")


def _execute(args: Namespace) -> int:
    api.report(root_of(args), args.output)
    print(redacted(args.output))
    return 0


REPORT = Verb("report", "write one HTML file: the run, its quality, its science at a glance", _execute, _add_options)
