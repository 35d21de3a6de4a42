from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest
from aiohttp import ClientError
from botocore.exceptions import NoCredentialsError
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.source import SourceError
from pipeline.cli.arguments import Verb, add_rate, describe, is_expected, root_of
from pipeline.cli.main import VERBS
from pipeline.errors import ConfigError, Unfinished
from spender_core.weights import WeightsError


def rate_of(*words: str) -> float | None:
    parser = ArgumentParser()
    add_rate(parser)
    rate: float | None = parser.parse_args(words).max_requests_per_second
    return rate


def test_a_relative_root_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert root_of(Namespace(root="run")) == str(tmp_path / "run")
    assert root_of(Namespace(root="./a/../run/")) == str(tmp_path / "run")


def test_a_root_below_a_home_is_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert root_of(Namespace(root="~/run")) == str(tmp_path / "run")


@pytest.mark.parametrize("root", ["s3://bucket/dr17", "s3://bucket/dr17/", "https://host/run"])
def test_a_url_stays_as_it_is(root: str) -> None:
    assert root_of(Namespace(root=root)) == root


@pytest.mark.parametrize(
    "root", ["s3://AKIA:secret@bucket/run", "https://host/run?sig=secret", "https://host/run#access_token=secret"]
)
def test_a_root_with_a_secret_is_refused_and_the_secret_not_repeated(root: str) -> None:
    with pytest.raises(ConfigError) as caught:
        root_of(Namespace(root=root))
    assert caught.value.key == "ROOT"
    assert "secret" not in describe(caught.value)


def test_a_rate_is_a_number_and_no_limit_by_default() -> None:
    assert rate_of() is None
    assert rate_of("--max-requests-per-second", "2.5") == 2.5


def test_a_rate_that_is_no_number_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        rate_of("--max-requests-per-second", "fast")
    assert ended.value.code == 2
    assert "invalid float value: 'fast'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("shard", 3, "4"),
        WeightsError("no model"),
        SourceError("no answer"),
        Unfinished({"ingest": [1]}),
        FileNotFoundError("nothing there"),
        ConnectionError("lost"),
        TimeoutError(),
        NoCredentialsError(),
        ClientError("no answer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_user_can_correct_is_expected(error: Exception) -> None:
    assert is_expected(error)


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyError("x"), TypeError("x"), AssertionError("x"), ZeroDivisionError("x"), RuntimeError("x")],
    ids=lambda error: type(error).__name__,
)
def test_a_mistake_of_the_program_is_not_expected(error: Exception) -> None:
    assert not is_expected(error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("shard", 3, "4", "plan again"), "shard is 3, expected 4; plan again"),
        (Unfinished({"ingest": [1, 2]}), "ingest: chunks 1, 2 not done"),
        (SourceError("spec.fits:\n  no answer\n"), "spec.fits: no answer"),
        (FileNotFoundError(2, "No such file", "run/plan.json"), "FileNotFoundError: No such file: run/plan.json"),
        (OSError(28, "No space left on device"), "OSError: No space left on device"),
        (OSError("no answer\nsecond line"), "OSError: no answer"),
        (TimeoutError(), "TimeoutError: no further reason"),
        (SourceError("https://jane:secret@host/x?sig=abc"), "https://***@host/x?***"),
        (PermissionError(13, "denied", "s3://KEY:secret@bucket/x"), "PermissionError: denied: s3://***@bucket/x"),
    ],
)
def test_an_error_is_described_in_one_line_without_secrets(error: Exception, text: str) -> None:
    assert describe(error) == text


@given(st.text(), st.sampled_from([SourceError, OSError, RuntimeError]))
def test_a_description_is_never_more_than_one_line(text: str, kind: type[Exception]) -> None:
    assert len(describe(kind(text)).splitlines()) <= 1


def test_a_verb_takes_a_root_and_no_options_unless_it_says_otherwise() -> None:
    verb = Verb("look", "look at it", lambda args: 0)
    assert (verb.has_root, verb.resumes, verb.works) == (True, False, False)
    parser = ArgumentParser()
    verb.add_options(parser)
    assert vars(parser.parse_args([])) == {}


def test_verbs_have_different_names_and_a_help() -> None:
    assert len({verb.name for verb in VERBS}) == len(VERBS)
    assert all(verb.help for verb in VERBS)


def test_only_verbs_that_resume_work_on_chunks() -> None:
    working = {verb.name for verb in VERBS if verb.works}
    assert working == {"run", "ingest", "encode"}
    assert all(verb.resumes for verb in VERBS if verb.works)
