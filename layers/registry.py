"""Models by name: what exists, which parameters they take, which presets they have.

A model is a file in `layers/models/`, alone or in a room of its name, with one class under `@register(...)`, a literal
`PRESETS` and a literal `SCALED`: the parameters that grow with the model, each with what it must be a multiple of
(numbers, or names of parameters and properties). Names, parameters and presets are read from the source text, so that a
typo in a configuration is answered at once and not after Keras has been imported; only `build` imports the model.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from mixrank.schemas.naming import nearest

if TYPE_CHECKING:
    from mixrank.layers.backbone import Backbone

_MODELS = "mixrank.layers.models"


class Parameter(NamedTuple):
    """One constructor argument of a model: its name, type as written, default and the docstring's words."""

    name: str
    type: str
    default: Any
    description: str


class Model(NamedTuple):
    """What the registry knows of a model without importing it."""

    name: str
    title: str
    arxiv: str
    class_name: str
    parameters: tuple[Parameter, ...]
    presets: dict[str, dict[str, Any]]
    scaled: dict[str, tuple[int | str, ...]]


def names() -> list[str]:
    """Names of all models."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(_MODELS).__path__))


@functools.cache
def model(name: str) -> Model:
    """Title, parameters and presets of a model.

    Raises:
        ValueError: if there is no such model; the nearest name is in the text.
    """
    if name not in names():
        raise ValueError(f"there is no model `{name}`{nearest(name, names())}")
    tree = ast.parse(_source(name).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (paper := _paper(node)) is not None:
            return Model(name, paper["title"], paper["arxiv"], node.name, _parameters(node), *_tables(tree))
    raise ValueError(f"{_source(name)} has no class under @register(title=..., arxiv=...)")


def parameters(name: str) -> tuple[Parameter, ...]:
    """Parameters of a model, in the order of its constructor."""
    return model(name).parameters


def presets(name: str) -> dict[str, dict[str, Any]]:
    """Presets of a model: name -> the parameters it sets."""
    return {preset: dict(values) for preset, values in model(name).presets.items()}


def check(name: str, params: Mapping[str, Any] | None = None, preset: str | None = None) -> dict[str, Any]:
    """The parameters a model would be built with: the preset's, overridden by `params`.

    Args:
        name: name of a model.
        params: parameter -> value; lists stand for tuples.
        preset: name of a preset, or None for the constructor's defaults.

    Raises:
        ValueError: unknown model, preset or parameter, with the nearest name, or a value of another type.

    >>> check("hemix", {"num_layer": 3})
    Traceback (most recent call last):
    ValueError: hemix has no parameter `num_layer`; did you mean `num_layers`?
    """
    known = {parameter.name: parameter for parameter in parameters(name)}
    result: dict[str, Any] = {}
    if preset is not None:
        if preset not in model(name).presets:
            raise ValueError(f"{name} has no preset `{preset}`{nearest(preset, model(name).presets)}")
        result.update(model(name).presets[preset])
    result.update(params or {})
    for key, value in result.items():
        if key not in known:
            raise ValueError(f"{name} has no parameter `{key}`{nearest(key, known)}")
        result[key] = value = _tuples(value)
        try:
            TypeAdapter(_type(known[key].type)).validate_python(value, strict=True)
        except ValidationError:
            raise ValueError(f"`{key}` of {name} must be {known[key].type}, received {value!r}") from None
    return result


def build(
    name: str,
    params: Mapping[str, Any] | None = None,
    preset: str | None = None,
    scenarios: tuple[int | str, ...] = (),
) -> Backbone:
    """Makes a model's backbone.

    Args:
        name, params, preset: as in `check`.
        scenarios: declared values of the spec's scenario.

    Raises:
        ValueError: as `check`, or a value that the model's constructor refuses.
    """
    values = check(name, params, preset)
    backbone = getattr(importlib.import_module(_module(name)), model(name).class_name)
    return backbone(name=name, scenarios=scenarios, **values)


def import_all() -> None:
    """Imports every model, so that Keras can load any of them from a file."""
    for name in names():
        importlib.import_module(_module(name))


def _module(name: str) -> str:
    """Dotted path of the file that tells a model's story: `NAME.py` inside its room, or alone."""
    room = importlib.util.find_spec(f"{_MODELS}.{name}")
    return f"{_MODELS}.{name}.{name}" if room and room.submodule_search_locations else f"{_MODELS}.{name}"


def _source(name: str) -> Path:
    spec = importlib.util.find_spec(_module(name))
    if spec is None or spec.origin is None:
        raise ValueError(f"layers/models/{name} has no file {name}.py")
    return Path(spec.origin)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def _type(annotation: str) -> Any:
    return eval(annotation, {"Literal": Literal})


def _paper(node: ast.ClassDef) -> dict[str, str] | None:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "register":
            return {keyword.arg: ast.literal_eval(keyword.value) for keyword in decorator.keywords if keyword.arg}
    return None


def _parameters(node: ast.ClassDef) -> tuple[Parameter, ...]:
    init = next(item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
    words = _descriptions(ast.get_docstring(node) or "")
    return tuple(
        Parameter(arg.arg, ast.unparse(arg.annotation), ast.literal_eval(default), words.get(arg.arg, ""))
        for arg, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
        if arg.annotation is not None and default is not None
    )


def _descriptions(docstring: str) -> dict[str, str]:
    match = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", inspect.cleandoc(docstring), re.MULTILINE)
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", match.group(1) if match else "", re.MULTILINE)
    return {name: " ".join(text.split()) for group, text in entries for name in group.split(", ")}


def _tables(tree: ast.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    found = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    return tuple(ast.literal_eval(found[name]) if name in found else {} for name in ("PRESETS", "SCALED"))
