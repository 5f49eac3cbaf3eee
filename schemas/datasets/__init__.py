"""One declaration per log, and how to find one by name or path."""

from __future__ import annotations

import importlib
import pkgutil
import re
import runpy
import traceback
from pathlib import Path
from typing import Any

from mixrank.schemas import Dataset
from mixrank.schemas.naming import nearest, readable


def names() -> list[str]:
    """Names of the logs that ship with mixrank."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(reference: str) -> Dataset:
    """Finds a dataset declaration.

    Args:
        reference: a name of `names()`, a dotted module path, or the path of a .py file. The module must define
            `DATASET`.

    Raises:
        ValueError: if there is no such module, its declarations are wrong (the message begins with their line), or it
            defines no `Dataset` under that name.
    """
    found = _from_file(reference) if reference.endswith(".py") else _from_module(reference)
    if not isinstance(found, Dataset):
        raise ValueError(
            f"{reference} must define DATASET = Dataset(spec=..., source=...), found {type(found).__name__}"
        )
    return found


def _from_file(path: str) -> Any:
    if not Path(path).is_file():
        raise ValueError(f"dataset file {path} does not exist")
    try:
        return runpy.run_path(path).get("DATASET")
    except (ValueError, TypeError) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        raise ValueError(f"{path}, line {lines[-1]}: {readable(error)}" if lines else f"{path}: {error}") from error


def _from_module(reference: str) -> Any:
    module = reference if "." in reference else f"{__name__}.{reference}"
    unknown = ValueError(f"there is no dataset `{reference}`{nearest(reference, names())}")
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        raise unknown
    try:
        return getattr(importlib.import_module(module), "DATASET", None)
    except ModuleNotFoundError as error:
        # Otherwise the module is there, and lacks one that it imports itself.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise unknown from None
