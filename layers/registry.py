"""Models by name: what exists, which parameters they take, which presets they have.

A model is named by one of `names()` (a file of `layers/models/`, or the entry point of another distribution), by the
path of a file `my_model.py`, or by a dotted path `my_package.my_models` or `my_package.my_models.MyModel`.

Its file has a class under `@register(...)`, a literal `PRESETS`, a literal `SCALED`: the parameters that grow with the
model, each with what it must be a multiple of (numbers, or names of parameters and properties), and a literal `NEEDS`:
what of a spec it cannot do without. Names, parameters, presets and needs are read from the source text, so that a wrong
configuration is refused at once and not after Keras has been imported; only `load_class` and `build` import the model.
"""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mixrank.layers.base import (
    Parameter,
    check_named,
    check_needs,
    check_parameters,
    read_literal,
    read_parameters,
)
from mixrank.layers.references import announced, import_file, source_file
from mixrank.schemas.naming import nearest

if TYPE_CHECKING:
    from mixrank.layers.backbone import Backbone
    from mixrank.schemas import FeatureSpec

_MODELS = "mixrank.layers.models"
# Distributions announce their models in this group of entry points, as `my_package.my_models:MyModel`.
ENTRY_POINTS = "mixrank.models"


class Model(NamedTuple):
    """Facts about a model, known without importing it."""

    name: str
    title: str
    arxiv: str
    class_name: str
    parameters: tuple[Parameter, ...]
    presets: dict[str, dict[str, Any]]
    scaled: dict[str, tuple[int | str, ...]]
    needs: dict[str, dict[str, Any]]
    module: str
    path: Path


class _Place(NamedTuple):
    """Where a model's class stands; None for the one class that is registered in its file."""

    name: str
    module: str
    path: Path
    class_name: str | None


def names() -> list[str]:
    """Names of all models: those of mixrank and those that installed distributions announce."""
    return sorted({*_ours(), *announced(ENTRY_POINTS)})


def model(reference: str) -> Model:
    """Title, parameters and presets of a model.

    Args:
        reference: a name of `names()`, the path of a .py file, or a dotted path of a module or class.

    Raises:
        ValueError: for an unknown model (naming the nearest one), or if its file cannot be read without
            being imported (line and remedy are in the text).
    """
    place = _place(reference)
    return _read(place, place.path.stat().st_mtime_ns)


def parameters(reference: str) -> tuple[Parameter, ...]:
    """Parameters of a model, in the order of its constructor."""
    return model(reference).parameters


def presets(reference: str) -> dict[str, dict[str, Any]]:
    """Presets of a model: name -> the parameters it sets."""
    return {preset: dict(values) for preset, values in model(reference).presets.items()}


def check(reference: str, params: Mapping[str, Any] | None = None, preset: str | None = None) -> dict[str, Any]:
    """The parameters a model would be built with: the preset's, overridden by `params`.

    Args:
        reference: a model, as in `model`.
        params: parameter -> value; lists stand for tuples.
        preset: name of a preset, or None for the constructor's defaults.

    Raises:
        ValueError: unknown model, preset or parameter, with the nearest name, or a value of another type.

    >>> check("hemix", {"num_layer": 3})
    Traceback (most recent call last):
    ValueError: hemix has no parameter `num_layer`; did you mean `num_layers`?
    """
    found = model(reference)
    result: dict[str, Any] = {}
    if preset is not None:
        if preset not in found.presets:
            raise ValueError(f"{found.name} has no preset `{preset}`{nearest(preset, found.presets)}")
        result.update(found.presets[preset])
    return check_parameters(found.name, found.parameters, {**result, **(params or {})})


