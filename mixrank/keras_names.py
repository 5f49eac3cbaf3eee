"""The names under which Keras finds mixrank's classes in a `.keras` file, without importing one of them.

Keras looks a class up in a table of registered names, which a decorator fills when the class is imported. Here the
table is filled beforehand, as soon as Keras is loaded, with stand-ins that import the class when a file asks for it.
"""

from __future__ import annotations

import importlib
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parent
# Where the classes stand that a file may name.
PLACES = ("layers/**/*.py", "components/training/*.py")


class StandIn(NamedTuple):
    """A class by its place; all that Keras asks of it is `from_config`."""

    module: str
    name: str

    def from_config(self, config: dict[str, Any]) -> Any:
        # The class registers itself when it is imported, and so takes this one's place.
        return getattr(importlib.import_module(self.module), self.name).from_config(config)


def stand_ins() -> dict[str, StandIn]:
    """Registered name -> class, for those of mixrank and the models that other distributions announce."""
    found = {}
    for path in (path for place in PLACES for path in HOME.glob(place)):
        module = ".".join(["mixrank", *path.relative_to(HOME).with_suffix("").parts])
        for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE):
            found[f"mixrank>{name}"] = StandIn(module, name)
    from importlib.metadata import entry_points  # Slow to import, and needed only beside Keras.

    for point in entry_points(group="mixrank.models"):
        found[f"{point.module.partition('.')[0]}>{point.attr}"] = StandIn(point.module, point.attr)
    return found


def register_when_keras_loads() -> None:
    """Registers the stand-ins now if Keras is loaded, else at the end of its import."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterKeras())


def _register() -> None:
    known = sys.modules["keras"].saving.get_custom_objects()
    known.update({name: each for name, each in stand_ins().items() if name not in known})


class _AfterKeras:
    """Finds Keras as Python would, and registers once it has been executed.

    It is a `MetaPathFinder` by what it does; to import that base class takes longer than the rest of this module.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: Any) -> None:
            execute(module)
            _register()
            sys.meta_path.remove(self)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
