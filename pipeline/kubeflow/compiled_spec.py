"""Name, tasks and runtime parameters of a compiled pipeline, as `mixrank submit` needs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mixrank.schemas.naming import nearest
from mixrank.schemas.safe_text import shown

# `parameterType` of schema 2.1 -> what a value must be in JSON.
KINDS: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


@dataclass(frozen=True)
class CompiledSpec:
    """A compiled pipeline.

    Args:
        name: of the pipeline.
        tasks: names of its tasks, in the order in which they depend on each other.
        parameters: runtime parameter -> its `parameterType`.
        required: runtime parameters without a default.
    """

    name: str
    tasks: tuple[str, ...]
    parameters: dict[str, str]
    required: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> CompiledSpec:
        """Reads a compiled pipeline.

        Raises:
            ValueError: if the file does not exist, is not YAML, or holds no pipeline of schema 2.1.
        """
        if not path.is_file():
            raise ValueError(f"{path} does not exist; `mixrank compile` writes a compiled pipeline")
        if path.suffix not in (".yaml", ".yml"):
            raise ValueError(f"a compiled pipeline is a .yaml file, the API takes no other; received {path}")
        try:
            # A second document may hold settings of the platform.
            spec: Any = next(yaml.safe_load_all(path.read_text()), None)
            definitions = spec["root"].get("inputDefinitions", {}).get("parameters", {})
            return cls(
                name=spec["pipelineInfo"]["name"],
                tasks=_ordered(spec["root"]["dag"]["tasks"]),
                parameters={name: each["parameterType"] for name, each in definitions.items()},
                required=tuple(
                    name
                    for name, each in definitions.items()
                    if "defaultValue" not in each and not each.get("isOptional", False)
                ),
            )
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a compiled pipeline of schema 2.1: it lacks {error}") from None

    def values(self, given: Sequence[str]) -> dict[str, Any]:
        """`name=value` texts -> runtime parameters of their types.

        Raises:
            ValueError: for an unknown name, a value of another type, or a parameter that has no default and no value.
        """
        values: dict[str, Any] = {}
        for each in given:
            name, separator, text = each.partition("=")
            if not separator:
                raise ValueError(f"--param takes name=value, received {shown(each)}")
            if name not in self.parameters:
                raise ValueError(
                    f"the pipeline {self.name} has no runtime parameter `{name}`{nearest(name, self.parameters)}"
                )
            values[name] = _typed(name, self.parameters[name], text)
        if missing := [name for name in self.required if name not in values]:
            raise ValueError(f"runtime parameters without a default need --param name=value: {', '.join(missing)}")
        return values


def _typed(name: str, kind: str, text: str) -> Any:
    if kind == "STRING":
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    # To Python, True is an int.
    if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
        raise ValueError(f"--param {name} takes a {kind} as JSON, received {shown(text)}")
    return value


def _ordered(tasks: dict[str, Any]) -> tuple[str, ...]:
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        for before in tasks[name].get("dependentTasks", ()):
            visit(before)
        ordered.append(name)

    for name in tasks:
        visit(name)
    return tuple(ordered)
