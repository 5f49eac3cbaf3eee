"""States of trainings in folders: their variables, and what a later training goes on from.

Large tables are written and read in blocks of rows, so that memory holds them once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, assert_never

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from mixrank.components.training.settings import ModelSettings, TrainSettings
from mixrank.components.training.training_step import TrainingStep
from mixrank.components.training.warm_start import MovedRows, moved_rows
from mixrank.layers.ranking import model_inputs
from mixrank.layers.tokens import blocks, put
from mixrank.schemas import FeatureSpec, Hash, Vocab
from mixrank.schemas.arrow import lines_of
from mixrank.schemas.files import abandoned, remove, write_folder_atomically

INDEX = "variables.json"
# Folders of a state that hold the variables and the vocabularies of their rows, and its file: what it is a state of.
VARIABLES, VOCABULARIES, ORIGIN = "variables", "vocabularies", "origin.json"
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


def read_variables(
    folder: Path,
    variables: Mapping[str, keras.Variable],
    moved: Mapping[str, MovedRows] = MappingProxyType({}),
) -> None:
    """Gives variables the values that a folder holds under their names.

    Args:
        folder: as `write_variables` left it.
        variables: name -> variable, all that the folder holds, in any order.
        moved: name -> where its rows were, for those whose rows are others now.

    Raises:
        ValueError: if the folder holds the variables of another model or another optimizer; nothing is changed then.
    """
    index = {entry["name"]: entry for entry in json.loads((folder / INDEX).read_text())}
    shapes = {name: list(variable.shape) for name, variable in variables.items()}
    shapes |= {name: [rows.size, *shapes[name][1:]] for name, rows in moved.items()}
    # Keras counts on in the paths of a second model of one process, so that they are only shown.
    wrong = [
        *(
            f"{name} ({index[name]['path']}) is {index[name]['shape']} there and {shape} here"
            for name, shape in shapes.items()
            if name in index and index[name]["shape"] != shape
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
        if name in moved:
            _read_moved(folder, files, variable, moved[name])
            continue
        for file in files:
            values = np.load(folder / file["name"], allow_pickle=False)
            if len(files) == 1:
                variable.assign(values)
            else:
                put(variable, file["first"], values)


def _read_moved(folder: Path, files: Sequence[Mapping[str, Any]], variable: keras.Variable, rows: MovedRows) -> None:
    """Gives every row of a variable what the row had that it was; a block of it and of a file is in memory at once."""
    for first, values in blocks(variable):
        source = rows.source[first : first + len(values)]
        found = np.array(values)
        for file in files:
            there = np.load(folder / file["name"], allow_pickle=False, mmap_mode="r")
            here = (source >= file["first"]) & (source < file["first"] + len(there))
            found[here] = there[source[here] - file["first"]]
        put(variable, first, found)


def origin_of(spec: FeatureSpec, model: ModelSettings, settings: TrainSettings) -> dict[str, Any]:
    """What must be equal in two trainings for one to go on from the other: model, columns, encodings, optimizers.

    Vocabularies need not be: their rows are taken over value by value.

    Args:
        spec: columns of a row.
        model: resolved, without `match_params`.
        settings: how to train; of them the kinds of the optimizers count, not their rates.
    """
    encodings: dict[str, Any] = {}
    for feature in spec.looked_up:
        match feature.vocab:
            case Vocab(oov=oov):
                encodings[feature.name] = {"oov": oov}
            case Hash(size=size, functions=functions):
                encodings[feature.name] = {"buckets": size, "functions": functions}
            case _:
                assert_never(feature.vocab)
    return {
        "model": model.model_dump(mode="json", exclude={"match_params"}),
        "tasks": list(spec.tasks),
        "inputs": list(model_inputs(spec)),
        "encodings": encodings,
        "optimizer": settings.optimizer.name,
        "embedding_optimizer": settings.embedding_optimizer.name,
    }


def keep_state(
    folder: Path,
    step: TrainingStep,
    origin: Mapping[str, Any],
    spec: FeatureSpec,
    transform_output: tft.TFTransformOutput,
) -> None:
    """Writes weights, random states, optimizer slots, number of steps, vocabularies; one that is there is replaced.

    Args:
        folder: gets the state, whole or not at all.
        step: the training, at its end.
        origin: as of `origin_of`.
        spec, transform_output: the vocabularies.
    """
    for left in (*abandoned(folder.parent, folder.name), *([folder] if folder.exists() else [])):
        remove(left)

    def write(temporary: Path) -> None:
        write_variables(temporary / VARIABLES, step.state)
        steps = int(np.asarray(step.optimizer.iterations))
        (temporary / ORIGIN).write_text(json.dumps({"steps": steps, "origin": origin}, indent=1))
        (temporary / VOCABULARIES).mkdir()
        for name in spec.vocabularies:
            tf.io.gfile.copy(transform_output.vocabulary_file_by_name(name), str(temporary / VOCABULARIES / name))

    write_folder_atomically(folder, write)


def steps_before(folder: Path, origin: Mapping[str, Any]) -> int:
    """Number of steps that led to a state.

    Args:
        folder: as `keep_state` left it.
        origin: of the training that goes on from it.

    Raises:
        ValueError: if the folder holds no state, or that of another model, optimizer or encoding, naming what
            differs.
    """
    if not (folder / ORIGIN).is_file():
        raise ValueError(f"{folder} holds no state of a training (`train.keep_state` writes one)")
    kept = json.loads((folder / ORIGIN).read_text())
    there, here = _flat(kept["origin"]), _flat(json.loads(json.dumps(origin)))
    different = [name for name in [*here, *(set(there) - set(here))] if there.get(name) != here.get(name)]
    if different:
        said = "; ".join(
            f"{name} is {json.dumps(there.get(name))} there and {json.dumps(here.get(name))} here"
            for name in different[:NAMED]
        )
        more = f"; and {len(different) - NAMED} more" if len(different) > NAMED else ""
        raise ValueError(f"{folder} is the state of another training, from which this one cannot go on: {said}{more}")
    return int(kept["steps"])


def take_state(folder: Path, step: TrainingStep, spec: FeatureSpec, transform_output: tft.TFTransformOutput) -> int:
    """Gives a compiled training the variables of a state.

    Rows of tables go to where their values are now. A value that is new begins with the row of its out-of-vocabulary
    bucket, or, where embeddings begin with `initial` vectors, with its own; and with empty optimizer slots.

    Args:
        folder: as `keep_state` left it; `steps_before` has been asked about it.
        step: the training, before its first step.
        spec, transform_output: the vocabularies of today.

    Returns:
        Number of rows that are new.

    Raises:
        ValueError: if it has other variables, which differ.
    """
    if not spec.vocabularies:
        read_variables(folder / VARIABLES, step.state)
        return 0
    moved, new = {}, 0
    names = {id(variable): name for name, variable in step.state.items()}
    for place, layer in enumerate(step.tables):
        weights, slots = moved_rows(
            layer, spec, lambda name: lines_of((folder / VOCABULARIES / name).read_bytes()), transform_output
        )
        moved[names[id(layer.embeddings)]] = weights
        new += int((slots.source < 0).sum())
        if place in step.trained:
            for slot in step.row_optimizer.slots[step.trained.index(place)]:
                moved[names[id(slot)]] = slots
    read_variables(folder / VARIABLES, step.state, moved)
    return new


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`"""
    if not isinstance(value, dict):
        return {name: value}
    parts = (_flat(part, f"{name}.{key}" if name else key) for key, part in value.items())
    return {key: found for each in parts for key, found in each.items()}
