"""The command `spender-pipeline`: its options, its exit status and what a user sees when something is wrong.

Exit status: 0 done; 1 refused or failed, with one message on stderr; 2 wrong usage; 3 ended, but some chunks are not
done: they failed, or SIGTERM came first; 130 interrupted; 143 another command terminated.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from pipeline.cli.arguments import Verb, describe, is_expected
from pipeline.cli.demo import DEMO
from pipeline.cli.density import DENSITY
from pipeline.cli.explore import EXPLORE
from pipeline.cli.export import EXPORT
from pipeline.cli.latents import OUTLIERS, SIMILAR
from pipeline.cli.plan import PLAN
from pipeline.cli.plot import PLOT
from pipeline.cli.report import REPORT
from pipeline.cli.run import ENCODE, FINALIZE, INGEST, RUN
from pipeline.cli.spelling import Parser
from pipeline.cli.status import STATUS
from pipeline.cli.submit import SCALE, SUBMIT
from pipeline.cli.targets import TARGETS
from pipeline.cli.terminal import printable_output
from pipeline.cli.train import TRAIN
from pipeline.cli.verify import VERIFY
from pipeline.errors import ExitStatus, redacted
from pipeline.signals import Terminated, answered
from pipeline.version import __version__

VERBS: tuple[Verb, ...] = (
    TARGETS,
    PLAN,
    RUN,
    INGEST,
    ENCODE,
    FINALIZE,
    STATUS,
    VERIFY,
    PLOT,
    REPORT,
    EXPORT,
    OUTLIERS,
    SIMILAR,
    EXPLORE,
    TRAIN,
    DENSITY,
    SUBMIT,
    SCALE,
    DEMO,
)
"""The verbs, in the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; argv: default the process's own arguments. Returns the exit status."""
    with printable_output():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    _configure_logging(args.verbose)
    try:
        with answered():
            status = _dispatch(args)
            sys.stdout.flush()
        return status
    except (KeyboardInterrupt, Terminated) as error:
        return _interrupted(_verb(args.command), error)
    except BrokenPipeError:
        return _broken_pipe()


def _dispatch(args: argparse.Namespace) -> int:
    try:
        return _verb(args.command).execute(args)
    except BrokenPipeError:
        raise
    except Exception as error:
        if not is_expected(error):
            raise
        logging.getLogger(__name__).info("traceback of the error", exc_info=True)
        print(f"error: {describe(error)}", file=sys.stderr)
        return ExitStatus.REFUSED


def _verb(name: str) -> Verb:
    return next(verb for verb in VERBS if verb.name == name)


def _interrupted(verb: Verb, error: BaseException) -> int:
    resumes = "; run the same command again to resume" if verb.resumes else ""
    # Zarr's event loop, in its own thread, reports at exit what it was writing; nothing of that is marked as done.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    terminated = isinstance(error, Terminated)
    print(f"\n{'terminated' if terminated else 'interrupted'}{resumes}", file=sys.stderr)
    if terminated and verb.works:
        return ExitStatus.SOME_FAILED  # a run stopped on purpose hands its chunks back; that is not an error
    return ExitStatus.TERMINATED if terminated else ExitStatus.INTERRUPTED


def _broken_pipe() -> int:
    # What is left in the buffer would raise again when the interpreter flushes it at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print("error: the output was closed before all of it was written", file=sys.stderr)
    return ExitStatus.REFUSED


def _configure_logging(verbose: bool) -> None:
    """Show a run's own log lines only when asked for: a user's terminal holds results, progress and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.INFO if verbose else logging.ERROR)
    if not verbose:
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").setLevel(logging.ERROR)


class _Redacting(logging.Formatter):
    """Removes the secrets in URLs from messages and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def parser() -> Parser:
    """Return the parser of all verbs; the command-line reference of the pages is made from it."""
    text = "write log lines with timings to stderr"
    common = Parser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=text)
    whole = Parser(
        prog="spender-pipeline",
        description="Encode a whole spectroscopic survey into spender latents and restframe spectra.",
        epilog="ROOT, CATALOG, URL and M are paths or any fsspec URL: file, http(s), s3, hf, ...",
    )
    # before the verb or after it
    whole.add_argument("-v", "--verbose", action="store_true", help=text)
    whole.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for verb in VERBS:
        command = commands.add_parser(verb.name, help=verb.help, description=verb.help, parents=[common])
        if verb.has_root:
            command.add_argument("root", metavar="ROOT", help="folder of the run")
        verb.add_options(command)
    return whole
