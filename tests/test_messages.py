"""What the program says to its users names only options, verbs and files that exist."""

from __future__ import annotations

import argparse
import re

import pytest

from pipeline.cli.main import VERBS, parser
from tests.messages import REPOSITORY, Message, collect

MESSAGES = collect()
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# What a message tells the user to type into another program.
OTHER_PROGRAMS = {"dask worker": {"--nthreads", "--resources"}, "kubectl": {"--namespace", "--selector", "--list"}}


def options() -> set[str]:
    (commands,) = (each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    verbs = [parser(), *commands.choices.values()]
    return {option for verb in verbs for action in verb._actions for option in action.option_strings}


def shown(message: Message) -> str:
    return f"{message.file}:{message.line}: {message.text}"


def test_the_messages_of_both_packages_are_found() -> None:
    assert len(MESSAGES) > 400
    assert {message.file.parts[0] for message in MESSAGES} == {"pipeline", "spender_core"}
    assert {"error", "help", "said"} == {message.kind for message in MESSAGES}


def test_no_message_names_an_option_that_does_not_exist() -> None:
    known = options()
    named = {(shown(message), name) for message in MESSAGES for name in OPTION.findall(message.text)}
    allowed = {name: program for program, names in OTHER_PROGRAMS.items() for name in names}
    wrong = [(text, name) for text, name in named if name not in known and allowed.get(name, "\0") not in text]
    assert len(named) > 50
    assert not wrong


def test_no_message_names_a_verb_that_does_not_exist() -> None:
    verbs = {verb.name for verb in VERBS}
    named = {word for message in MESSAGES for word in re.findall(r"spender-pipeline ([a-z]+)\b(?! the)", message.text)}
    assert named <= verbs
    assert len(named) > 4


@pytest.mark.parametrize("word", ["told", "mended", "anew", "heeded", "the one that"])
def test_no_message_uses_a_word_that_is_hard_to_read(word: str) -> None:
    assert not [
        shown(message) for message in MESSAGES if re.search(rf"\b{word}\b", re.sub(r"\{.*?\}", "", message.text))
    ]


def test_the_page_about_runs_explains_every_quality_bit() -> None:
    from pipeline.spectra.quality import Quality

    page = (REPOSITORY / "docs" / "run.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (yes|no) \|", page, re.MULTILINE))
    assert rows == {bit.name: "no" if bit & Quality.UNUSABLE else "yes" for bit in Quality}
