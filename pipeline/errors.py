"""Errors that a user can correct, the exit statuses of the commands, and secrets kept out of every message."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum


class ExitStatus(IntEnum):
    """How a command ended. 2, wrong usage, is argparse's own."""

    DONE = 0
    REFUSED = 1
    """Refused or failed, with one message on stderr."""
    SOME_FAILED = 3
    """Ended, but some chunks are not done: they failed, or SIGTERM came first."""
    INTERRUPTED = 130
    TERMINATED = 143
    """SIGTERM ended a command that works on no chunks."""


# What a URL may hold beside a place, and plan.json must not: a user's name and password, a signature, a token.
#
#   text                                  what is found
#   https://jane@host/x                   //jane@
#   https://jane:pass/word@host/x         //jane:pass/word@    AWS's secret keys may hold slashes
#   https://host:8443/x@y                 nothing              a port follows the colon
#   s3://KEY:12/34@bucket                 //KEY:12/34@         S3 URLs have no port
#   github://org:repo@branch/x            nothing              fsspec's own form, no secret
_USER = re.compile(
    r"""
    (?<!github:)//
    (?:
        [^/\s'"]*@                                    # a name, or name:password
      | [^/@\s:]*:(?!\d*(?:[/?#]|\Z))[^\s'"]*@        # name:password, with slashes in it
      | (?<=s3://)[^/@\s:]*:[^\s'"]*@                 # key:secret, which may begin like a port
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)

# ?X-Amz-Signature=... and #access_token=... hold secrets; these settings of a download do not.
_QUERY = re.compile(r"""\?[^\s'"]*|#[^\s'"]*=[^\s'"]*""")
_PLAIN_QUERY = re.compile(r"\?((download|dl|raw|versionId)=[\w.-]*(&|\Z))+\Z")

# In text a question mark may be one, but for those of a URL, or of a part of one:
#
#   text                              what is written
#   see s3://bucket/x?sig=abc         see s3://bucket/x?***
#   GET /x?sig=abc failed             GET /x?*** failed
#   is it there?                      the same
_QUERY_IN_TEXT = re.compile(
    r"""
      (?P<url>\w://[^\s'"?#]*)(?P<mark>[?#])[^\s'"]+
    | (?P<bare>\?)[\w.~%+-]+=[^\s'"]*
    """,
    re.VERBOSE,
)


class ConfigError(ValueError):
    """A setting that the user can correct: which key, what it is, what was expected, and the remedy."""

    def __init__(self, key: str, value: object, expected: str, remedy: str = "") -> None:
        super().__init__(key, value, expected, remedy)
        self.key = key
        self.value = value
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.key} is {self.value!r}, expected {self.expected}"
        return redacted(f"{text}; {self.remedy}" if self.remedy else text)


class RefusedError(ConfigError):
    """A setting that the user can correct, where no value shows what is wrong: which key, the problem, the remedy."""

    def __init__(self, key: str, problem: str, remedy: str = "") -> None:
        super().__init__(key, None, "", remedy)
        self.args = (key, problem, remedy)
        self.problem = problem

    def __str__(self) -> str:
        return redacted(f"{self.problem}; {self.remedy}" if self.remedy else self.problem)


class Unfinished(RuntimeError):  # noqa: N818 - a state of the run, not a fault of the program
    """Some chunks are not done. missing: chunk indices by stage ("ingest", "encode <model>")."""

    def __init__(self, missing: dict[str, list[int]]) -> None:
        super().__init__(missing)
        self.missing = missing

    def __str__(self) -> str:
        return "; ".join(f"{stage}: {_named(chunks)} not done" for stage, chunks in self.missing.items())


class ChunksFailed(RuntimeError):  # noqa: N818 - what failed is named, not the kind of error
    """A run has ended and some of its chunks failed; the same call does these again.

    reasons: by task, such as "encode sdss_II 000007". total: chunks of the run's stages.
    """

    def __init__(self, reasons: Mapping[str, str], total: int) -> None:
        super().__init__(dict(reasons), total)
        self.reasons = dict(reasons)
        self.total = total

    def __str__(self) -> str:
        return f"{len(self.reasons)} of {self.total} chunks failed"


# What moves a terminal's cursor, colors it, renames its window or turns the direction of writing; halves of characters,
# which file names of other encodings hold, cannot be written at all. Lines and tabs stay.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text with its control characters written as escapes: it may come from files of others."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def redacted(text: str) -> str:
    """Return a URL, or text that holds some, without the user names, passwords and signatures in it, and printable."""

    def shortened(found: re.Match[str]) -> str:
        return f"{found['url'] or ''}{found['mark'] or found['bare']}***"

    return printable(_QUERY_IN_TEXT.sub(shortened, _USER.sub("//***@", text)))


def require_place(key: str, url: str, with_query: bool = True) -> None:
    """Refuse a URL that holds more than a place: it is written into plan.json, logs and names of tasks."""
    if "://" not in url:
        return
    query = _QUERY.search(url)
    if _USER.search(url) or (query and not (with_query and _PLAIN_QUERY.match(query[0]))):
        remedy = "plan.json and logs would show it to others: use ~/.netrc, or the AWS variables or a profile"
        raise ConfigError(key, url, "a URL without user name, password and query", remedy)


def require_ending(key: str, place: str, *endings: str) -> None:
    """Refuse a file whose name promises another format than the one that is written. Raises ConfigError."""
    if not place.lower().endswith(endings):
        raise ConfigError(key, place, f"a name that ends in {' or '.join(endings)}", f"the format is {endings[0][1:]}")


def _named(chunks: Sequence[int], most: int = 8) -> str:
    """Name chunks in a message, the first few of many."""
    text = ", ".join(str(index) for index in chunks[:most])
    more = f" and {len(chunks) - most} more" if len(chunks) > most else ""
    return f"chunk{'s' if len(chunks) > 1 else ''} {text}{more}"
