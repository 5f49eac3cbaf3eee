"""Fingerprints of source code, so that a cached component notices an edit.

TFX knows a function by its dotted path only; without this a changed `preprocessing_fn` is served from the cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path


def source(*packages: str) -> str:
    """Hash of every Python file of some packages.

    >>> source("schemas") == source("schemas")
    True
    """
    digest = hashlib.sha256()
    for package in packages:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise ValueError(f"there is no package `{package}`")
        root = Path(found.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def of_values(*values: str) -> str:
    """Hash of texts."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.encode() + b"\0")
    return digest.hexdigest()[:16]
