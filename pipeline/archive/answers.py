"""What an archive's answer to a request for a file means: one table, for every kind of storage.

The page docs/run.md shows the same table; a test compares them.
"""

from __future__ import annotations

import bz2
import email.utils
import errno
import gzip
import time
import zlib
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError, redacted
from pipeline.surveys.fits import truncation

_GZIP, _BZIP2 = b"\x1f\x8b", b"BZh"


class Kind(Enum):
    """What an answer says, and of what."""

    GONE = "gone"
    """There is no such file."""
    FORBIDDEN = "forbidden"
    """The file, or all of the archive, may not be read."""
    PASSING = "passing"
    """A fault that may pass: tried again."""
    ACCESS = "access"
    """About the key, the bucket or the way of asking: never about a file."""
    MACHINE = "machine"
    """A fault of the machine or of its disks: tried again, and never about a file."""

    @property
    def may_pass(self) -> bool:
        """Whether another attempt may help."""
        return self in (Kind.PASSING, Kind.MACHINE)

    @property
    def is_of_the_source(self) -> bool:
        """Whether it is never held against a file."""
        return self in (Kind.ACCESS, Kind.MACHINE)


@dataclass(frozen=True)
class Answers:
    """One row of the table. statuses: of HTTP. codes: of S3's errors. errors, numbers: of exceptions, their errno."""

    kind: Kind
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    errors: tuple[type[BaseException], ...] = ()
    numbers: frozenset[int] = frozenset()


TABLE = (
    Answers(
        Kind.ACCESS,
        frozenset({400, 405, 406, 407, 411, 414, 501, 505}),
        frozenset(
            {
                "AccountProblem",
                "AllAccessDisabled",
                "AuthorizationHeaderMalformed",
                "ExpiredToken",
                "ExpiredTokenException",
                "InvalidAccessKeyId",
                "InvalidBucketName",
                "InvalidPayer",
                "InvalidSecurity",
                "InvalidToken",
                "NoSuchBucket",
                "NotSignedUp",
                "PermanentRedirect",
                "RequestExpired",
                "RequestTimeTooSkewed",
                "SignatureDoesNotMatch",
                "TokenRefreshRequired",
            }
        ),
        (ConfigError, NotADirectoryError, NotImplementedError),
    ),
    Answers(Kind.GONE, frozenset({404, 410}), frozenset({"NoSuchKey", "NoSuchVersion"}), (FileNotFoundError,)),
    Answers(
        Kind.FORBIDDEN, frozenset({401, 402, 403, 451}), frozenset({"AccessDenied", "InvalidObjectState"}),
        (PermissionError,),
    ),
    Answers(
        Kind.MACHINE,
        numbers=frozenset({errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENOMEM, errno.ESTALE}),
    ),
    # S3 gives these with status 400, too.
    Answers(Kind.PASSING, codes=frozenset({"IncompleteBody", "InternalError", "RequestTimeout", "SlowDown"})),
)  # fmt: skip
"""The first row that has an answer's code decides, then its status, then its class; any other fault may pass."""


class BadBody(OSError):  # noqa: N818 - an answer, not an error of ours
    """An answer without a fault whose content is none of a file: empty, cut short, a web page."""


class NoAnswer(TimeoutError):  # noqa: N818 - likewise
    """A server has taken the request and said nothing. seconds: how long it was waited for."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer for {seconds:.0f} s")
        self.seconds = seconds


def classify(error: BaseException) -> Kind:
    """Return what an answer that came as an exception means."""
    if storage.is_misconfigured(error):
        return Kind.ACCESS
    code, status, number = _code(error), _status(error), getattr(error, "errno", None)
    if any(code in row.codes for row in TABLE):
        return next(row.kind for row in TABLE if code in row.codes)
    if status is not None:
        return next((row.kind for row in TABLE if status in row.statuses), Kind.PASSING)
    found = (row.kind for row in TABLE if isinstance(error, row.errors) or number in row.numbers)
    return next(found, Kind.PASSING)


def require_server(url: str) -> None:
    """Give up an S3 server that says nothing, before a file is opened there: clients would repeat it for ten minutes.

    Any answer will do. Raises TimeoutError.
    """
    if storage.protocol(url) not in ("s3", "s3a"):
        return
    try:
        storage.exists(url)
    except TimeoutError:
        raise
    except OSError:
        pass  # what it says of the file, whoever opens it will hear


def is_compressed(body: bytes) -> bool:
    """Tell whether a body is of gzip or bzip2."""
    return body.startswith((_GZIP, _BZIP2))


def opened(body: bytes) -> bytes:
    """Return a body without the compression that it may have, whatever was said of it. Raises BadBody."""
    try:
        if body.startswith(_GZIP):
            return gzip.decompress(body)
        if body.startswith(_BZIP2):
            return bz2.decompress(body)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        text = str(error).lower()
        cut = isinstance(error, EOFError) or "ended before" in text or "incomplete" in text
        raise BadBody("a compressed file, truncated" if cut else f"a compressed file, damaged: {error}") from error
    return body


def require_body(body: bytes, *, is_part: bool = False) -> None:
    """Refuse a body that is none of a file. is_part: only the file's beginning was asked for. Raises BadBody."""
    if not body:
        raise BadBody("an empty file")
    if body[:80].lstrip().startswith(b"<"):
        # of a login or maintenance page with status 200: the file itself may be well
        raise BadBody("the server returned a web page instead of the file")
    if not is_part and (fault := truncation(body)):
        raise BadBody(fault)


def in_words(error: BaseException, url: str) -> str:
    """Say what an answer was. url: of the file that was asked for."""
    code, status = _code(error), _status(error)
    text = " ".join(str(error).split())
    if isinstance(error, BadBody | NoAnswer):
        return text
    if code and not code.isdecimal():
        text = f"{code}: {text}"
    elif status is not None:
        known = status in HTTPStatus.__members__.values()
        text = f"{status} {HTTPStatus(status).phrase}" if known else f"status {status}"
    else:
        text = f"{type(error).__name__}: {text}"
    if storage.protocol(url) == "s3" and classify(error) is Kind.FORBIDDEN:
        text += "; S3 says so of a missing file, too, if the key may not list the bucket: allow it s3:ListBucket"
    return redacted(text)


def pause_of(error: BaseException) -> float:
    """Return the pause that a server asks for, in seconds, 0 for none (RFC 9110, section 10.2.3)."""
    headers = getattr(error, "headers", None) or {}
    text = str(headers.get("Retry-After", "")).strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()) if text else 0.0
    except ValueError:
        return 0.0


def _response(error: BaseException) -> dict[str, Any]:
    """Return the S3 answer behind an error. s3fs raises its own classes; botocore's error is their cause."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return response
    return {}


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status", None)
    if not isinstance(status, int):
        status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None
