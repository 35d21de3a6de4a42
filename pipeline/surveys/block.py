"""A block of a catalog's rows, its columns read by our names: numbers, flags, ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.surveys.columns import Columns
from pipeline.surveys.values import as_strings, read_numbers, read_text


@dataclass
class Block:
    """A block of a catalog's columns, read by our names; remarks: of what could not be read."""

    columns: Columns
    names: Mapping[str, str]
    url: str
    remarks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def column(self, ours: str) -> NDArray[Any] | None:
        """Return a column, None for one that the catalog lacks or that has several values per row."""
        values = self.columns[self.names[ours]] if ours in self.names else None
        return values if values is not None and values.ndim == 1 else None

    def numbers(self, ours: str) -> NDArray[np.float64]:
        """Return numbers, NaN where there is none; what is no number is remarked."""
        column = self.column(ours)
        if column is None:
            return np.full(self.size, np.nan)
        values, unreadable = read_numbers(column)
        self.remark(f"with a {self.names[ours]} that is no number: stored as missing", unreadable)
        return values

    def flags(self, ours: str) -> NDArray[np.int32]:
        """Return whole numbers, -1 where there is none; what is none is remarked."""
        values = self.numbers(ours)
        missing = np.isnan(values)
        fits = (np.abs(values) < 2**31) & (values == np.floor(values))
        self.remark(f"with a {self.names.get(ours)} that is no whole number: stored as missing", ~(missing | fits))
        return np.where(fits, values, -1).astype(np.int32)

    def redshifts(self) -> NDArray[np.float64]:
        """Return redshifts, NaN where there is none. Raises ConfigError for what is no number."""
        column = self.column("z")
        if column is None:
            return np.full(self.size, np.nan)
        values, unreadable = read_numbers(column)
        if unreadable.any():
            self.refuse("z", column, unreadable, "numbers")
        return values

    def ids(self, ours: str) -> NDArray[np.int64]:
        """Return whole numbers of up to 31 bits, -1 where missing. Raises ConfigError for other numbers and text."""
        column = self.column(ours)
        if column is None:
            return np.full(self.size, -1, np.int64)
        values, unreadable = read_numbers(column)
        wrong = unreadable | ~(np.isnan(values) | ((np.abs(values) < 2**31) & (values == np.floor(values))))
        if wrong.any():
            self.refuse(ours, column, wrong, "whole numbers that fit 32 bits")
        return np.where(values >= 0, values, -1).astype(np.int64)

    def refuse(self, ours: str, column: NDArray[Any], wrong: NDArray[np.bool_], expected: str) -> None:
        """Refuse values of a column. Raises ConfigError."""
        value = as_strings(read_text(column[wrong][:1]))[0]
        remedy = f"{int(wrong.sum())} of the rows of {self.url} have such a value: select others with --where"
        raise ConfigError(f"CATALOG column {self.names[ours]}", str(value), expected, remedy)

    def remark(self, text: str, rows: NDArray[np.bool_]) -> None:
        """Note what a user should know of some rows, if there are any."""
        if rows.any():
            self.remarks[text] = rows
