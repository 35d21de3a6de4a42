"""What stands above the values of a table in text: comments, names of columns, units; or that it is a list of keys."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from pipeline.catalog.formats.units import fits_unit
from pipeline.catalog.table import KEY, Kinds, unique_names
from pipeline.errors import RefusedError
from pipeline.surveys.values import MISSING

_DELIMITERS = ",\t;|"
_RULE = re.compile(r"-+\Z")
_SEPARATOR = re.compile(r'"?sep=(?P<delimiter>.)"?[\r\n]*\Z', re.IGNORECASE)
"""What Excel writes and reads in the first line."""
_MOST_COMMENTS = 10_000
_MOST_OF_A_MESSAGE = 500


@dataclass(frozen=True)
class Heading:
    """The lines of a text before its values.

    first: the values' first lines, read already; number: of the next line. is_list: whether a line is a target's key.
    """

    line: str
    names: tuple[str, ...]
    delimiter: str | None
    units: dict[str, str]
    first: list[str]
    number: int
    is_list: bool = False


def read_heading(text: io.TextIOWrapper, kinds: Kinds, url: str) -> Heading:
    """Read up to the names of columns, and past the lines of units and dashes that VizieR puts below them.

    Raises RefusedError for a text without names.
    """
    lines = enumerate(iter(text.readline, ""), start=1)
    number, line, comments = _beginning(lines, url)
    if said := _SEPARATOR.match(line):
        number, line, comments = _beginning(lines, url)
    if _is_key(line, kinds):
        return Heading("", (KEY,), ",", {}, [line], number, is_list=True)
    delimiter = (said["delimiter"].strip(" ") or None) if said else _delimiter(line)
    cells = cells_of(line, delimiter)
    first: list[str] = []
    units: list[str] = []
    if any(_is_number(cell) or kinds.is_key(cell) for cell in cells):
        first, line = [line], comments[-1].lstrip("# ") if comments else ""
        cells = _names_in_comment(line, delimiter, len(cells), number, url)
    else:
        first = [following for _, following in islice(lines, 2)]
        number += len(first)
        units, first = _without_rule(first, delimiter)
    start = number + 1 - len(first)
    if first and _is_key(first[0], kinds):
        return Heading(line, (KEY,), ",", {}, first, start, is_list=True)
    if [cell.lower() for cell in cells] == ["error_message"]:
        answer = " ".join((" ".join(first) + text.read(_MOST_OF_A_MESSAGE)).split()).strip('"')
        raise RefusedError("CATALOG", f"{url} has no table; the server says: {answer}", "correct the query")
    names = unique_names(cells)
    known = {name: made for name, unit in zip(names, units, strict=False) if (made := fits_unit(unit))}
    return Heading(line, names, delimiter, known, first, start)


def cells_of(line: str, delimiter: str | None) -> list[str]:
    """Return the stripped cells of a line. delimiter: None for spaces."""
    bare = line.strip("\r\n" if delimiter else None)
    row = next(csv.reader([bare], delimiter=delimiter or " ", skipinitialspace=True))
    return [cell.strip() for cell in row]


def key_in(line: str) -> str:
    """Return what a line of a list of targets says, without comment, quotes and a delimiter at its end."""
    text = line.partition("#")[0].strip().rstrip(_DELIMITERS + " ")
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _is_key(line: str, kinds: Kinds) -> bool:
    """Tell a line whose only cell is a target's key: a table may have a column of keys among others."""
    text = key_in(line)
    return not any(mark in text for mark in _DELIMITERS + " ") and kinds.is_key(text)


def _beginning(lines: Iterator[tuple[int, str]], url: str) -> tuple[int, str, list[str]]:
    """Read up to the first line that is neither blank nor a comment; return its number, it, and the comments."""
    comments: list[str] = []
    for number, line in lines:
        if line.strip() and not line.startswith("#"):
            return number, line, comments
        comments += [line] if line.strip() and len(comments) < _MOST_COMMENTS else []
    raise RefusedError("CATALOG", f"{url} has no line with the names of columns", "choose another catalog")


def _names_in_comment(line: str, delimiter: str | None, count: int, number: int, url: str) -> list[str]:
    """Return the names in the last comment above the values, as numpy and others write them."""
    names = cells_of(line, delimiter) if line else []
    if len(names) != count:
        problem = f"line {number} of {url} has values where the names of its columns belong"
        raise RefusedError("CATALOG", problem, "put a line with the names of the columns above it")
    return names


def _without_rule(lines: list[str], delimiter: str | None) -> tuple[list[str], list[str]]:
    """Return the units and the values among the two lines below the names: a rule of dashes may follow either."""
    rules = [line.strip() != "" and all(map(_RULE.match, cells_of(line, delimiter))) for line in lines]
    if rules[1:] == [True]:
        return cells_of(lines[0], delimiter), []
    return [], lines[1:] if rules[:1] == [True] else lines


def _delimiter(line: str) -> str | None:
    """Return what is between the cells of a line; None for spaces."""
    bare = re.sub(r'"[^"]*"', "", line)
    best = max(_DELIMITERS, key=bare.count)
    if bare.count(best):
        return best
    return None if len(line.split()) > 1 else ","


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.lower() not in MISSING
