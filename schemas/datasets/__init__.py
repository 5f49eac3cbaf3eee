"""One declaration per log, and how to find one by name or path."""

from __future__ import annotations

import importlib
import pkgutil
import runpy
from pathlib import Path

from schemas.naming import nearest
from schemas.tables import Dataset


def names() -> list[str]:
    """Names of the logs that ship with mixrank."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(reference: str) -> Dataset:
    """Finds a dataset declaration.

    Args:
        reference: a name of `names()`, a dotted module path, or the path of a .py file. The module must define
            `DATASET`.

    Raises:
        ValueError: if there is no such module or it defines no `Dataset` under that name.
    """
    if reference.endswith(".py"):
        if not Path(reference).is_file():
            raise ValueError(f"dataset file {reference} does not exist")
        found = runpy.run_path(reference).get("DATASET")
    else:
        module = f"{__name__}.{reference}" if "." not in reference else reference
        try:
            found = getattr(importlib.import_module(module), "DATASET", None)
        except ModuleNotFoundError as error:
            if error.name not in (module, reference):
                raise
            raise ValueError(f"there is no dataset `{reference}`{nearest(reference, names())}") from None
    if not isinstance(found, Dataset):
        raise ValueError(
            f"{reference} must define DATASET = Dataset(spec=..., source=...), found {type(found).__name__}"
        )
    return found
