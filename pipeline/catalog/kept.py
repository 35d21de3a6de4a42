"""Kept columns: those of a targets table that are the user's, beside the survey's; numbers, text and missing values.

They become coordinates of every store. No number that a run computes depends on them, and no fingerprint holds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.errors import ConfigError, RefusedError
from pipeline.places import require_short
from pipeline.surveys.columns import Attributes, Coordinate
from pipeline.surveys.survey import Survey

_ATTRIBUTES = b"attributes"


def kept_columns(
    frame: pd.DataFrame, names: Sequence[str], survey: Survey, attributes: dict[str, Attributes] | None = None
) -> tuple[pd.DataFrame, dict[str, Coordinate]]:
    """Return the frame with these further columns in types that a store can hold, and what they are.

    Whole numbers stay such, but become float64 where some are missing (NaN); missing text is empty. attributes: of each
    column, such as its units. Raises ConfigError for a name that the run uses itself, and for other types.
    """
    found: dict[str, Coordinate] = {}
    made = {}
    for name in names:
        require_free(name, survey)
        if name not in frame.columns:
            raise ConfigError("keep", name, f"a column of the targets: {', '.join(map(str, frame.columns))}")
        made[name], dtype = _stored(frame[name], name)
        found[name] = Coordinate(dtype, dict((attributes or {}).get(name, {})))
    return frame.assign(**made), found


def fields_of(kept: dict[str, Coordinate]) -> list[pa.Field]:
    """Return the Arrow fields of kept columns; their metadata carry the attributes."""
    types = {"str": pa.string()}
    return [
        pa.field(
            name,
            types.get(each.dtype) or pa.from_numpy_dtype(each.dtype),
            nullable=False,
            metadata={_ATTRIBUTES: json.dumps(each.attributes, sort_keys=True).encode()} if each.attributes else None,
        )
        for name, each in kept.items()
    ]


def attributes_in(schema: pa.Schema) -> dict[str, Attributes]:
    """Return the attributes of a table's columns, as `fields_of` has written them."""
    own = {each.name: (each.metadata or {}).get(_ATTRIBUTES) for each in schema}
    return {name: json.loads(text) for name, text in own.items() if text}


def require_free(name: object, survey: Survey) -> None:
    """Refuse a name that the run uses itself, or that no variable may have. Raises ConfigError."""
    if not isinstance(name, str) or not name or "/" in name or name.startswith((".", "_")):
        raise ConfigError("keep", name, "the name of a column without / that begins with a letter")
    require_short("keep", name)
    if name.lower() in survey.coordinates:
        raise RefusedError("keep", f"{name} is a column that every run has", "leave it out of what is kept")


def _stored(column: pd.Series[Any], name: str) -> tuple[Any, str]:
    """Return a column in a type that Parquet and Zarr can hold, and the type's name."""
    kind = column.dtype
    if pd.api.types.is_bool_dtype(kind) and not column.isna().any():
        return column.to_numpy(dtype=bool), "bool"
    if pd.api.types.is_integer_dtype(kind) and not column.isna().any():
        values = column.to_numpy()
        return values, np.dtype(values.dtype).name
    if pd.api.types.is_numeric_dtype(kind):
        size = "float32" if str(kind).lower() == "float32" else "float64"
        return column.to_numpy(dtype=size, na_value=np.nan), size
    present = column.dropna()
    if _are_text(present):
        return column.astype(object).where(column.notna(), "").astype("str"), "str"
    raise ConfigError(f"targets column {name}", str(kind), "numbers or text", "convert the column, or do not keep it")


def _are_text(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)
