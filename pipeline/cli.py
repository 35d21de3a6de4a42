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

from pipeline import interrupt
from pipeline.config import redacted

REFUSED, SOME_FAILED, INTERRUPTED, TERMINATED = 1, 3, 130, 143
_WORK = ("run", "ingest", "encode")

_SURVEY_OPTIONS = (
    ("--targets", "URL", "targets table, as written by the targets command"),
    (
        "--source",
        "URL",
        "release root: the folder, on disk or at any fsspec URL, that holds sdss/ and eboss/ (SDSS-V: spectro/)",
    ),
    ("--layout", "NAME", "which of the source's files to read: spec-lite (default), spec or spPlate"),
    ("--instrument", "NAME", "wavelength grid of the spectra: sdss (default) or boss"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; argv: default the process's own arguments. Returns the exit status."""
    args = _parser().parse_args(argv)
    _configure_logging(args.verbose)
    try:
        with interrupt.answered():
            status = _dispatch(args)
            sys.stdout.flush()
        return status
    except (KeyboardInterrupt, interrupt.Terminated) as error:
        return _interrupted(args.command, error)
    except BrokenPipeError:
        return _broken_pipe()


def _dispatch(args: argparse.Namespace) -> int:
    # Only now: --help and mistakes in usage are answered at once, and worker processes, which import the main module
    # anew, do not pay for it.
    from pipeline import commands

    try:
        return commands.COMMANDS[args.command](args)
    except BrokenPipeError:
        raise
    except Exception as error:
        if not commands.is_expected(error):
            raise
        logging.getLogger(__name__).info("where it happened", exc_info=True)
        print(f"error: {commands.describe(error)}", file=sys.stderr)
        return REFUSED


def _interrupted(command: str, error: BaseException) -> int:
    resumes = "; the same command resumes" if command in (*_WORK, "finalize", "train") else ""
    # Zarr's event loop, in a thread of its own, reports at exit what it was writing; nothing of that is marked as done.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    terminated = isinstance(error, interrupt.Terminated)
    print(f"\n{'terminated' if terminated else 'interrupted'}{resumes}", file=sys.stderr)
    if terminated and command in _WORK:
        return SOME_FAILED  # who stops a run in order finds its chunks handed back, not an accident
    return TERMINATED if terminated else INTERRUPTED


def _broken_pipe() -> int:
    # What is left in the buffer would raise again when the interpreter flushes it at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print("error: the output was closed before all of it was written", file=sys.stderr)
    return REFUSED


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
    """Leaves out what URLs may hold of secrets, in messages and in tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _parser() -> argparse.ArgumentParser:
    from pipeline import __version__

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="log lines with timings on stderr")
    parser = argparse.ArgumentParser(
        prog="spender-pipeline",
        description="Encode a whole spectroscopic survey into spender latents and restframe spectra.",
        epilog="ROOT, CATALOG, URL and M are paths or any fsspec URL: file, http(s), s3, hf, ...",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, root: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        if root:
            command.add_argument("root", metavar="ROOT", help="folder of the run")
        return command

    _add_targets(add("targets", "select targets from a catalog into a table", root=False))
    _add_plan(add("plan", "say what a run is to do, or add a model to it"))
    for name, text in (
        ("run", "do what is pending: ingest and encode, then finalize"),
        ("ingest", "fetch and normalize the spectra of pending chunks"),
        ("encode", "encode the spectra of pending chunks"),
    ):
        _add_work(add(name, text), models=name != "ingest", fetches=name != "encode")
    add("finalize", "check that all is done, write provenance, consolidate metadata")
    status = add("status", "show done, pending and failed chunks, spectra by quality, rate and time left")
    status.add_argument("--json", action="store_true", help="for programs")
    verify = add("verify", "read every chunk again and compare it with its marker's checksums")
    verify.add_argument("--repair", action="store_true", help="have `run` do again what is not as it should be")
    _add_plot(add("plot", "draw one spectrum with its reconstruction"))
    report = add("report", "write one HTML file: progress, throughput, quality, slowest chunks, failures")
    report.add_argument("--output", metavar="FILE", required=True, help="file to write, .html")
    _add_train(add("train", "train a model on the spectra of runs", root=False))
    _add_submit(add("submit", "do the same as `run` as a job on Kubernetes, and follow it"))
    _add_scale(add("scale", "change how many workers a submitted run has"))
    return parser


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("catalog", metavar="CATALOG", help="specObj or spAll file: FITS, CSV or Parquet")
    parser.add_argument("--where", metavar="EXPR", help="condition on its columns: CLASS == 'GALAXY' and 0 < Z < 0.5")
    parser.add_argument(
        "--select",
        metavar="NAME",
        action="append",
        default=[],
        help="a ready-made condition: main-galaxies, all-galaxies or clean; given more than once, all must hold",
    )
    parser.add_argument("--output", metavar="URL", required=True, help="table to write, Parquet")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="URL", help="the same options written down, TOML")
    for option, metavar, text in _SURVEY_OPTIONS:
        parser.add_argument(option, metavar=metavar, help=text)
    parser.add_argument(
        "--model",
        metavar="[NAME=]M",
        action="append",
        default=[],
        help="checkpoint: a file, a URL or a published name; NAME labels it; may be given more than once "
        "(default for new plans on the sdss grid: sdss-demo)",
    )
    parser.add_argument("--variables", metavar="A,B", help="what lands: latents,restframe,reconstruction,chi2,...")
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), help="arithmetic of the model")
    parser.add_argument("--micro-batch", metavar="N", type=int, help="spectra per forward pass")
    parser.add_argument("--shard", metavar="N", type=int, help="spectra per task, at most 4096")
    parser.add_argument("--chunk", metavar="N", type=int, help="spectra per unit of reading; divides --shard")
    parser.add_argument("--concurrency", metavar="N", type=int, help="files in flight per task (default 64; 8 on disk)")
    parser.add_argument("--max-requests", metavar="N", type=int, help="files in flight of the whole run (default 256)")
    _add_rate(parser)
    parser.add_argument("--cache", metavar="URL", help="folder or bucket to look in first and to fill, as a mirror")


def _add_work(parser: argparse.ArgumentParser, models: bool, fetches: bool) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", metavar="N", type=int, help="processes on this machine (default: one per core)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="use the Dask cluster there, such as tcp://host:8786")
    where.add_argument("--serial", action="store_true", help="work in this process, for debugging")
    parser.add_argument("--memory-limit", metavar="SIZE", help="memory of each worker on this machine, such as '4 GB'")
    text = "how long to wait for a scheduler, its first worker and, with --gpu, its first GPU (default 50 in all)"
    parser.add_argument("--wait", metavar="SECONDS", type=_seconds, help=text)
    if fetches:
        _add_rate(parser)
    if models:
        parser.add_argument("--model", metavar="NAME", action="append", help="only this model of the plan")
        parser.add_argument(
            "--gpu", action="store_true", help="encode on a GPU or not at all (default: where there is one)"
        )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


_seconds.__name__ = "number of seconds"  # argparse names it in its message


def _add_rate(parser: argparse.ArgumentParser) -> None:
    text = "requests that the whole run starts per second, at most (default: no limit)"
    parser.add_argument("--max-requests-per-second", metavar="X", type=float, help=text)


def _add_plot(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", metavar="ID", help="PLATE-MJD-FIBER, RUN2D/PLATE-MJD-FIBER or a SPECOBJID")
    which.add_argument("--row", metavar="N", type=int, help="position along `spectrum`")
    parser.add_argument("--model", metavar="NAME", help="model of the plan (default: its only one)")
    parser.add_argument("--output", metavar="FILE", required=True, help="figure to write: .png, .pdf, .svg")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("roots", metavar="ROOT", nargs="+", help="folders of runs, one per instrument")
    parser.add_argument("--output", metavar="FILE", required=True, help="checkpoint to write; resumed if it is there")
    parser.add_argument("--start", metavar="M", help="checkpoint to start from (default: random weights)")
    parser.add_argument("--latents", metavar="S", type=int, default=8, help="number of latents (default 8)")
    parser.add_argument("--epochs", metavar="N", type=int, default=100, help="(default 100)")
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="(default 64)")
    parser.add_argument("--learning-rate", metavar="X", type=float, default=1e-3, help="peak (default 0.001)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default 0)")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    image = "image of every pod, or of those without a GPU (default: as the manifests have it)"
    parser.add_argument("--image", metavar="IMAGE", help=image)
    parser.add_argument("--gpu-image", metavar="IMAGE", help="image of the GPU workers (default: theirs, or the same)")
    _add_counts(parser)
    parser.add_argument("--namespace", metavar="NAME", help="(default: as the manifests have it)")
    manifests = "kustomization to fill in: a folder like deploy/overlays/eks (default: deploy/base)"
    parser.add_argument("--manifests", metavar="DIR", help=manifests)
    operator = "use Kubernetes' own resources alone, where Dask's are not allowed"
    parser.add_argument("--no-operator", action="store_true", help=operator)
    parser.add_argument("--dry-run", action="store_true", help="print the manifests, and change nothing")
    parser.add_argument("--detach", action="store_true", help="return when all is created, without following the run")
    parser.add_argument("--keep", action="store_true", help="leave the objects of a run that has ended in the cluster")
    _add_rate(parser)


def _add_scale(parser: argparse.ArgumentParser) -> None:
    _add_counts(parser)
    parser.add_argument("--namespace", metavar="NAME", default="spender", help="(default: spender)")


def _add_counts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpu-workers", metavar="N", type=int, help="workers that ingest, and encode without GPUs")
    parser.add_argument("--gpu-workers", metavar="N", type=int, help="workers that encode, with a GPU each; 0: none")
