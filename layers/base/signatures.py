"""Constructor signatures read from source text: names, types, defaults and words of the arguments."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pydantic

from mixrank.layers.base.arguments import DropoutRate, LayerWidths, Share, adapter, as_tuples, check_argument
from mixrank.layers.base.needs import FieldName, TaskName
from mixrank.schemas.naming import nearest

# What the type of a parameter may be made of.
_TYPES = {each.__name__: each for each in (int, float, bool, str, tuple)} | {
    "Literal": Literal,
    "PositiveInt": pydantic.PositiveInt,
    "NonNegativeInt": pydantic.NonNegativeInt,
    "PositiveFloat": pydantic.PositiveFloat,
    "NonNegativeFloat": pydantic.NonNegativeFloat,
    "DropoutRate": DropoutRate,
    "Share": Share,
    "LayerWidths": LayerWidths,
    "FieldName": FieldName,
    "TaskName": TaskName,
}


class Parameter(NamedTuple):
    """One constructor argument: its name, type as written, default and the docstring's words."""

    name: str
    type: str
    default: Any
    description: str


def read_parameters(path: Path, node: ast.ClassDef) -> tuple[Parameter, ...]:
    """Keyword arguments of a class, in the order of its constructor.

    Args:
        path: file of the class.
        node: the class.

    Raises:
        ValueError: if one cannot be read without importing the file; file, line and remedy are in the text.
    """
    init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    if init is None:
        raise ValueError(f"{path}, line {node.lineno}: {node.name} must have an `__init__` that names its parameters")
    if len(init.args.posonlyargs + init.args.args) > 1 or init.args.vararg or not init.args.kwarg:
        raise ValueError(
            f"{path}, line {init.lineno}: `__init__` of {node.name} must take keyword-only parameters and **kwargs: "
            "def __init__(self, *, dim: int = 8, **kwargs)"
        )
    words = _descriptions(ast.get_docstring(node) or "")
    found = []
    for arg, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        if arg.annotation is None or default is None:
            raise ValueError(f"{path}, line {arg.lineno}: parameter `{arg.arg}` needs a type and a default")
        written = ast.unparse(arg.annotation)
        try:
            read_type(written)
        except Exception:
            raise ValueError(
                f"{path}, line {arg.lineno}: the type of `{arg.arg}` is read without importing the file, so it must be "
                f"made of {', '.join(_TYPES)} and None; received {written}"
            ) from None
        value = read_literal(path, default, f"the default of `{arg.arg}`")
        found.append(Parameter(arg.arg, written, value, words.get(arg.arg, "")))
    return tuple(found)


def read_literal(path: Path, node: ast.expr, what: str) -> Any:
    """The value of an expression.

    Args:
        path: its file.
        node: the expression.
        what: it is, for the message.

    Raises:
        ValueError: if it is no literal.
    """
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f"{path}, line {node.lineno}: {what} is read without importing the file, so it must be a literal; "
            f"received {ast.unparse(node)}"
        ) from None


def read_type(annotation: str) -> Any:
    """The type that an annotation means."""
    return eval(annotation, {"__builtins__": {}, **_TYPES})


def check_parameters(of: str, known: tuple[Parameter, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of some parameters, with tuples in place of lists.

    Args:
        of: whose parameters they are, for the message.
        known: all that it has.
        values: parameter -> value.

    Raises:
        ValueError: unknown parameter, with the nearest name, or a value of another type.
    """
    types = {parameter.name: parameter.type for parameter in known}
    found = {}
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"{of} has no parameter `{name}`{nearest(name, types)}")
        found[name] = as_tuples(value)
        check_argument(name, adapter(read_type(types[name])), found[name], of=of)
    return found


def _descriptions(docstring: str) -> dict[str, str]:
    """Parameter -> its words in the section `Args:`."""
    match = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", inspect.cleandoc(docstring), re.MULTILINE)
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", match.group(1) if match else "", re.MULTILINE)
    return {name: " ".join(text.split()) for group, text in entries for name in group.split(", ")}
