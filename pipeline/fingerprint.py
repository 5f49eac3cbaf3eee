"""Fingerprints of source code, so that a cached component notices an edit.

TFX knows a function by its dotted path only; without this a changed `preprocessing_fn` is served from the cache.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

OURS = "mixrank"


def source(*modules: str) -> str:
    """Hash of some modules and of all that they import, directly or not, from mixrank or from their own packages.

    Args:
        modules: dotted names, where a package stands for all its modules, or paths of .py files, whose own package is
            the folder they stand in.

    Raises:
        ValueError: if there is no such module.

    >>> source("mixrank.schemas.naming") == source("mixrank.schemas.naming") != source("mixrank.schemas.features")
    True
    """
    files: dict[str, Path] = {}
    followed = {OURS}
    for module in modules:
        path = Path(module)
        followed |= {file.stem for file in path.parent.glob("*.py")} if _is_file(module) else {module.partition(".")[0]}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in files:
            continue
        path, inside = _find(name)
        files[name] = path
        waiting += inside if name in modules else []
        package = "" if _is_file(name) else name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [found for found in _imports(path, package, followed) if found not in files]
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        # Wherever a file lies, its text is what counts.
        digest.update((path.name if _is_file(name) else name).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def of_values(*values: str) -> str:
    """Hash of texts."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.encode() + b"\0")
    return digest.hexdigest()[:16]


def _find(name: str) -> tuple[Path, list[str]]:
    """File of a module, and the modules inside it if it is a package."""
    if _is_file(name):
        return Path(name), []
    spec = _spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module `{name}`")
    path = Path(spec.origin)
    if not spec.submodule_search_locations:
        return path, []
    root = path.parent
    inside = [".".join([name, *file.relative_to(root).with_suffix("").parts]) for file in root.rglob("*.py")]
    return path, [module for module in inside if not module.endswith("__init__")]


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        # A parent of it is missing, or is not a package.
        return None


def _is_file(module: str) -> bool:
    return module.endswith(".py")


def _imports(path: Path, package: str, followed: set[str]) -> Iterator[str]:
    """Imports of a file from the packages that are followed; `package` is its own, for relative imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in followed)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            if module.partition(".")[0] in followed:
                yield module
                for alias in node.names:
                    yield from _behind(module, alias.name)


def _behind(module: str, name: str) -> Iterator[str]:
    """The modules that an imported name stands in or is, by the face of the room that it was imported from."""
    spec = _spec(module)
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        return
    if _spec(f"{module}.{name}") is not None:
        yield f"{module}.{name}"
    else:
        for file, names in _face(Path(spec.origin)).items():
            if name in names:
                yield f"{module}.{file}"
                # It may be a room with a face of its own.
                yield from _behind(f"{module}.{file}", name)


@functools.cache
def _face(init: Path) -> dict[str, set[str]]:
    """File -> the public names that a room's face takes from it, by `from .file import name` in its stub."""
    stub = init.with_suffix(".pyi")
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(stub.read_text())) if stub.exists() else ():
        if isinstance(node, ast.ImportFrom) and node.module:
            found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return found
