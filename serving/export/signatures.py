"""Export: a SavedModel that takes raw columns, in a form that every loader accepts.

Three signatures share Transform, tables and layers:

* `serving_default`: serialized tf.Examples under `examples`; for evaluation, batch scoring and gRPC.
* `score_rows`: named columns with a batch axis; for REST clients without TensorFlow or protobuf.
* `rank_candidates`: the columns of one request and, with an axis of candidates, those of its items; work that does not
  depend on the candidate is done once per request.

All return one prediction per task, `(batch, 1)` or `(candidates, 1)`; for a binary task it is a probability. For a
label with classes it is their mean, and the probability of each is an output of the same shape besides: `stars`,
`stars_1`, `stars_2`, ... If a prediction is not finite, the request fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform.saved.saved_transform_io_v2 import SavedModelLoader

from mixrank.layers.ranking import request_ranker, tables_of
from mixrank.layers.task_kinds import predicted
from mixrank.schemas import FeatureSpec, Label
from mixrank.schemas.encode import PADDING, Column, columns
from mixrank.schemas.files import write_folder_atomically
from mixrank.schemas.tfmd import parsing_spec
from mixrank.serving.base import METADATA, write_sums
from mixrank.serving.export.shapes import Axes, Count, checked, tensor_spec

_TYPES = {"int": tf.int64, "str": tf.string, "float": tf.float32}


class Scorer(tf.Module):
    """Raw columns -> predictions: `answer(ranker, raw, checks)`; the operations `checks` must run first.

    Session-style loaders find a variable only if the exported object itself tracks it. So this module tracks the raw
    variables and the Transform graph, while the Keras model lives in a closure.

    Args:
        spec: columns of a row.
        model: functional model of `build_ranker`, transformed inputs -> logit per task; built outside any
            distribution strategy. `answer` takes it or another that shares its weights.
        transform_output: result of the Transform component.
    """

    def __init__(self, spec: FeatureSpec, model: keras.Model, transform_output: tft.TFTransformOutput) -> None:
        super().__init__()
        self.weights = [variable.value for variable in model.variables]
        # Does what `transform_features_layer()` does, but that is a legacy Keras model, which every save traces again.
        transform = SavedModelLoader(transform_output.transform_savedmodel_dir)
        self.transform = vars(transform)

        def answer(
            ranker: keras.Model, raw: Mapping[str, tf.RaggedTensor], checks: Sequence[tf.Operation]
        ) -> dict[str, tf.Tensor]:
            # A column is transformed by itself; a match takes one history for many items, and a cross one user. So
            # columns of the request may have one row while those of the items have many.
            transformed = transform.apply_transform_model(dict(raw))
            with tf.control_dependencies(checks):
                # Make each input depend on the checks; otherwise a shape mismatch could raise before our clearer error.
                row = {name: tf.identity(transformed[name]) for name in ranker.input}
            for name, tensor in ranker.input.items():
                row[name].set_shape(tensor.shape)
            logits = ranker(row, training=False)
            return {
                output: answer
                for label in spec.labels
                for output, answer in _predictions(label, logits[label.name], transformed).items()
            }

        self.answer: Callable[..., dict[str, tf.Tensor]] = answer


def export(
    directory: str | Path,
    *,
    spec: FeatureSpec,
    model: keras.Model,
    transform_output: tft.TFTransformOutput,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes the SavedModel whole or not at all.

    With it, `assets.extra/mixrank.json` holds the spec, `metadata` and the place of each embedding table and vocabulary
    in the SavedModel, so that a later training can copy rows by token.

    Args:
        directory: must not exist, or be empty.
        spec, model, transform_output: as in `Scorer`.
        metadata: JSON-serializable, such as the model's name and parameters.

    Raises:
        ValueError: if `directory` is not empty.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"`directory` must be empty, {directory} is not")
    scorer = Scorer(spec, model, transform_output)
    signatures = {
        "serving_default": _examples_signature(spec, scorer, model),
        "score_rows": _rows_signature(spec, scorer, model),
    }
    if any(column.candidate for column in columns(spec)):
        signatures["rank_candidates"] = _request_signature(spec, scorer, request_ranker(spec, model))
    described = {**(metadata or {}), "spec": spec.model_dump(mode="json"), "embeddings": _embeddings(spec, model)}

    def write(folder: Path) -> None:
        tf.saved_model.save(scorer, str(folder), signatures=signatures)
        extra = folder / METADATA
        extra.parent.mkdir()
        extra.write_text(json.dumps(described, indent=1))
        write_sums(folder)

    write_folder_atomically(directory, write)


def row_columns(spec: FeatureSpec) -> dict[str, tf.TensorSpec]:
    """Inputs of `score_rows`: column -> shape and type.

    Scalars are `(batch,)`, multi-valued columns `(batch, max_length)`, vectors `(batch, dim)`, histories `(batch,
    length)`, padded after the last event with `PADDING`. A missing scalar is that padding too, a missing number is NaN,
    a missing vector NaN throughout.
    """
    return _declared(spec, _row_axes(spec))


def request_columns(spec: FeatureSpec) -> dict[str, tf.TensorSpec]:
    """Inputs of `rank_candidates`: column -> shape and type.

    Columns of the item are `(candidates,)`, multi-valued ones `(candidates, max_length)`. Those of the request have no
    batch axis: `()` for a single value, `(dim,)` for a vector, `(values,)` for multi-valued columns and histories,
    newest event first and of any length: events beyond the spec's length are not read. Missing values are encoded as in
    `row_columns`.
    """
    return _declared(spec, _request_axes(spec))


def _declared(spec: FeatureSpec, axes: Mapping[str, Axes]) -> dict[str, tf.TensorSpec]:
    return {c.name: tensor_spec(c.name, _TYPES[c.kind], axes[c.name]) for c in columns(spec) if c.serving}


def _row_axes(spec: FeatureSpec, rows: str = "rows") -> dict[str, Axes]:
    return {c.name: (Count(rows),) if c.length is None else (Count(rows), c.length) for c in columns(spec) if c.serving}


def _request_axes(spec: FeatureSpec) -> dict[str, Axes]:
    def axes(column: Column) -> Axes:
        if column.length is None:
            return ()
        if column.exact:
            return (column.length,)
        if column.history is None:
            return (Count(f"values of `{column.name}`"),)
        return (Count(f"events of `{column.history}`", column.width),)

    of_rows = _row_axes(spec, "candidates")
    return {c.name: of_rows[c.name] if c.candidate else axes(c) for c in columns(spec) if c.serving}


def _examples_signature(spec: FeatureSpec, scorer: Scorer, model: keras.Model) -> Any:
    parsing = parsing_spec(spec, labels=False)
    axes: dict[str, Axes] = {"examples": (Count("rows"),)}

    # There is no Python control flow to convert, and converting all layers takes longer than tracing them.
    @tf.function(input_signature=[tensor_spec("examples", tf.string, axes["examples"])], autograph=False)
    def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        raw = tf.io.parse_example(checked({"examples": examples}, axes)["examples"], parsing)
        return scorer.answer(model, raw, _require(spec, raw))

    return serving_default


def _rows_signature(spec: FeatureSpec, scorer: Scorer, model: keras.Model) -> Any:
    def score_rows(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        row = checked(given, _row_axes(spec))
        raw = {c.name: _ragged(c, row[c.name]) for c in columns(spec) if c.serving}
        return scorer.answer(model, raw, _require(spec, raw))

    return tf.function(score_rows, autograph=False).get_concrete_function(**row_columns(spec))


def _request_signature(spec: FeatureSpec, scorer: Scorer, ranker: keras.Model) -> Any:
    def rank_candidates(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        # The row form gives every input an axis of rows, which this signature has no place for.
        request = checked(given, _request_axes(spec), note=", as `inputs` and not as `instances`")
        served = [c for c in columns(spec) if c.serving]
        raw = {c.name: _ragged(c, request[c.name] if c.candidate else request[c.name][None]) for c in served}
        return scorer.answer(ranker, raw, _require(spec, raw))

    return tf.function(rank_candidates, autograph=False).get_concrete_function(**request_columns(spec))


def _ragged(column: Column, values: tf.Tensor) -> tf.RaggedTensor:
    """Values `(rows,)` or `(rows, length)` as Transform takes them.

    Padding after the last value is removed; a missing value before it keeps its place. In a history all padding stays.
    """
    padding = tf.constant(PADDING[column.kind], values.dtype)
    if column.kind == "float":
        present = tf.math.is_finite(values)
        values = tf.where(present, values, padding)
    else:
        present = tf.not_equal(values, padding)
    if column.history is not None:
        return tf.RaggedTensor.from_tensor(values)
    if column.length is None:
        values, present = values[:, None], present[:, None]
    places = tf.range(1, tf.shape(values, tf.int64)[1] + 1)
    # Where there are no places, the maximum is far below 0.
    lengths = tf.maximum(tf.reduce_max(tf.where(present, places, 0), axis=1), 0)
    return tf.RaggedTensor.from_tensor(values, lengths=lengths)


def _require(spec: FeatureSpec, raw: Mapping[str, tf.RaggedTensor]) -> list[tf.Operation]:
    checks = []
    for column in columns(spec):
        if column.serving and column.required:
            message = f"required column `{column.name}` is missing in at least one row"
            checks.append(tf.debugging.assert_positive(raw[column.name].row_lengths(), message=message))
        if column.serving and column.exact and column.length is not None:
            # Transform would take it for a missing one.
            message = f"column `{column.name}` takes exactly {column.length} finite numbers, or none"
            finite = tf.reduce_sum(tf.cast(tf.math.is_finite(raw[column.name]), tf.int64), axis=1)
            lengths = raw[column.name].row_lengths()
            fits = tf.logical_and(tf.equal(finite, lengths), (lengths == 0) | (lengths == column.length))
            checks.append(tf.debugging.Assert(tf.reduce_all(fits), [message]))
    return checks


def _predictions(label: Label, logits: tf.Tensor, row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    finite = tf.debugging.check_numerics(logits, f"the model has no finite score for task `{label.name}`")
    return {output: answer[:, None] for output, answer in predicted(label, finite, row).items()}


def _embeddings(spec: FeatureSpec, model: keras.Model) -> dict[str, dict[str, Any]]:
    # A variable is saved under its position in the list of all variables.
    places = {id(v): f"weights/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number, v in enumerate(model.variables)}
    found = {}
    tables = tables_of(model)
    for feature in spec.looked_up:
        layer, first, size = tables[feature.name]
        functions = layer.functions_of(feature.name)
        found[feature.name] = {
            "variable": places[id(layer.embeddings)],
            "first_row": first,
            "vocabulary": f"assets/{feature.name}" if feature.name in spec.vocabularies else None,
            "shape": [size, layer.dim],
            **({"scale": places[id(layer.scale)]} if layer.storage == "int8" else {}),
            **({"functions": functions} if functions > 1 else {}),
        }
    return found
