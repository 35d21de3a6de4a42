"""`verify`: read every chunk again and compare it with its marker."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from pipeline import api
from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import ExitStatus


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--repair",
        action="store_true",
        help="remove stray markers and those of damaged chunks, so that `run` does them again",
    )


def _execute(args: Namespace) -> int:
    found = api.verify(root_of(args), repair=args.repair)
    for problem in found.problems:
        print(problem)
    if not found.problems:
        print(f"verified: every chunk of {args.root} matches its marker")
        return 0
    if found.pending == len(found.problems):
        rest = f"what is done is undamaged; to do the rest: spender-pipeline run {args.root}"
        print(f"error: {args.root} is not finished; {rest}", file=sys.stderr)
        return ExitStatus.SOME_FAILED
    counted = f"{len(found.problems)} problem{'s' if len(found.problems) > 1 else ''} found in {args.root}"
    if found.targets_lost:
        print(f"error: {counted}; restore the targets as said above, then verify again", file=sys.stderr)
        return ExitStatus.SOME_FAILED
    if not args.repair:
        remedy = f"to repair: spender-pipeline verify {args.root} --repair, then spender-pipeline run {args.root}"
        print(f"error: {counted}; {remedy}", file=sys.stderr)
        return ExitStatus.SOME_FAILED
    repaired = [f"coordinates and metadata rewritten: {label}" for label in found.restored]
    if found.unmarked:
        repaired.append(f"{found.unmarked} chunk{'s' if found.unmarked > 1 else ''} marked as not done")
    if found.removed:
        repaired.append(f"{found.removed} stray marker{'s' if found.removed > 1 else ''} removed")
    what = f"{'; '.join(repaired) or 'nothing to repair'}; to do the rest: spender-pipeline run {args.root}"
    print(f"{counted}; {what}", file=sys.stderr)
    return ExitStatus.SOME_FAILED


VERIFY = Verb("verify", "read every chunk again and compare it with its marker's checksums", _execute, _add_options)
