from __future__ import annotations

import bz2
import errno
import gzip
import re
from http import HTTPStatus
from pathlib import Path

import aiohttp
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from multidict import CIMultiDict, CIMultiDictProxy
from s3fs.errors import translate_boto_error
from yarl import URL

from pipeline.archive.answers import TABLE, BadBody, Kind, NoAnswer, classify, in_words, opened, require_body
from pipeline.errors import ConfigError
from tests.faulty_server import content_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "run.md"
FILE = content_of("/a")


def of_http(status: int) -> Exception:
    request = aiohttp.RequestInfo(URL("https://a/b"), "GET", CIMultiDictProxy(CIMultiDict()), URL("https://a/b"))
    return aiohttp.ClientResponseError(request, (), status=status)


def of_s3(code: str, status: int) -> Exception:
    """What s3fs raises of an S3 server's answer."""
    answer = {"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = translate_boto_error(ClientError(answer, "GetObject"))  # type: ignore[arg-type]
    assert isinstance(error, OSError)
    return error


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, Kind.GONE),
        (410, Kind.GONE),
        (401, Kind.FORBIDDEN),
        (403, Kind.FORBIDDEN),
        (400, Kind.ACCESS),
        (407, Kind.ACCESS),
        *((status, Kind.PASSING) for status in (408, 416, 418, 429, 500, 502, 503, 504, 599)),
    ],
)
def test_a_status_has_one_meaning(status: int, kind: Kind):
    assert classify(of_http(status)) is kind


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, Kind.GONE),
        ("NoSuchBucket", 404, Kind.ACCESS),
        ("AccessDenied", 403, Kind.FORBIDDEN),
        ("ExpiredToken", 400, Kind.ACCESS),
        ("InvalidAccessKeyId", 403, Kind.ACCESS),
        ("SignatureDoesNotMatch", 403, Kind.ACCESS),
        ("RequestTimeTooSkewed", 403, Kind.ACCESS),
        ("RequestTimeout", 400, Kind.PASSING),
        ("SlowDown", 503, Kind.PASSING),
        ("403", 403, Kind.FORBIDDEN),
        ("Unknown", 500, Kind.PASSING),
    ],
)
def test_an_s3_code_goes_before_its_status(code: str, status: int, kind: Kind):
    assert classify(of_s3(code, status)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("a"), Kind.GONE),
        (PermissionError("a"), Kind.FORBIDDEN),
        (NotADirectoryError("a"), Kind.ACCESS),
        (ConfigError("URL", "x", "y"), Kind.ACCESS),
        (NoCredentialsError(), Kind.ACCESS),
        (OSError(errno.ELOOP, "loop"), Kind.MACHINE),
        (OSError(errno.EMFILE, "files"), Kind.MACHINE),
        (OSError(errno.EIO, "a bad sector"), Kind.PASSING),
        (ConnectionResetError(), Kind.PASSING),
        (NoAnswer(40.0), Kind.PASSING),
        (BadBody("an empty file"), Kind.PASSING),
        (RuntimeError("whatever"), Kind.PASSING),
    ],
)
def test_an_exception_has_one_meaning(error: Exception, kind: Kind):
    assert classify(error) is kind


def test_the_page_shows_the_table():
    rows = re.findall(r"^\| (.*) \| (\w+) \| .* \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {kind: text for text, kind in rows if kind in {each.value for each in Kind}}
    assert set(shown) == {kind.value for kind in Kind}
    for row in TABLE:
        text = shown[row.kind.value]
        named = set(re.findall(r"\b[A-Z]\w+[a-z][A-Z]?\w*\b", text.split("S3: ")[1])) if "S3: " in text else set()
        assert named == row.codes
        if row.statuses:
            assert {int(status) for status in re.findall(r"\b\d{3}\b", text)} == row.statuses


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, bytes])
def test_a_packed_body_is_opened_and_half_of_one_is_truncated(pack: object):
    packed = pack(FILE)  # type: ignore[operator]
    assert opened(packed) == FILE
    if packed != FILE:
        with pytest.raises(BadBody, match="^a compressed file, truncated$"):
            opened(packed[: len(packed) // 2])
        with pytest.raises(BadBody, match="^a compressed file, damaged: "):
            opened(packed[:12] + b"\xff" * 40 + packed[52:])


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "an empty file"),
        (b" <html>", "web page"),
        (FILE[:1000], "truncated"),
        (FILE[:2879], "truncated: the file"),
    ],
)
def test_what_is_no_file_is_refused(body: bytes, word: str):
    with pytest.raises(BadBody, match=word):
        require_body(body)


def test_a_part_of_a_file_is_taken_where_it_was_asked_for():
    with pytest.raises(BadBody, match="truncated"):
        require_body(FILE[:80])
    require_body(FILE[:80], is_part=True)


def test_what_is_no_fits_file_is_for_the_reader_to_say():
    require_body(b"not FITS")
    with pytest.raises(BadBody, match="web page"):
        require_body(b"<p>not FITS")


def test_answers_are_said_in_words():
    assert in_words(of_http(503), "https://a") == "503 Service Unavailable"
    assert in_words(of_http(599), "https://a") == "status 599"
    assert in_words(of_s3("SlowDown", 503), "s3://a") == "SlowDown: [Errno 16] said"
    assert in_words(NoAnswer(40.2), "https://a") == "no answer for 40 s"
    denied = in_words(of_s3("AccessDenied", 403), "s3://a")
    assert denied.startswith("AccessDenied: said; S3 says so of a missing file, too")
    assert denied.endswith("allow it s3:ListBucket")
    assert len(denied) < 150
    assert HTTPStatus(403).phrase in in_words(of_http(403), "https://a")
