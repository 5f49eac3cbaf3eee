"""Variables of a training in a folder, and back; large tables in blocks of rows, so that memory holds them once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mixrank.layers.tokens import blocks, put

INDEX = "variables.json"


def write_variables(folder: Path, variables: Sequence[keras.Variable]) -> None:
    """Writes variables into a folder, which is made.

    Args:
        folder: gets `variables.json`, which lists path, shape and files of every variable, and one `.npy` file per
            block of rows.
        variables: in an order that a later `read_variables` repeats.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for number, variable in enumerate(variables):
        parts = blocks(variable) if len(variable.shape) else [(0, np.asarray(variable))]
        files: list[dict[str, Any]] = []
        for first, rows in parts:
            name = f"{number:05d}-{len(files):05d}.npy"
            np.save(folder / name, rows, allow_pickle=False)
            files.append({"first": first, "name": name})
        index.append({"path": variable.path, "shape": list(variable.shape), "files": files})
    (folder / INDEX).write_text(json.dumps(index))


def read_variables(folder: Path, variables: Sequence[keras.Variable]) -> None:
    """Gives variables the values that a folder holds.

    Args:
        folder: as `write_variables` left it.
        variables: those of the same model, in the same order.

    Raises:
        ValueError: if the folder holds the variables of another model.
    """
    index = json.loads((folder / INDEX).read_text())
    # Keras counts on in the names of a second model of one process, so that only shapes can be compared.
    pairs = list(zip(index, variables, strict=False))
    other = next(((a, b) for a, b in pairs if a["shape"] != list(b.shape)), None)
    if other is not None or len(index) != len(variables):
        first = f"{other[0]['path']} {other[0]['shape']} where this one has {list(other[1].shape)}" if other else ""
        raise ValueError(
            f"{folder} holds {len(index)} variables of another model than this one with {len(variables)}: "
            f"{first or 'the first ones agree'}"
        )
    for entry, variable in zip(index, variables, strict=True):
        for file in entry["files"]:
            values = np.load(folder / file["name"], allow_pickle=False)
            if len(entry["files"]) == 1:
                variable.assign(values)
            else:
                put(variable, file["first"], values)
