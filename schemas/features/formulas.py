"""Arithmetic over columns, as text: read without running it as Python, and computed by whoever has the columns."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mixrank.schemas.naming import nearest

# Function -> how many numbers it takes.
FUNCTIONS = {"abs": 1, "exp": 1, "log1p": 1, "max": 2, "min": 2, "sqrt": 1}
LONGEST = 500
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}


def parsed(formula: str) -> ast.expr:
    """The syntax tree of a formula of `+ - * /`, numbers, names and calls of `FUNCTIONS`.

    Raises:
        ValueError: naming the part that is something else.
    """
    if len(formula) > LONGEST:
        raise ValueError(f"`formula` may have {LONGEST} characters, received {len(formula)}")
    try:
        tree = ast.parse(formula.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"`formula` is no arithmetic, received {formula!r}") from None
    for node in _parts(tree):
        _check(formula, node)
    return tree


def names_in(formula: str) -> tuple[str, ...]:
    """The columns of a formula, in the order in which they come."""
    return tuple(dict.fromkeys(node.id for node in _parts(parsed(formula)) if isinstance(node, ast.Name)))


def evaluate_formula(
    formula: str,
    columns: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]],
    number: Callable[[float], Any],
) -> Any:
    """The value of a formula.

    Args:
        formula: as `parsed` takes it.
        columns: name -> its numbers, an array or tensor.
        functions: the functions in `FUNCTIONS`, for such arrays.
        number: makes such an array of a number.

    >>> evaluate_formula("a / (b + 1) - min(a, 2)", {"a": 6.0, "b": 2.0}, {"min": min}, float)
    0.0
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return number(float(node.value))  # type: ignore[arg-type]
        if isinstance(node, ast.Name):
            return columns[node.id]
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand)
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        return functions[node.func.id](*(value(each) for each in node.args))

    return value(parsed(formula))


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """A node and all of its operands."""
    yield node
    if isinstance(node, ast.BinOp):
        operands = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp):
        operands = [node.operand]
    else:
        operands = node.args if isinstance(node, ast.Call) else []
    for operand in operands:
        yield from _parts(operand)


def _check(formula: str, node: ast.expr) -> None:
    part = ast.get_source_segment(formula.strip(), node) or formula
    if isinstance(node, ast.Constant):
        try:
            fits = type(node.value) in (int, float) and math.isfinite(float(node.value))  # type: ignore[arg-type]
        except OverflowError:
            fits = False
    elif isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS:
            raise ValueError(f"`formula` calls {name or part!r}, which is no function of it{nearest(name, FUNCTIONS)}")
        if len(node.args) != FUNCTIONS[name] or node.keywords:
            raise ValueError(f"`{name}` of `formula` takes {FUNCTIONS[name]} numbers, received {part!r}")
        fits = True
    elif isinstance(node, ast.BinOp):
        fits = type(node.op) in _OPERATORS
    elif isinstance(node, ast.UnaryOp):
        fits = isinstance(node.op, ast.USub)
    else:
        fits = isinstance(node, ast.Name)
    if not fits:
        raise ValueError(
            f"`formula` takes + - * /, numbers, columns and {', '.join(FUNCTIONS)}; {part!r} is something else"
        )
