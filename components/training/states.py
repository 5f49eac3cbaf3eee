"""States of trainings in folders: their variables, and what a later training goes on from.

Large tables are written and read in blocks of rows, so that memory holds them once.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, assert_never

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from mixrank.components.training.exports import ORIGIN, is_state
from mixrank.components.training.settings import ModelSettings, TrainSettings
from mixrank.components.training.training_step import TrainingStep
from mixrank.components.training.warm_start import MovedRows, moved_rows
from mixrank.layers.ranking import model_inputs
from mixrank.layers.tokens import blocks, put
from mixrank.schemas import FeatureSpec, Hash, Vocab
from mixrank.schemas.arrow import lines_of, pa
from mixrank.schemas.files import abandoned, remove, write_folder_atomically

INDEX = "variables.json"
# Folders of a state that hold the variables and the vocabularies of their rows.
VARIABLES, VOCABULARIES = "variables", "vocabularies"
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
        _read_whole(folder, files, variable)


def _read_whole(folder: Path, files: Sequence[Mapping[str, Any]], variable: keras.Variable) -> None:
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
        kept = {
            "steps": steps,
            "origin": origin,
            "tables": {layer.name: layer.sizes for layer in step.tables},
            "trained": [step.tables[place].name for place in step.trained],
            "dense": [weight.path for weight in step.dense_weights],
        }
        (temporary / ORIGIN).write_text(json.dumps(kept, indent=1))
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
    if not is_state(folder):
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
    kept = json.loads((folder / ORIGIN).read_text())
    names = {id(variable): name for name, variable in step.state.items()}
    every = {name for layer in step.tables for name in layer.sizes}
    rows = _rows_of_tables(folder, kept, step, spec, transform_output, every)
    read_variables(folder / VARIABLES, step.state, {names[variable]: moved for variable, moved in rows.items()})
    first_slots = [slots[0] for slots in step.row_optimizer.slots[: len(step.trained)]]
    return sum(int((rows[id(slot)].source < 0).sum()) for slot in first_slots)


def _rows_of_tables(
    folder: Path,
    kept: Mapping[str, Any],
    step: TrainingStep,
    spec: FeatureSpec,
    transform_output: tft.TFTransformOutput,
    equal: Container[str],
) -> dict[int, MovedRows]:
    """`id` of a variable of tables, or of one of their slots -> where its rows were."""

    def vocabulary(name: str) -> pa.Array:
        return lines_of((folder / VOCABULARIES / name).read_bytes())

    rows = {}
    for place, layer in enumerate(step.tables):
        sizes = kept["tables"].get(layer.name, {})
        weights, slots = moved_rows(layer, spec, transform_output, sizes, vocabulary, equal)
        rows[id(layer.embeddings)] = weights
        if place in step.trained:
            rows |= {id(slot): slots for slot in step.row_optimizer.slots[step.trained.index(place)]}
    return rows


class Fitting(NamedTuple):
    """What a training of other columns or another model took over from a state.

    Args:
        taken: names of variables that have their values from there, whole or row by row.
        left: name -> why it begins afresh.
        gone: names of weights of the state that are not here.
    """

    taken: list[str]
    left: dict[str, str]
    gone: list[str]

    @property
    def said(self) -> str:
        """In lines: how much was taken, and what was not."""
        lines = [f"warm start: {len(self.taken):,} variables taken over"]
        lines += [f"  afresh: {name} ({why})" for name, why in self.left.items()]
        lines += [f"  not here any more: {name}" for name in self.gone]
        return "\n".join(lines)


def take_what_fits(
    folder: Path,
    step: TrainingStep,
    spec: FeatureSpec,
    transform_output: tft.TFTransformOutput,
    origin: Mapping[str, Any],
) -> Fitting:
    """Gives a training the variables of a state that it has too: same place in the model, same shape.

    Rows of tables are taken over value by value, feature by feature, where the width and the encoding are equal. The
    slots of an optimizer are taken over if both optimizers are of the same kind.

    Args:
        folder: as `keep_state` left it.
        step: the training, before its first step.
        spec, transform_output, origin: of this training.
    """
    kept = json.loads((folder / ORIGIN).read_text())
    index = json.loads((folder / VARIABLES / INDEX).read_text())
    there = {_place(entry["name"], entry["path"], kept["dense"], kept["trained"]): entry for entry in index}
    steps = steps_that_fit(folder, origin)
    encodings = kept["origin"]["encodings"], origin["encodings"]
    # Rows of frozen tables are those of a file.
    frozen = {id(layer.embeddings) for place, layer in enumerate(step.tables) if place not in step.trained}
    taken: list[str] = []
    left: dict[str, str] = {}
    equal: set[str] = set()
    for place in step.trained:
        layer = step.tables[place]
        sizes = kept["tables"].get(layer.name, {})
        for name, size in layer.sizes.items():
            # Of a vocabulary the number of rows may be another one.
            same = encodings[0].get(name) == encodings[1][name] if name in encodings[1] else sizes.get(name) == size
            if name in sizes and same:
                equal.add(name)
            else:
                left[f"table of {name}"] = "other rows there" if name in sizes else f"not in {layer.name} there"
    rows = _rows_of_tables(folder, kept, step, spec, transform_output, equal)
    dense, tables = [weight.path for weight in step.dense_weights], [step.tables[each].name for each in step.trained]
    here = {_place(name, variable.path, dense, tables): (name, variable) for name, variable in step.state.items()}
    for what, (name, variable) in here.items():
        of_optimizer = name.startswith(("optimizer/", "tables/"))
        if id(variable) in frozen or (of_optimizer and not steps):
            continue
        entry, moved = there.get(what), rows.get(id(variable))
        wanted = list(variable.shape) if moved is None else [moved.size, *variable.shape[1:]]
        if entry is None or entry["shape"] != wanted:
            if not of_optimizer:
                left[what] = "not there" if entry is None else f"{entry['shape']} there, {wanted} here"
        elif moved is None:
            _read_whole(folder / VARIABLES, entry["files"], variable)
            taken.append(what)
        else:
            _read_moved(folder / VARIABLES, entry["files"], variable, moved)
            taken.append(what)
    gone = [what for what, entry in there.items() if what not in here and entry["name"].startswith("model/")]
    return Fitting(taken, left, gone)


def _place(name: str, path: str, dense: Sequence[str], tables: Sequence[str]) -> str:
    """What a variable of a state is in every model: the path of a weight, or which slot of which weight or table."""
    kind, _, rest = name.partition("/")
    if kind == "model":
        return path
    slot, _, number = rest.rpartition("/")
    if kind == "optimizer" and slot:
        return f"{slot} of {dense[int(number)]}"
    if kind == "tables" and int(slot) < len(tables):
        return f"slot {number} of {tables[int(slot)]}"
    return name


def steps_that_fit(folder: Path, origin: Mapping[str, Any]) -> int:
    """Number of steps that led to a state, 0 if its optimizers were of other kinds, so that their slots are no use."""
    kept = json.loads((folder / ORIGIN).read_text())
    same = all(kept["origin"][kind] == origin[kind] for kind in ("optimizer", "embedding_optimizer"))
    return int(kept["steps"]) if same else 0


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`"""
    if not isinstance(value, dict):
        return {name: value}
    parts = (_flat(part, f"{name}.{key}" if name else key) for key, part in value.items())
    return {key: found for each in parts for key, found in each.items()}
