"""Tables of the data model and of settings, made from what the pipeline writes its stores and reads its plans by.

Directives: `store-variables` (argument: spectra or encodings), `survey-coordinates` (argument: a survey),
`quality-bits`, and `settings` (argument: a dataclass whose docstring describes its fields).
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from docutils import nodes
from plain_docstrings import split_items
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pipeline.planning.density import density_variables
from pipeline.planning.redshift import REDSHIFT_VARIABLES
from pipeline.planning.schema import ENCODING_QUALITY, OUTPUTS, SPECTRA_VARIABLES, Output, Variable
from pipeline.spectra.quality import MEANINGS, Quality
from pipeline.surveys.registry import get_survey
from pipeline.surveys.survey import Survey

Rows = Iterable[Sequence[str]]
STORES: dict[str, Mapping[str, Variable]] = {
    "spectra": SPECTRA_VARIABLES,
    "encodings": {**OUTPUTS, "quality": ENCODING_QUALITY},
    "redshifts": REDSHIFT_VARIABLES,
    "density": density_variables(with_covariance=True),
}


def code(text: str) -> str:
    """Mark text as code, as `inline` reads it."""
    return f"`{text}`" if text else ""


def inline(text: str) -> list[nodes.Node]:
    """Return text as nodes, with what stands in backticks as code."""
    parts = re.split(r"`([^`]+)`", text)
    return [nodes.literal(text=part) if at % 2 else nodes.Text(part) for at, part in enumerate(parts) if part]


def table(headers: Sequence[str], rows: Rows) -> nodes.table:
    """Return a table; cells may hold code in backticks."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in headers), cols=len(headers))
    group += nodes.thead("", _row(headers))
    group += nodes.tbody("", *map(_row, rows))
    return nodes.table("", group, classes=["data-model"])


def _row(cells: Sequence[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *inline(cell))) for cell in cells))


def meaning(attributes: Mapping[str, Any]) -> str:
    """Return what CF attributes say of a variable: long name, comment, names of its bits."""
    parts = [attributes.get("long_name", ""), attributes.get("comment", "")]
    if "quality_flag" not in attributes.get("standard_name", "") and "flag_meanings" in attributes:
        numbers = attributes.get("flag_masks", attributes.get("flag_values"))
        named = zip(numbers, attributes["flag_meanings"].split(), strict=True)
        parts.append(", ".join(f"{number} {code(name)}" for number, name in named))
    return "; ".join(part for part in parts if part)


def variable_rows(variables: Mapping[str, Variable]) -> Rows:
    """Return the rows of a store's variables."""
    for name, variable in variables.items():
        yield (
            code(name),
            ", ".join(map(code, variable.dims)),
            code(variable.dtype),
            code(str(variable.fill)),
            code(variable.attributes.get("units", "")),
            meaning(variable.attributes) + ("" if _by_default(variable) else "; only where the plan asks for it"),
        )


def _by_default(variable: Variable) -> bool:
    return not isinstance(variable, Output) or variable.by_default


def _needed(survey: Survey, name: str) -> str:
    """Say whether a catalog must have a coordinate."""
    if not survey.coordinates[name].required:
        return "no"
    if name in survey.catalog.settled:
        return "no, an archive has it"
    instead = [code(ours.upper()) for ours, names in survey.catalog.stands_for.items() if name in names]
    return f"yes, or {' or '.join(instead)}" if instead else "yes"


def coordinate_rows(survey: str) -> Rows:
    """Return the rows of a survey's coordinates."""
    for name, coordinate in get_survey(survey).coordinates.items():
        yield (
            code(name),
            code("string" if coordinate.dtype == "str" else coordinate.dtype),
            code(coordinate.attributes.get("units", "")),
            ", ".join(code(alias.upper()) for alias in coordinate.aliases),
            _needed(get_survey(survey), name),
            meaning(coordinate.attributes),
        )


def quality_rows() -> Rows:
    """Return the rows of the quality bits."""
    for bit, text in MEANINGS.items():
        latents = "no" if bit & Quality.UNUSABLE else "yes"
        yield (str(bit.value.bit_length() - 1), code(bit.name or ""), code(str(bit.value)), latents, text)


def setting_rows(cls: type) -> Rows:
    """Return the rows of a dataclass's fields, as its docstring describes them, but for those that a plan fills in."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    paragraphs = (" ".join(each.split()) for each in (cls.__doc__ or "").split("\n\n"))
    for names, text in (item for paragraph in paragraphs for item in split_items(paragraph, fields)):
        described = [fields[name] for name in names.split(", ") if name in fields]
        if described and "filled in" not in text and "None where" not in text and "density's" not in text:
            defaults = ", ".join(filter(None, map(_default, described)))
            yield ", ".join(code(field.name) for field in described), defaults, text.rstrip(".;")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is field.default_factory is dataclasses.MISSING:
        return "required"
    return code(str(field.default)) if field.default not in (None, "", (), dataclasses.MISSING) else ""


class StoreVariables(SphinxDirective):
    """The variables of a store."""

    required_arguments = 1
    headers: ClassVar = ("variable", "dimensions", "type", "fill", "units", "meaning")

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        return [table(self.headers, variable_rows(STORES[self.arguments[0]]))]


class SurveyCoordinates(SphinxDirective):
    """The coordinates that a survey gives to every spectrum."""

    required_arguments = 1
    headers: ClassVar = ("coordinate", "type", "units", "columns of catalogs", "required", "meaning")

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        return [table(self.headers, coordinate_rows(self.arguments[0]))]


class QualityBits(SphinxDirective):
    """The bits of the variable `quality`."""

    headers: ClassVar = ("bit", "name", "mask", "latents", "meaning")

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        return [table(self.headers, quality_rows())]


class Settings(SphinxDirective):
    """The fields of a dataclass that a survey file sets."""

    required_arguments = 1
    headers: ClassVar = ("key", "default", "meaning")

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        module, _, name = self.arguments[0].rpartition(".")
        return [table(self.headers, setting_rows(getattr(importlib.import_module(module), name)))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("store-variables", StoreVariables)
    app.add_directive("survey-coordinates", SurveyCoordinates)
    app.add_directive("quality-bits", QualityBits)
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
