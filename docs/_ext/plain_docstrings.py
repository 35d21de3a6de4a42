"""Docstrings are plain text ("z: redshift, shape (N,). Returns ..."): lay them out for the site.

Every documented parameter or field becomes an item of a list; what is returned and raised begins a paragraph. Names in
single backticks become code, and characters that reStructuredText would take for markup are escaped.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping

from sphinx.application import Sphinx

_OTHERS = "Others"  # "Others: see ...", the parameters without an item
_OUTCOME = re.compile(r"(?<=\. )(?=(?:Returns|Raises|ValueError|WeightsError) )")
_CODE = re.compile(r"(`[^`]+`)")
_MARKUP = re.compile(r"[*\\|]|_(?=\W|$)")


def parameters(documented: object) -> list[str]:
    """Return the parameters of a function, or the fields of a class; none for anything else."""
    if not callable(documented):
        return []
    try:
        return [name for name in inspect.signature(documented).parameters if name != "self"]
    except (TypeError, ValueError):
        return []


def escape(text: str) -> str:
    """Turn plain text with `code` in single backticks into reStructuredText."""
    parts = _CODE.split(text)
    return "".join(f"`{part}`" if _CODE.fullmatch(part) else _MARKUP.sub(r"\\\g<0>", part) for part in parts)


def split_items(text: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Split a paragraph into (names, description) of its parameters; text that describes none has the name ""."""
    choice = "|".join(map(re.escape, [*names, _OTHERS]))
    begins = re.compile(rf"(?:^|(?<=[.;:] ))((?:or |and )?(?:{choice})(?:, (?:{choice}))*): ")
    before, *rest = begins.split(text)
    items = list(zip(rest[::2], map(str.strip, rest[1::2]), strict=True))
    return [("", before.strip()), *items] if before.strip() else items


def lay_out_paragraph(paragraph: str, names: Iterable[str]) -> list[str]:
    """Return a paragraph of a docstring as blocks of reStructuredText."""
    if paragraph.startswith((">>> ", "- ")):
        return [paragraph if paragraph.startswith(">") else escape(paragraph)]
    if paragraph.startswith(" "):
        return ["::\n\n" + paragraph]
    parts = _OUTCOME.split(" ".join(paragraph.split()))
    items = [item for part in parts for item in split_items(part.strip(), names)]
    return [f"- **{escape(name)}**: {escape(text)}" if name else escape(text) for name, text in items]


def lay_out(docstring: str, names: Iterable[str]) -> str:
    """Return a docstring, without its common indentation, as reStructuredText."""
    paragraphs = re.split(r"\n\s*\n", docstring.strip("\n"))
    return "\n\n".join(block for each in paragraphs for block in lay_out_paragraph(each, names))


def describe_value(value: object) -> str:
    """Return what a constant holds, as plain text: its keys, or its value."""
    if isinstance(value, Mapping):
        return "Its keys: " + ", ".join(f"`{key}`" for key in value) + "."
    return f"`{value!r}`"


def _process(app: Sphinx, what: str, name: str, documented: object, options: object, lines: list[str]) -> None:
    inherited = what == "data" and documented.__doc__ == type(documented).__doc__  # says nothing of the constant
    text = describe_value(documented) if inherited else "\n".join(lines)
    lines[:] = [*lay_out(text, parameters(documented)).splitlines(), ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Lay out every docstring that autodoc reads."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
