"""States of trainings in folders: their variables, and what a later training goes on from.

Large tables are written and read in blocks of rows, so that memory holds them once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from mixrank.components.training.model_factory import BLOCK, vocabulary_sizes
from mixrank.components.training.settings import ModelSettings, TrainSettings
from mixrank.components.training.training_step import TrainingStep
from mixrank.layers.ranking import model_inputs
from mixrank.layers.tokens import blocks, put
from mixrank.schemas import FeatureSpec
from mixrank.schemas.files import abandoned, remove, write_folder_atomically

INDEX = "variables.json"
# Folder of a state that holds the variables, and file of one that another training goes on from: what it is a state of.
VARIABLES, ORIGIN = "variables", "origin.json"
# Differences that an error names.
NAMED = 3


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


def origin_of(
    spec: FeatureSpec, model: ModelSettings, settings: TrainSettings, transform_output: tft.TFTransformOutput
) -> dict[str, Any]:
    """What must be equal in two trainings for one to go on from the other: model, columns, vocabularies, optimizers.

    Args:
        spec: columns of a row.
        model: resolved, without `match_params`.
        settings: how to train; of them the kinds of the optimizers count, not their rates.
        transform_output: its vocabularies, by number of ids and by content.
    """
    vocabularies: dict[str, Any] = {
        name: {"ids": size} for name, size in vocabulary_sizes(spec, transform_output).items()
    }
    for name in spec.vocabularies:
        vocabularies[name]["values"] = _digest(transform_output.vocabulary_file_by_name(name))
    return {
        "model": model.model_dump(mode="json", exclude={"match_params"}),
        "tasks": list(spec.tasks),
        "inputs": list(model_inputs(spec)),
        "vocabularies": vocabularies,
        "optimizer": settings.optimizer.name,
        "embedding_optimizer": settings.embedding_optimizer.name,
    }


def keep_state(folder: Path, step: TrainingStep, origin: Mapping[str, Any]) -> None:
    """Writes weights, random states, optimizer slots and the number of steps; one that is there is replaced.

    Args:
        folder: gets the state, whole or not at all.
        step: the training, at its end.
        origin: as of `origin_of`.
    """
    for left in (*abandoned(folder.parent, folder.name), *([folder] if folder.exists() else [])):
        remove(left)

    def write(temporary: Path) -> None:
        write_variables(temporary / VARIABLES, step.state)
        steps = int(np.asarray(step.optimizer.iterations))
        (temporary / ORIGIN).write_text(json.dumps({"steps": steps, "origin": origin}, indent=1))

    write_folder_atomically(folder, write)


def steps_before(folder: Path, origin: Mapping[str, Any]) -> int:
    """Number of steps that led to a state.

    Args:
        folder: as `keep_state` left it.
        origin: of the training that goes on from it.

    Raises:
        ValueError: if the folder holds no state, or that of another model, optimizer or vocabulary, naming what
            differs.
    """
    if not (folder / ORIGIN).is_file():
        raise ValueError(f"{folder} holds no state of a training (`train.keep_state` writes one)")
    kept = json.loads((folder / ORIGIN).read_text())
    there, here = _flat(kept["origin"]), _flat(json.loads(json.dumps(origin)))
    different = [name for name in [*here, *(set(there) - set(here))] if there.get(name) != here.get(name)]
    # Other values are another number of ids as well, mostly.
    named = [name for name in different if not (name.endswith(".values") and f"{name[:-7]}.ids" in different)]
    if named:
        said = "; ".join(_difference(name, there.get(name), here.get(name)) for name in named[:NAMED])
        more = f"; and {len(named) - NAMED} more" if len(named) > NAMED else ""
        raise ValueError(f"{folder} is the state of another training, from which this one cannot go on: {said}{more}")
    return int(kept["steps"])


def take_state(folder: Path, step: TrainingStep) -> None:
    """Gives a compiled training the variables of a state.

    Args:
        folder: as `keep_state` left it; `steps_before` has been asked about it.
        step: the training, before its first step.

    Raises:
        ValueError: if it has other variables, which differ.
    """
    read_variables(folder / VARIABLES, step.state)


def _difference(name: str, there: Any, here: Any) -> str:
    if name.startswith("vocabularies.") and name.endswith(".values") and there and here:
        return f"{name.removesuffix('.values')} holds other values"
    return f"{name} is {json.dumps(there)} there and {json.dumps(here)} here"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`"""
    if not isinstance(value, dict):
        return {name: value}
    parts = (_flat(part, f"{name}.{key}" if name else key) for key, part in value.items())
    return {key: found for each in parts for key, found in each.items()}


def _digest(path: str) -> str:
    found = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            found.update(block)
    return found.hexdigest()[:16]
