"""Tables in text, read in pieces: CSV, TSV, semicolons, bars or spaces between values; SkyServer's and VizieR's too.

A first line of names may follow comments, blank lines and a byte-order mark. A list of targets' keys, one a line, is a
table of one column. What a cell is, is decided by all cells of its column in a piece.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from pipeline.catalog.formats.cells import Types
from pipeline.catalog.formats.heading import Heading, cells_of, key_in, read_heading
from pipeline.catalog.table import Kinds, Table
from pipeline.errors import RefusedError
from pipeline.surveys.columns import Columns

PIECE = 16 * 2**20
"""Characters of a text at a time."""

_RESULT_SET = re.compile(
    r"""
      \#\s*Table\d+[\s,;|]*\Z                   # SkyServer: #Table1, and spreadsheets' delimiters behind it
    | \#Table(\t | [ ]\S+:\s*\Z)               # VizieR: "#Table", a tab and a name, such as V_154:
    | \#RESOURCE=                              # VizieR, of another catalog
    """,
    re.VERBOSE | re.IGNORECASE,
)
_EACH = "put each result set into a file by itself"
_MOST_LINES_OF_A_CELL = 100


def open_text(file: IO[bytes], kinds: Kinds, url: str) -> Table:
    """Open a table in text, in UTF-8, or in UTF-16 with a byte-order mark.

    kinds: of columns whose looks deceive. url: for messages. Raises RefusedError for a line that does not belong to the
    table, with its number.
    """
    start = file.read(2)
    file.seek(0)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = io.TextIOWrapper(file, encoding=encoding)
    heading = read_heading(text, kinds, url)
    types = Types(kinds, decimal_comma=heading.delimiter == ";")

    def blocks(names: Sequence[str], rows: int) -> Iterator[Columns]:
        count = 0
        for number, lines in _pieces(text, heading, url):
            table = _parsed(lines, heading, names, number, url)
            cells = {name: table[name].combine_chunks() for name in names}
            if (row := types.other_heading(cells)) is not None:
                _refuse_row({name: str(each[row]) for name, each in cells.items()}, lines, heading, number, url)
            columns = {name: types.values(each, name) for name, each in cells.items()}
            count += len(table)
            for begin in range(0, len(table), rows):
                yield {name: values[begin : begin + rows] for name, values in columns.items()}
        if not count:
            yield {name: np.empty(0) for name in names}

    title = heading.line.strip().lstrip("# ") if heading.is_list else ""
    return Table(heading.names, blocks, heading.units, title=title)


def _pieces(text: io.TextIOWrapper, heading: Heading, url: str) -> Iterator[tuple[int, list[str]]]:
    """Give the lines of values in pieces, each with the number of its first line; comments are emptied."""
    number = heading.number
    lines = heading.first + text.readlines(PIECE)
    while lines:
        reader = _Lines(heading, number, url)
        values = lines if reader.are_plain(lines) else [reader.value(line) for line in lines]
        for _ in range(_MOST_LINES_OF_A_CELL):
            if not reader.is_quoted or not (line := text.readline()):
                break
            values.append(reader.value(line))
        yield number, values
        number += len(values)
        lines = text.readlines(PIECE)


class _Lines:
    """Lines of values one by one. is_quoted: whether the next line begins inside of a quoted cell."""

    def __init__(self, heading: Heading, number: int, url: str) -> None:
        self.heading = heading
        self.number = number
        self.url = url
        self.is_quoted = False
        # a quote is one at the beginning of a cell only: 6" is a size
        begins = rf'"(?<=[\n{re.escape(heading.delimiter or " ")}]")'
        self.opened = re.compile(begins)
        self.closed = re.compile(rf'{begins}[^"]*"')

    def are_plain(self, lines: Sequence[str]) -> bool:
        """Tell at once of many lines that each is a line of values, and that no quoted cell goes on behind them."""
        text = "".join(lines)
        marks = ("\n#", "\n" + self.heading.line)
        return not (self.heading.is_list or any(mark in "\n" + text for mark in marks) or self._goes_on(text))

    def value(self, line: str) -> str:
        """Return a line of values; an empty one for a comment. Refuses another table's beginning."""
        if not self.is_quoted:
            line = self._unquoted(line)
        if '"' in line and self.heading.delimiter is not None:
            self.is_quoted = self._goes_on(line)
        self.number += 1
        return line

    def _unquoted(self, line: str) -> str:
        if _RESULT_SET.match(line) or line == self.heading.line:
            what = "begins another result set" if line.startswith("#") else "repeats the names of the columns"
            problem = f"line {self.number} of {self.url} {what}"
            raise RefusedError("CATALOG", problem, _EACH)
        if self.heading.is_list:
            return key_in(line) + "\n"
        return "\n" if line.startswith("#") and not self._is_row(line) else line

    def _is_row(self, line: str) -> bool:
        """Tell a row whose first cell begins with # from a comment, which is a sentence where spaces are between."""
        if self.heading.delimiter is None and not line[1:2].strip():
            return False
        return len(cells_of(line, self.heading.delimiter)) == len(self.heading.names) > 1

    def _goes_on(self, text: str) -> bool:
        """Tell whether a quoted cell goes on in the next line."""
        bare = "\n" + text.replace('""', "")
        if self.is_quoted:
            _, end, bare = bare.partition('"')  # behind a quote no cell begins
            if not end:
                return True
        return self.opened.search(self.closed.sub("-", bare)) is not None


def _parsed(lines: list[str], heading: Heading, names: Sequence[str], number: int, url: str) -> pa.Table:
    """Return the cells of some columns as text."""
    wrong: list[pacsv.InvalidRow] = []

    def refuse(row: pacsv.InvalidRow) -> str:
        wrong.append(row)
        return "error"

    if heading.delimiter is None:
        lines = ["\t".join(cells_of(line, None)) + "\n" if line.strip() else "\n" for line in lines]
    data = "".join(line if line.strip(" \r\n") else "\n" for line in lines).encode()
    try:
        return pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(column_names=heading.names, block_size=len(data) + 1, use_threads=False),
            pacsv.ParseOptions(
                delimiter=heading.delimiter or "\t", newlines_in_values=True, invalid_row_handler=refuse
            ),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(heading.names, pa.string()),
                include_columns=list(dict.fromkeys(names)),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if not wrong:
            raise
        row = wrong[0]
        at = next((i for i, line in enumerate(lines) if line.rstrip("\r\n") == row.text), 0)
        problem = (
            f"line {number + at} of {url} has {row.actual_columns} values, the line of names {row.expected_columns}"
        )
        remedy = "correct the line; several result sets belong into a file each"
        raise RefusedError("CATALOG", problem, remedy) from error


def _refuse_row(row: Mapping[str, str], lines: Sequence[str], heading: Heading, number: int, url: str) -> NoReturn:
    """Refuse a row of words below numbers, by the number of its line."""
    places = {heading.names.index(name): cell.strip() for name, cell in row.items()}
    cells = (dict(enumerate(cells_of(line, heading.delimiter))) if line.strip() else {} for line in lines)
    at = next((i for i, each in enumerate(cells) if places.items() <= each.items()), 0)
    raise RefusedError("CATALOG", f"line {number + at} of {url} has words where numbers belong, as a heading", _EACH)
