"""`status`: how far a run is."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from pipeline import api
from pipeline.cli.arguments import Verb, root_of
from pipeline.monitor.status import StageStatus
from pipeline.monitor.units import duration, label
from pipeline.spectra.quality import Quality


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--problems", action="store_true", help="list the spectra without a usable file, with the reason"
    )


def _execute(args: Namespace) -> int:
    root = root_of(args)
    found = api.status(root)
    problems = _problems(root) if args.problems else None
    if args.json:
        listed = {} if problems is None else {"problems": problems}
        print(json.dumps({**found.to_dict(), **listed, "root": args.root}, indent=1))
        return 0
    print_status(found.stages)
    for client in found.clients:
        print(f"\n{client.command} is going on, on {client.host} (process {client.pid}), since {client.started}")
    if problems is not None:
        _print_problems(problems)
    return 0


def _problems(root: str) -> list[dict[Hashable, Any]]:
    from pipeline.results.run import open_run  # slow to import, and `status` is asked often

    return list(open_run(root).problems().to_dict("records"))


def _print_problems(problems: Sequence[Mapping[Hashable, Any]]) -> None:
    """Print a line for each spectrum without a usable file."""
    print(f"\n{len(problems)} spectra without a usable file" + (":" if problems else ""))
    for each in problems:
        print(f"  {each['target']}  {each['quality'].lower()}: {each['reason']}")


def print_status(found: Sequence[StageStatus]) -> None:
    """Print a table of the stages, then the spectra by quality bit of each, and warnings."""
    header = ("stage", "model", "chunks", "done", "pending", "failed", "spectra", "with latents", "no remarks")
    rows = [header, *(_status_row(each) for each in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
    for each in found:
        for index, reason in each.failed.items():
            print(f"failed: {label(each.stage, each.model)} {index:06d}: {reason}")
    for each in found:
        if each.quality:
            print(f"\nspectra by quality bit, {label(each.stage, each.model)}:")
            for name, count in each.quality.items():
                print(f"  {name.lower():<18}{count:>10}{'   no latents' if Quality[name] & each.unusable else ''}")
    for each in found:
        if each.warnings:
            print(f"\nredshifts by warning, {label(each.stage, each.model)}:")
            for name, count in each.warnings.items():
                print(f"  {name.lower():<18}{count:>10}")
    warned = [f"warning: {each.outside}" for each in found if each.outside is not None]
    if warned:
        print("", *warned, sep="\n")
    for each in found:
        if each.rate is not None and each.eta is not None:
            print(f"\n{label(each.stage, each.model)}: {each.rate:.1f} spectra/s, {duration(each.eta)} left")


def _status_row(each: StageStatus) -> tuple[str, ...]:
    latents = "" if each.model is None else str(each.usable)
    counts = (each.chunks, each.done, each.pending, len(each.failed), each.spectra)
    return (each.stage, each.model or "", *(str(count) for count in counts), latents, str(each.good))


STATUS = Verb(
    "status", "show done, pending and failed chunks, spectra by quality, rate and time left", _execute, _add_options
)
