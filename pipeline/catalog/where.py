"""The `--where` expression: one safe row selection over a catalog's columns.

Python's syntax, none of its powers: the expression is parsed, every piece is looked up in a short list of
allowed ones and computed with numpy; nothing is ever evaluated by Python itself.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, RefusedError

MAX_LENGTH = 10_000


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_BITWISE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_Nodes = tuple[type[ast.AST], ...]
_LEAVES: _Nodes = (ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.List, ast.Set)
_LOGIC: _Nodes = (ast.BoolOp, ast.And, ast.Or, ast.Compare, *_COMPARISONS, ast.In, ast.NotIn)
_OPERATORS: _Nodes = (ast.BinOp, *_ARITHMETIC, *_BITWISE, ast.UnaryOp, ast.Not, ast.Invert, ast.UAdd, ast.USub)
_ALLOWED = _LEAVES + _LOGIC + _OPERATORS
# the one column of SDSS catalogs whose lower-case name is a word of Python's; strings are left alone
_CLASS = re.compile(r"""("[^"]*"|'[^']*')|\bclass\b""")


@dataclass(frozen=True)
class _Value:
    """An intermediate result: values and where they are missing (both broadcast against the rows)."""

    data: NDArray[Any]
    missing: NDArray[np.bool_]

    @property
    def kind(self) -> str:
        return {"b": "truth", "U": "text", "S": "text"}.get(self.data.dtype.kind, "number")


def combined(ready_made: Mapping[str, str], chosen: Sequence[str], where: str | None) -> str | None:
    """Return the one expression for ready-made conditions, by name, and an expression of the user's; None for neither.

    ready_made: a survey's, by name. Raises ConfigError for an unknown name.
    """
    for name in chosen:
        if name not in ready_made:
            remedy = "write any other condition with --where"
            raise ConfigError("select", name, f"one of {', '.join(ready_made)}", remedy)
    expressions = [ready_made[name] for name in chosen] + ([] if where is None else [where])
    if where is not None:
        names(where)  # parsed on its own: the parentheses added around it must not make an invalid expression valid
    if len(expressions) > 1:
        return " and ".join(f"({expression})" for expression in expressions)
    return expressions[0] if expressions else None


def names(expression: str) -> frozenset[str]:
    """Return the names in an expression, in lower case: what a reader must load before calling `select`.

    Raises ConfigError for whatever `select` would refuse without looking at the columns.
    """
    tree = _parse(expression)
    found = frozenset(node.id.lower() for node in ast.walk(tree) if isinstance(node, ast.Name))
    if not found:
        raise ConfigError("--where", _shorten(expression), "a condition that names a column of the catalog")
    return found


