"""References to what stands outside mixrank: entry points, dotted paths and files, found without importing them."""

from __future__ import annotations

import functools
import importlib.util
import sys
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType


@functools.cache
def announced(group: str) -> dict[str, str]:
    """Entry point of a group -> dotted path of what installed distributions announce under it."""
    return {point.name: point.value.replace(":", ".") for point in entry_points(group=group)}


def source_file(module: str) -> Path | None:
    """File of a module, found without importing the packages it stands in; None if there is none."""
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
        return Path(file) if file else None
    parent, _, _ = module.rpartition(".")
    if not parent:
        spec = importlib.util.find_spec(module)
    else:
        above = source_file(parent)
        if above is None or above.name != "__init__.py":
            return None
        spec = PathFinder.find_spec(module, [str(above.parent)])
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def import_file(path: Path) -> ModuleType:
    """The module of a file, imported under the file's name; imported again if the file has changed.

    Raises:
        ValueError: if another module has that name.
    """
    return _import_file(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _import_file(path: Path, changed: int) -> ModuleType:
    del changed
    name = path.stem
    other = source_file(name)
    if other is not None and not other.samefile(path):
        raise ValueError(f"file {path} has the name of another module, {other}: rename it")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