def check_spec(
    reference: str,
    spec: FeatureSpec,
    field_names: tuple[str, ...],
    params: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> None:
    """Refuses a spec that a model cannot read: a history or group that it lacks, a field or task that it does not have.

    Args:
        reference, params, preset: as in `check`.
        spec: the log's declaration.
        field_names: of the spec, as in `Backbone`.

    Raises:
        ValueError: as `check`, or naming what is missing.
    """
    found = model(reference)
    values = {parameter.name: parameter.default for parameter in found.parameters} | check(reference, params, preset)
    declared = [*(history.window for history in spec.histories), *(feature.group for feature in spec.inputs), "context"]
    check_needs(found.name, found.needs, values, declared)
    for parameter in found.parameters:
        if "FieldName" in parameter.type:
            check_named(parameter.name, values[parameter.name], field_names, "a field of the log")
        if "TaskName" in parameter.type:
            check_named(parameter.name, values[parameter.name], spec.tasks, "a task of the log")


def build(
    reference: str,
    params: Mapping[str, Any] | None = None,
    preset: str | None = None,
    scenarios: tuple[int | str, ...] = (),
    field_names: tuple[str, ...] = (),
) -> Backbone:
    """Makes a model's backbone.

    Args:
        reference, params, preset: as in `check`.
        scenarios, field_names: facts of the spec, as in `Backbone`.

    Raises:
        ValueError: as `check`, or a value that the model's constructor refuses.
    """
    values = check(reference, params, preset)
    return load_class(reference)(name=model(reference).name, scenarios=scenarios, field_names=field_names, **values)


def load_class(reference: str) -> type[Backbone]:
    """Imports a model.

    Args:
        reference: a model, as in `model`.
    """
    found = model(reference)
    module = import_file(found.path) if reference.endswith(".py") else importlib.import_module(found.module)
    return getattr(module, found.class_name)


def origin(reference: str) -> str:
    """Source of a model, to be fingerprinted: its module, or the path of its file."""
    found = model(reference)
    return str(found.path) if reference.endswith(".py") else found.module


# 1. Where a model stands.


def _ours() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(_MODELS).__path__)]


def _place(reference: str) -> _Place:
    if reference.endswith(".py"):
        path = Path(reference).absolute()
        if not path.is_file():
            raise ValueError(f"model file {reference} does not exist")
        return _Place(path.stem, path.stem, path, None)
    if reference in _ours():
        # `NAME.py`, or `NAME/NAME.py` in a room of its own.
        room = f"{_MODELS}.{reference}"
        module = f"{room}.{reference}" if (found := source_file(f"{room}.{reference}")) else room
        return _Place(reference, module, found or _existing(room), None)
    if reference in announced(ENTRY_POINTS):
        return _dotted(announced(ENTRY_POINTS)[reference])._replace(name=reference)
    if re.fullmatch(r"\w+(\.\w+)+", reference):
        return _dotted(reference)
    raise ValueError(f"there is no model `{reference}`{nearest(reference, names())}")


def _dotted(reference: str) -> _Place:
    parent, _, last = reference.rpartition(".")
    if (path := source_file(reference)) is not None:
        return _Place(last, reference, path, None)
    if (path := source_file(parent)) is not None:
        return _Place(last.lower(), parent, path, last)
    raise ValueError(f"there is no module `{parent}` for the model `{reference}`: is its package installed?")


def _existing(module: str) -> Path:
    path = source_file(module)
    assert path is not None, module
    return path


# 2. What its file says.


@functools.lru_cache(maxsize=64)
def _read(place: _Place, changed: int) -> Model:
    """Reads a model's file; `changed` is its time stamp."""
    del changed
    try:
        tree = ast.parse(place.path.read_text())
    except SyntaxError as error:
        raise ValueError(f"{place.path}, line {error.lineno}: {error.msg}") from None
    marked = [node for node in tree.body if isinstance(node, ast.ClassDef) and _mark(node) is not None]
    found = [node for node in marked if place.class_name in (None, node.name)]
    if len(found) != 1:
        wanted = "exactly one class" if place.class_name is None else f"a class {place.class_name}"
        raise ValueError(
            f"{place.path} must have {wanted} under @register(title=..., arxiv=...), found "
            f"{', '.join(node.name for node in marked) or 'none'}"
        )
    (node,) = found
    mark = _mark(node)
    assert mark is not None
    paper = {
        str(each.arg): str(read_literal(place.path, each.value, f"`{each.arg}` of @register")) for each in mark.keywords
    }
    if set(paper) != {"title", "arxiv"}:
        raise ValueError(f"{place.path}, line {mark.lineno}: @register takes title=..., arxiv=...")
    assigned = {
        ast.unparse(target): each.value
        for each in tree.body
        if isinstance(each, ast.Assign | ast.AnnAssign) and each.value is not None
        for target in (each.targets if isinstance(each, ast.Assign) else [each.target])
    }
    presets, scaled, needs = (
        read_literal(place.path, assigned[name], f"`{name}`") if name in assigned else {}
        for name in ("PRESETS", "SCALED", "NEEDS")
    )
    parameters = read_parameters(place.path, node)
    return Model(
        place.name,
        **paper,
        class_name=node.name,
        parameters=parameters,
        presets=presets,
        scaled=scaled,
        needs=needs,
        module=place.module,
        path=place.path,
    )


def _mark(node: ast.ClassDef) -> ast.Call | None:
    """The call of `register` above a class."""
    calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
    return next((call for call in calls if ast.unparse(call.func).rpartition(".")[2] == "register"), None)
