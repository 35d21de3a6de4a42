"""Columns: those of a catalog as its reader gives them, and those that every spectrum of a survey has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
"""A block of a catalog's columns by their names; masked arrays mark missing values."""

Attributes = dict[str, Any]
"""CF attributes of a variable."""


@dataclass(frozen=True)
class Coordinate:
    """One labelled column along `spectrum`, in the targets table and in every store.

    dtype: numpy's name, or "str" for variable-length text. attributes: CF attributes. aliases: names that catalogs use
    for it, in lower case, the preferred first. required: whether a catalog must have it. pattern, example: of text that
    becomes part of a path.
    """

    dtype: str
    attributes: Attributes = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    required: bool = False
    pattern: str | None = None
    example: str = ""
