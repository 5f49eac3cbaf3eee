"""Variables of a training in a folder, and back; large tables in blocks of rows, so that memory holds them once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mixrank.layers.tokens import blocks, put

INDEX = "variables.json"


def write_variables(folder: Path, variables: Mapping[str, keras.Variable]) -> None:
    """Writes variables into a folder, which is made.

    Args:
        folder: gets `variables.json`, which lists name, path, shape and files of every variable, and one `.npy` file
            per block of rows.
        variables: name -> variable, by names that a later `read_variables` repeats.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for number, (given, variable) in enumerate(variables.items()):
        parts = blocks(variable) if len(variable.shape) else [(0, np.asarray(variable))]
        files: list[dict[str, Any]] = []
        for first, rows in parts:
            name = f"{number:05d}-{len(files):05d}.npy"
            np.save(folder / name, rows, allow_pickle=False)
            files.append({"first": first, "name": name})
        index.append({"name": given, "path": variable.path, "shape": list(variable.shape), "files": files})
    (folder / INDEX).write_text(json.dumps(index))


def read_variables(folder: Path, variables: Mapping[str, keras.Variable]) -> None:
    """Gives variables the values that a folder holds under their names.

    Args:
        folder: as `write_variables` left it.
        variables: name -> variable, all that the folder holds, in any order.

    Raises:
        ValueError: if the folder holds the variables of another model or another optimizer; nothing is changed then.
    """
    index = {entry["name"]: entry for entry in json.loads((folder / INDEX).read_text())}
    # Keras counts on in the paths of a second model of one process, so that they are only shown.
    wrong = [
        *(
            f"{name} ({index[name]['path']}) is {index[name]['shape']} there and {list(variable.shape)} here"
            for name, variable in variables.items()
            if name in index and index[name]["shape"] != list(variable.shape)
        ),
        *(f"{name} ({entry['path']}) is not here" for name, entry in index.items() if name not in variables),
        *(f"{name} ({variable.path}) is not there" for name, variable in variables.items() if name not in index),
    ]
    if wrong:
        raise ValueError(
            f"{folder} holds {len(index)} variables of another model or optimizer than this one with {len(variables)}: "
            f"{wrong[0]}{f', and {len(wrong) - 1} more' if len(wrong) > 1 else ''}"
        )
    for name, variable in variables.items():
        files = index[name]["files"]
        for file in files:
            values = np.load(folder / file["name"], allow_pickle=False)
            if len(files) == 1:
                variable.assign(values)
            else:
                put(variable, file["first"], values)
