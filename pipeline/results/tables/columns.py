"""The columns of the results table: which there are in a run, where each comes from, its type, units and meaning."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from pipeline.planning.schema import ENCODING_QUALITY, REGIONS, SPECTRA_VARIABLES, Variable, lengths
from pipeline.surveys.columns import Attributes

TARGETS, ENCODINGS, DENSITY, SPECTRA, MADE = "targets", "encodings", "density", "spectra", "made"
"""Where the values of a column come from: a table or a store of the run, or other columns."""

_SPECTRAL_AXES = {"wavelength", "wavelength_rest"}

_KEPT_ATTRIBUTES = ("long_name", "units", "ucd", "comment")

CHI2_N = "chi2_n"
WORDS = "quality_words"
SAMPLE = "sample"


@dataclass(frozen=True)
class Column:
    """One column of the results table.

    dtype: numpy's name, or "str". origin: where its values come from. attributes: CF attributes: units, ucd, long_name,
    comment. labels: names of the values of a row, where a row has several; they are columns of their own in formats
    that know no vectors. part: which value of a row of the variable `of` this column is; None for all. null: the value
    that means "none" in a column of whole numbers.
    """

    name: str
    dtype: str
    origin: str
    attributes: Attributes = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    of: str = ""
    part: int | None = None
    null: int | None = None

    @property
    def variable(self) -> str:
        """The variable of the store, or the column of the targets, that the values are read from."""
        return self.of or self.name

    @property
    def arrow(self) -> pa.DataType:
        """The column's type in Arrow; rows of several values are lists of fixed size."""
        single = pa.string() if self.dtype == "str" else pa.from_numpy_dtype(self.dtype)
        return pa.list_(single, len(self.labels)) if self.labels else single

    @property
    def units(self) -> str:
        """Units, as astropy reads them; "" for none."""
        units = str(self.attributes.get("units", ""))
        return "" if units == "1" else units

    @property
    def description(self) -> str:
        """What the values are, in one line."""
        texts = (self.attributes.get("long_name"), self.attributes.get("comment"))
        return "; ".join(str(text) for text in texts if text)


def columns_of(plan: Plan, model: ModelConfig) -> list[Column]:
    """Return the columns of a model's table, in order: targets, latents, other outputs, and what is made of them.

    Every output of the plan that has no wavelength is one.
    """
    outputs = model.stored
    sizes = lengths(plan.n_spectra, plan.n_pixels, model.n_latent or 0, model.n_rest or 0)
    found = [Column(name, each.dtype, TARGETS, dict(each.attributes)) for name, each in plan.coordinates.items()]
    norm = SPECTRA_VARIABLES["norm"]
    found.append(Column("norm", norm.dtype, SPECTRA, dict(norm.attributes)))
    for name, variable in outputs.items():
        if name != "quality" and not _SPECTRAL_AXES & set(variable.dims):
            found.append(_of_output(name, variable, {**sizes, **variable.sizes}))
    for name, variable in model.scored.items():
        if name != "quality":
            found.append(replace(_of_output(name, variable, sizes), origin=DENSITY))
    if {"chi2", "n_pixels"} <= set(outputs):
        attributes = {"long_name": "chi2 divided by n_pixels", "units": "1", "ucd": "stat.fit.chi2;arith.ratio"}
        found.append(Column(CHI2_N, "float32", MADE, attributes))
    attributes = {key: ENCODING_QUALITY.attributes[key] for key in ("long_name", "units")} | {"ucd": "meta.code.qual"}
    found.append(Column("quality", ENCODING_QUALITY.dtype, ENCODINGS, attributes))
    words = {"long_name": "names of the quality bits, joined by |; GOOD for none", "ucd": "meta.code.qual"}
    found.append(Column(WORDS, "str", MADE, words))
    sample = {"long_name": "what the spectrum was to the model: training, validation, neither or unknown"}
    found.append(Column(SAMPLE, "str", MADE, {**sample, "ucd": "meta.code"}))
    return found


def in_words(columns: Sequence[Column]) -> str:
    """List columns by name; of rows of several values the first and the last."""
    return ", ".join(
        f"{each.name} ({each.labels[0]} to {each.labels[-1]})" if each.labels else each.name for each in columns
    )


def chosen(available: Sequence[Column], names: Iterable[str] | None) -> list[Column]:
    """Return columns by their names, in this order; None: all.

    A value of a row of several is a column, too: "l0" is the first of "latents". Raises ConfigError for others.
    """
    if names is None:
        return list(available)
    if isinstance(names, str):
        names = names.split(",")
    known = by_name(available)
    found = []
    for name in dict.fromkeys(each.strip() if isinstance(each, str) else each for each in names):
        if name not in known:
            raise ConfigError("columns", name, f"columns of the table: {in_words(available)}")
        found.append(known[name])
    if not found:
        raise ConfigError("columns", names, "at least one column")
    return found


def by_name(available: Sequence[Column]) -> dict[str, Column]:
    """Return columns by name, with those of single values of rows of several."""
    known = {column.name: column for column in available}
    for column in available:
        for number, label in enumerate(column.labels):
            known.setdefault(label, _part(column, number))
    return known


def flat(columns: Sequence[Column]) -> list[Column]:
    """Return the columns of a format that knows no vectors: one for each value of a row of several."""
    return [
        each
        for column in columns
        for each in ([_part(column, i) for i in range(len(column.labels))] if column.labels else [column])
    ]


def _part(column: Column, number: int) -> Column:
    return replace(column, name=column.labels[number], labels=(), of=column.variable, part=number)


def _of_output(name: str, variable: Variable, sizes: Mapping[str, int]) -> Column:
    lengths = [sizes[dim] for dim in variable.dims[1:]]
    places = itertools.product(*(range(length) for length in lengths)) if lengths else ()
    prefix = "l" if name == "latents" else f"{name}_"
    labels = tuple(prefix + "_".join(map(str, place)) for place in places)
    if variable.dims[1:] == ("region",):
        labels = tuple(f"{prefix}{low:.0f}" for low in REGIONS)
    # -1 is no index and no number of anything
    null = int(variable.fill) if np.dtype(variable.dtype).kind == "i" and variable.fill < 0 else None
    attributes: Attributes = {key: value for key, value in variable.attributes.items() if key in _KEPT_ATTRIBUTES}
    return Column(name, variable.dtype, ENCODINGS, attributes, labels, null=null)
