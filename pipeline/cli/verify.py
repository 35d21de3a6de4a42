"""`verify`: read every chunk again and compare it with its marker."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from pipeline import api
from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import ExitStatus


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="have `run` do again what is not as it should be")


def _execute(args: Namespace) -> int:
    found = api.verify(root_of(args), repair=args.repair)
    for problem in found.problems:
        print(problem)
    if not found.problems:
        print(f"verified: every chunk of {args.root} is as its marker says")
        return 0
    counted = f"{len(found.problems)} problem{'s' if len(found.problems) > 1 else ''} found in {args.root}"
    if not args.repair:
        remedy = f"to mend what is damaged: spender-pipeline verify {args.root} --repair, then run"
        print(f"error: {counted}; {remedy}", file=sys.stderr)
        return ExitStatus.SOME_FAILED
    repaired = [f"coordinates and descriptions written again: {label}" for label in found.restored]
    repaired += [f"{found.unmarked} markers removed"] if found.unmarked else []
    what = f"{'; '.join(repaired) or 'nothing to repair'}; spender-pipeline run {args.root} does the rest"
    print(f"{counted}; {what}", file=sys.stderr)
    return ExitStatus.SOME_FAILED


VERIFY = Verb("verify", "read every chunk again and compare it with its marker's checksums", _execute, _add_options)
