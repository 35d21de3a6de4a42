"""Collect what the code says to its users: errors, warnings, printed lines, log lines and help texts.

    python -m tests.messages [FOLDER]        one message per line, with the file and line where it is written

FOLDER: another checkout, default this one. Values in a message appear as {expressions}.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "spender_core")

HELP_ARGUMENTS = {"help", "description", "epilog", "title", "desc"}


class Message(NamedTuple):
    """One message. kind: error, help, or said (printed, logged, or returned to what prints it)."""

    file: Path
    line: int
    kind: str
    text: str


def collect(repository: Path = REPOSITORY) -> list[Message]:
    """Return the messages of both packages, in the order of files and lines."""
    files = sorted(file for name in PACKAGES for file in (repository / name).rglob("*.py"))
    return [
        Message(file.relative_to(repository), line, kind, text)
        for file in files
        for line, kind, text in sorted(set(_messages(ast.parse(file.read_text(encoding="utf-8")))))
    ]


def _messages(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    silent = set(_not_shown(tree))

    def visit(node: ast.AST, kind: str) -> Iterator[tuple[int, str, str]]:
        if node in silent:
            return
        if isinstance(node, ast.Raise):
            kind = "error"
        if isinstance(node, ast.keyword) and node.arg in HELP_ARGUMENTS:
            kind = "help"
        if isinstance(node, ast.Call) and _name(node.func) == "ConfigError":
            yield node.lineno, "error", _config_error(node)
            return
        text = _text(node)
        if text is not None and _is_prose(text):
            yield node.lineno, kind, " ".join(text.split())  # type: ignore[attr-defined]
        if text is None:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, kind)

    yield from visit(tree, "said")


def _config_error(call: ast.Call) -> str:
    """Assemble the message of a ConfigError as its __str__ does."""
    key, value, expected, remedy = [*(_shown(each) for each in call.args), "", "", "", ""][:4]
    for keyword in call.keywords:
        remedy = _shown(keyword.value) if keyword.arg == "remedy" else remedy
    return f"{key} is {value}, expected {expected}" + (f"; {remedy}" if remedy else "")


def _shown(node: ast.expr) -> str:
    text = _text(node)
    return " ".join(text.split()) if text is not None else f"{{{ast.unparse(node)}}}"


def _text(node: ast.AST) -> str | None:
    """Return a literal's or f-string's text, None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (_text(value) or f"{{{ast.unparse(value)[2:-1]}}}" for value in node.values)
        return "".join(part.replace("{{", "{").replace("}}", "}") for part in parts)
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return None


def _is_prose(text: str) -> bool:
    """Whether a string is a message: at least two words, and neither a pattern nor code."""
    words = [word for word in text.split() if word.strip(",.:;()'\"").isalpha()]
    return len(words) >= 2 and not any(mark in text for mark in ("(?", "\\Z", "<div", "function"))


def _not_shown(tree: ast.Module) -> Iterator[ast.AST]:
    """Docstrings, and strings that only annotate types or are patterns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            yield node.annotation
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns:
            yield node.returns
        if isinstance(node, ast.Call) and _name(node.func) in ("compile", "cast"):
            yield node


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


if __name__ == "__main__":
    for each in collect(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY):
        print(f"{each.file}:{each.line}: {each.kind}: {each.text}")
