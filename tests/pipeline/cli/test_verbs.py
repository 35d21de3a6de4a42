"""A verb is one module and one entry: parsing, errors and exit statuses come with it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from pipeline.cli import main as command_line
from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import ConfigError, ExitStatus

FOLDER = Path(command_line.__file__).parent


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=1)


def _execute(args: Namespace) -> int:
    if args.times < 1:
        raise ConfigError("--times", args.times, "at least 1", "say how often")
    print(" ".join([root_of(args)] * args.times))
    return 0


@pytest.fixture
def _echo(monkeypatch: pytest.MonkeyPatch) -> None:
    verb = Verb("echo", "say where a run is", _execute, _add_options, resumes=True)
    monkeypatch.setattr(command_line, "VERBS", (*command_line.VERBS, verb))


@pytest.mark.usefixtures("_echo")
def test_a_verb_is_one_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["echo", str(tmp_path), "--times", "2"]) == 0
    assert capsys.readouterr().out == f"{tmp_path} {tmp_path}\n"
    assert "say where a run is" in command_line.parser().format_help()


@pytest.mark.usefixtures("_echo")
def test_its_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["echo", str(tmp_path), "--times", "0"]) == ExitStatus.REFUSED
    assert capsys.readouterr().err == "error: --times is 0, expected at least 1; say how often\n"


def test_every_module_of_the_command_line_has_its_verbs_in_the_table() -> None:
    modules = {file.stem for file in FOLDER.glob("*.py")} - {"__init__", "arguments", "main", "spelling", "terminal"}
    assert {verb.execute.__module__.rsplit(".", 1)[-1] for verb in command_line.VERBS} == modules


def test_verbs_have_names_of_their_own_and_a_line_of_help() -> None:
    names = [verb.name for verb in command_line.VERBS]
    assert len(set(names)) == len(names)
    assert all(verb.help and "\n" not in verb.help for verb in command_line.VERBS)