def select(expression: str, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Evaluate a selection over a catalog's columns.

    expression: comparisons (== != < <= > >=, chained too, `in`, `not in`), `and or not & | ~`, arithmetic
    (+ - * / // % **), numbers, quoted strings, column names in any case.
    columns: name -> array, shape (N,) each; masked arrays mark missing values, as do NaN, and None in an
    array of objects. Returns bool, shape (N,).
    A comparison with a missing value is false, != too; text without content is a value. Text is compared
    without leading and trailing spaces. `&` and `|` between whole numbers work on bits, as in
    `(ZWARNING & 4) == 0`.
    Raises ConfigError that names the offending piece.
    """
    tree = _parse(expression)
    if not columns:
        raise RefusedError("--where", "the catalog has no columns to select by")
    size = len(next(iter(columns.values())))
    evaluator = _Evaluator(_rewrite(expression), columns)
    try:
        with np.errstate(all="ignore"):
            result = evaluator.truth(tree)
    except RecursionError as error:
        raise ConfigError("--where", _shorten(expression), "a less deeply nested expression") from error
    return np.array(np.broadcast_to(result, (size,)))


def _rewrite(expression: str) -> str:
    return _CLASS.sub(lambda match: match[1] or "CLASS", expression.strip())


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _parse(expression: str) -> ast.expr:
    if len(expression) > MAX_LENGTH:
        raise ConfigError("--where", _shorten(expression), f"at most {MAX_LENGTH} characters")
    source = _rewrite(expression)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's remarks on odd but valid syntax; what is odd is refused below
            tree = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        expected = f"a selection such as \"CLASS == 'GALAXY' and Z < 0.5\" ({error.msg} at column {error.offset})"
        remedy = "equality is ==, and the words and, or, not, in are written in lower case"
        raise ConfigError("--where", _shorten(expression), expected, remedy) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError("--where", _shorten(expression), "a readable expression", str(error)) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):  # operators have no position in the source: shown with their operands
            operators = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
            if not all(isinstance(part, _ALLOWED) for part in (node, *operators)):
                _refuse(source, node, "only columns, numbers, strings, comparisons and arithmetic")
    return tree


def _refuse(source: str, node: ast.AST, expected: str, remedy: str = "") -> NoReturn:
    piece = _shorten(ast.get_source_segment(source, node) or source)
    raise ConfigError("--where", _shorten(source), f"{expected}, not `{piece}`", remedy)


class _Evaluator:
    """Walks the parsed expression; one method for each kind of result."""

    def __init__(self, source: str, columns: Mapping[str, NDArray[Any]]) -> None:
        self.source = source
        self.columns = columns

    def refuse(self, node: ast.AST, expected: str, remedy: str = "") -> NoReturn:
        _refuse(self.source, node, expected, remedy)

    def truth(self, node: ast.expr) -> NDArray[np.bool_]:
        """Evaluate a condition; missing truth values count as false."""
        value = self.value(node)
        if value.kind != "truth":
            self.refuse(node, "a condition", f"this is a {value.kind}: compare it with something")
        return np.asarray(value.data & ~value.missing, dtype=np.bool_)

    def value(self, node: ast.expr) -> _Value:
        match node:
            case ast.Name():
                return self.column(node)
            case ast.Constant():
                return self.constant(node)
            case ast.BoolOp():
                return self.boolean(node)
            case ast.UnaryOp():
                return self.unary(node)
            case ast.BinOp():
                return self.binary(node)
            case ast.Compare():
                return self.comparison(node)
            case _:
                self.refuse(node, "a list only after `in`")

    def column(self, node: ast.Name) -> _Value:
        matches = [name for name in self.columns if name.lower() == node.id.lower()]
        if node.id in self.columns:
            matches = [node.id]
        if len(matches) != 1:
            available = ", ".join(sorted(self.columns))
            found = "a column of the catalog" if not matches else f"one of the columns {' and '.join(matches)}"
            self.refuse(node, found, f"it has {available}")
        array = self.columns[matches[0]]
        if array.ndim != 1:
            self.refuse(node, "a column of single values", f"this one has {array.shape[1:]} values per row")
        return _column_value(array)

    def constant(self, node: ast.Constant) -> _Value:
        value = node.value
        if isinstance(value, str):
            return _Value(np.array(value.strip()), np.array(False))
        if not isinstance(value, (bool, int, float)):
            self.refuse(node, "a number or a string")
        data = np.array(value)
        if data.dtype.kind not in "biuf":
            self.refuse(node, "a number below 2**64")
        return _Value(data, np.array(False))

    def boolean(self, node: ast.BoolOp) -> _Value:
        combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        result = self.truth(node.values[0])
        for operand in node.values[1:]:
            result = combine(result, self.truth(operand))
        return _Value(np.asarray(result), np.array(False))

    def unary(self, node: ast.UnaryOp) -> _Value:
        if isinstance(node.op, ast.Not | ast.Invert):
            return _Value(np.asarray(~self.truth(node.operand)), np.array(False))
        value = self.number(node.operand)
        return value if isinstance(node.op, ast.UAdd) else _Value(np.asarray(-value.data), value.missing)

    def number(self, node: ast.expr) -> _Value:
        value = self.value(node)
        if value.kind != "number":
            self.refuse(node, "a number", f"this is a {value.kind}")
        return value

    def binary(self, node: ast.BinOp) -> _Value:
        if type(node.op) in _BITWISE:
            return self.bitwise(node)
        left, right = self.number(node.left), self.number(node.right)
        a, b = left.data, right.data
        if isinstance(node.op, ast.Pow | ast.FloorDiv | ast.Mod):
            # whole numbers have no result for x // 0 and 2 ** -1 and wrap silently in large powers
            a, b = a.astype(np.float64), b.astype(np.float64)
        data = np.asarray(_ARITHMETIC[type(node.op)](a, b))
        missing = left.missing | right.missing
        if data.dtype.kind == "f":
            missing = missing | np.isnan(data)
        return _Value(data, np.asarray(missing))

    def bitwise(self, node: ast.BinOp) -> _Value:
        """`&` and `|`: logical between conditions, on bits between whole numbers."""
        combine = _BITWISE[type(node.op)]
        left, right = self.value(node.left), self.value(node.right)
        if left.kind == right.kind == "truth":
            return _Value(np.asarray(combine(left.data & ~left.missing, right.data & ~right.missing)), np.array(False))
        if left.data.dtype.kind not in "iu" or right.data.dtype.kind not in "iu":
            self.refuse(node, "conditions or whole numbers on both sides", "put parentheses round each comparison")
        a, b = left.data, right.data
        if "u" in a.dtype.kind + b.dtype.kind:
            a, b = a.astype(np.uint64), b.astype(np.uint64)
        return _Value(np.asarray(combine(a, b)), np.asarray(left.missing | right.missing))

    def comparison(self, node: ast.Compare) -> _Value:
        result = np.array(True)
        left_node = node.left
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            for operand in (left_node, right_node):
                self.require_parentheses(operand)
            if isinstance(op, ast.In | ast.NotIn):
                step = self.membership(left_node, right_node, negate=isinstance(op, ast.NotIn))
            else:
                step = self.compare(op, left_node, right_node, node)
            result = np.logical_and(result, step)
            left_node = right_node
        return _Value(np.asarray(result), np.array(False))

    def compare(self, op: ast.cmpop, left_node: ast.expr, right_node: ast.expr, whole: ast.AST) -> NDArray[np.bool_]:
        left, right = self.value(left_node), self.value(right_node)
        if (left.kind == "text") != (right.kind == "text"):
            left, right = _empty_as_text(left), _empty_as_text(right)
        if (left.kind == "text") != (right.kind == "text"):
            text = left_node if left.kind == "text" else right_node
            piece = ast.get_source_segment(self.source, text)
            self.refuse(
                whole,
                "text compared with text and numbers with numbers",
                f"`{piece}` is text: quote the other",
            )
        result = _COMPARISONS[type(op)](*_same_text(left.data, right.data))
        return np.asarray(result & ~(left.missing | right.missing), dtype=np.bool_)

    def membership(self, left_node: ast.expr, right_node: ast.expr, *, negate: bool) -> NDArray[np.bool_]:
        # (266) is no tuple to Python, and a list of one to everybody else
        if not isinstance(right_node, ast.Tuple | ast.List | ast.Set | ast.Constant):
            self.refuse(right_node, "a list of values after `in`", "write for example PLATE in (266, 267)")
        elements = [right_node] if isinstance(right_node, ast.Constant) else right_node.elts
        left = self.value(left_node)
        if any(self.value(element).kind == "text" for element in elements):
            left = _empty_as_text(left)
        found = np.zeros(left.data.shape, dtype=np.bool_)
        for element in elements:
            found = found | self.compare(ast.Eq(), left_node, element, element)
        return np.asarray((~found if negate else found) & ~left.missing, dtype=np.bool_)

    def require_parentheses(self, node: ast.expr) -> None:
        """Refuse `Z > 0 & PLATE == 1`, which Python reads as `Z > (0 & PLATE) == 1`."""
        if not (isinstance(node, ast.BinOp) and type(node.op) in _BITWISE):
            return
        lines = self.source.encode().splitlines(keepends=True)
        start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
        stop = sum(map(len, lines[: (node.end_lineno or 1) - 1])) + (node.end_col_offset or 0)
        text = self.source.encode()
        if not (text[:start].rstrip().endswith(b"(") and text[stop:].lstrip().startswith(b")")):
            self.refuse(node, "parentheses that show what & and | join", "put parentheses round each comparison")


def _same_text(left: NDArray[Any], right: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bring bytes and str, which numpy does not compare, to one of them; other pairs pass unchanged."""
    if {left.dtype.kind, right.dtype.kind} != {"S", "U"}:
        return left, right
    encoded = (np.char.encode(a, "utf-8") if a.dtype.kind == "U" else a for a in (left, right))
    return next(encoded), next(encoded)


def _empty_as_text(value: _Value) -> _Value:
    """Treat a column without any values as empty text: CSV does not give the type of such a block."""
    is_empty = value.kind == "number" and value.data.size and value.missing.all()
    return _Value(np.full(value.data.shape, ""), np.zeros(value.data.shape, np.bool_)) if is_empty else value


def _column_value(array: NDArray[Any]) -> _Value:
    """Bring a column to the type it is computed in: bare text, float64, int64, uint64 or bool."""
    missing = np.array(np.ma.getmaskarray(array))
    data = np.ma.getdata(array)
    if data.dtype.kind == "S":
        # kept as bytes: as str, a text column of a whole survey would take four times the memory
        return _Value(np.asarray(np.char.strip(data, b" \t\0")), missing)
    if data.dtype.kind == "U":
        return _Value(np.asarray(np.char.strip(data)), missing)
    if data.dtype.kind == "O":
        return _text_value(data, missing)
    if data.dtype.kind == "f":
        values = data.astype(np.float64)
        return _Value(values, missing | np.isnan(values))
    if data.dtype.kind in "iu" and data.dtype != np.uint64:
        return _Value(data.astype(np.int64), missing)
    return _Value(data, missing)


def _text_value(data: NDArray[Any], missing: NDArray[np.bool_]) -> _Value:
    """Read an array of objects as text: strings or bytes, None or NaN where there is nothing."""
    absent = np.fromiter((item is None or item != item for item in data), dtype=np.bool_, count=len(data))
    text = [
        "" if gone else (item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)).strip()
        for item, gone in zip(data, absent, strict=True)
    ]
    return _Value(np.array(text, dtype=np.str_), missing | absent)
