"""What several verbs share: how a verb is described, the ROOT argument, options, errors as one line."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

from pipeline import storage
from pipeline.archive.source import SourceError
from pipeline.errors import ConfigError, Unfinished, redacted, require_place


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    add_options: adds its options to its parser. execute: does it and returns the exit status. has_root: whether its
    first argument is the folder of a run. resumes: whether the same command goes on after an interruption. works:
    whether it does chunks of a run.
    """

    name: str
    help: str
    execute: Callable[[Namespace], int]
    add_options: Callable[[ArgumentParser], None] = lambda parser: None
    has_root: bool = True
    resumes: bool = False
    works: bool = False


def root_of(args: Namespace) -> str:
    """Return a ROOT as given, or as an absolute path; refuse one with a secret in it before anybody opens it."""
    require_place("ROOT", args.root, with_query=False)
    return place_of("ROOT", args.root)


def place_of(key: str, url: str) -> str:
    """Return a place that a command works with; refuse this process's memory, which nobody would find again."""
    if storage.protocol(url) == "memory":
        remedy = "memory:// ends with the command, and workers have their own: use a path or a bucket"
        raise ConfigError(key, url, "a place that other processes find, too", remedy)
    return storage.place(url, key)


def add_rate(parser: ArgumentParser) -> None:
    """Add the option that bounds the rate of requests."""
    text = "requests that the whole run starts per second, at most (default: no limit)"
    parser.add_argument("--max-requests-per-second", metavar="X", type=float, help=text)


def add_accept_missing(parser: ArgumentParser) -> None:
    """Add the option that goes on with a source that has too little."""
    text = "go on where more than half of the spectra have no file in the source, or a bad one"
    parser.add_argument("--accept-missing", action="store_true", help=text)


def is_expected(error: Exception) -> bool:
    """Distinguish errors that a user can correct, which are reported in one line, from bugs of ours."""
    from spender_core.weights import WeightsError

    ours = isinstance(error, (ConfigError, WeightsError, SourceError, Unfinished, OSError))
    return ours or storage.is_backend_error(error)


def describe(error: BaseException) -> str:
    """Say what is wrong, in one line, without the secrets that URLs may hold."""
    if isinstance(error, OSError):
        what = error.strerror or str(error) or "no further reason"
        where = f": {error.filename}" if error.filename else ""
        return redacted(f"{type(error).__name__}: {what}{where}".splitlines()[0])
    return redacted(" ".join(str(error).split()))
