"""Fingerprints of source code, so that a cached component notices an edit.

TFX knows a function by its dotted path only; without this a changed `preprocessing_fn` is served from the cache.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

OURS = ("schemas", "layers", "serving", "components", "pipeline")


def source(*modules: str) -> str:
    """Hash of some modules and of every mixrank module they import, directly or not.

    Args:
        modules: dotted names; a package stands for all its modules.

    Raises:
        ValueError: if there is no such module.

    >>> source("schemas.naming") == source("schemas.naming") != source("schemas.features")
    True
    """
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in files:
            continue
        path, inside = _find(name)
        files[name] = path
        waiting += inside if name in modules else []
        waiting += [found for found in _imports(path) if found not in files]
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def of_values(*values: str) -> str:
    """Hash of texts."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.encode() + b"\0")
    return digest.hexdigest()[:16]


def _find(name: str) -> tuple[Path, list[str]]:
    """File of a module, and the modules inside it if it is a package."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        # A parent of it is missing, or is no package.
        spec = None
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module `{name}`")
    path = Path(spec.origin)
    if not spec.submodule_search_locations:
        return path, []
    root = path.parent
    inside = [".".join([name, *file.relative_to(root).with_suffix("").parts]) for file in root.rglob("*.py")]
    return path, [module for module in inside if not module.endswith("__init__")]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in OURS)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OURS:
            yield node.module
            for alias in node.names:
                # `from components import metrics` names a module, `from components.metrics import auc` does not.
                if importlib.util.find_spec(node.module).submodule_search_locations:  # type: ignore[union-attr]
                    module = f"{node.module}.{alias.name}"
                    if importlib.util.find_spec(module) is not None:
                        yield module
