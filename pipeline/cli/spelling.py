"""An argument parser that says what a misspelled verb or option may have meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)'")

# Least likeness, of 1. Two letters of `run` that changed places leave 0.67; options have their dashes in common.
_CLOSE_VERB, _CLOSE_OPTION = 0.6, 0.7


class Parser(argparse.ArgumentParser):
    """argparse's parser, with "did you mean" where a word is close to one that exists."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override] # noqa: ANN401
        """Parse all arguments; an unknown one ends the program with the usage of its verb, exit status 2."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            verb = self._verbs().get(getattr(found, "command", None) or "", self)
            verb.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown, verb._options(), _CLOSE_OPTION)}")
        return found

    def error(self, message: str) -> NoReturn:
        """End the program with the usage and a message, exit status 2."""
        misspelled = _CHOICE.search(message)
        super().error(message + (_meant([misspelled["word"]], self._verbs(), _CLOSE_VERB) if misspelled else ""))

    def _verbs(self) -> dict[str, Parser]:
        actions = (each for each in self._actions if isinstance(each, argparse._SubParsersAction))
        return {name: parser for each in actions for name, parser in each.choices.items()}

    def _options(self) -> list[str]:
        return [option for each in self._actions for option in each.option_strings]


def _meant(words: Iterable[str], known: Iterable[str], close: float) -> str:
    """Return the end of a message: what some of the words may have meant, if they are that close to known ones."""
    choices = list(known)
    names = (word.partition("=")[0] for word in words)
    found = [match for name in names for match in get_close_matches(name, choices, n=1, cutoff=close)]
    return f"; did you mean {' and '.join(found)}?" if found else ""
