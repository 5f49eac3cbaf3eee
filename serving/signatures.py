"""Export: a SavedModel that takes raw columns, in a form that every loader accepts.

Two signatures share one graph (Transform, model, sigmoid):

* `serving_default`: serialized tf.Examples under `examples`; for evaluation, batch scoring and gRPC.
* `score_rows`: named columns with a batch axis; for REST clients without TensorFlow or protobuf.

Both answer one probability per task, `(batch, 1)`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft

from schemas.encode import PADDING, columns
from schemas.features import FeatureSpec, Numeric
from schemas.tfmd import parsing_spec

METADATA = "assets.extra/mixrank.json"


class Scorer(tf.Module):
    """Raw columns -> probabilities.

    Session-style loaders find a variable only if it hangs on the exported object itself. So this module tracks the raw
    variables and the Transform layer, while the Keras model lives in a closure.

    Args:
        spec: columns of a row.
        model: functional model from `layers.ranker`, transformed inputs -> logit per task; built outside any
            distribution strategy.
        transform_output: result of the Transform component.
    """

    def __init__(self, spec: FeatureSpec, model: keras.Model, transform_output: tft.TFTransformOutput) -> None:
        super().__init__()
        self.weights = [variable.value for variable in model.variables]
        self.transform_layer = transform_output.transform_features_layer()
        inputs = [tensor.name for tensor in model.inputs]

        def score(raw: Mapping[str, tf.RaggedTensor]) -> dict[str, tf.Tensor]:
            with tf.control_dependencies(_require(spec, raw)):
                row = self.transform_layer(dict(raw))
                logits = model({name: row[name] for name in inputs}, training=False)
                return {task: tf.sigmoid(tf.reshape(logits[task], [-1, 1])) for task in spec.tasks}

        self.score: Callable[[Mapping[str, tf.RaggedTensor]], dict[str, tf.Tensor]] = score


def export(
    directory: str | Path,
    *,
    spec: FeatureSpec,
    model: keras.Model,
    transform_output: tft.TFTransformOutput,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes the SavedModel under a temporary name and renames it.

    Beside it, `assets.extra/mixrank.json` holds the spec, `metadata` and where each embedding table and its vocabulary
    lie, so that a later training can take rows over by token.

    Args:
        directory: must not exist, or be empty.
        spec, model, transform_output: as in `Scorer`.
        metadata: JSON-serializable, for instance the model's name and parameters.

    Raises:
        ValueError: if `directory` holds something already.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"`directory` must be empty, {directory} is not")
    scorer = Scorer(spec, model, transform_output)
    signatures = {"serving_default": _examples_signature(spec, scorer), "score_rows": _rows_signature(spec, scorer)}
    temporary = directory.with_name(directory.name + ".partial")
    described = {**(metadata or {}), "spec": spec.model_dump(mode="json"), "embeddings": _embeddings(spec, model)}
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        tf.saved_model.save(scorer, str(temporary), signatures=signatures)
        extra = temporary / METADATA
        extra.parent.mkdir()
        extra.write_text(json.dumps(described, indent=1))
        if directory.exists():
            directory.rmdir()
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def row_columns(spec: FeatureSpec) -> dict[str, tf.TensorSpec]:
    """Inputs of `score_rows`: column -> shape and type.

    Scalars are `(batch,)`, multi-valued columns `(batch, max_length)`, histories `(batch, length)`, filled up behind
    the newest events with `schemas.encode.PADDING`. A missing scalar is that padding too, a missing number NaN.
    """
    kinds = {"int": tf.int64, "str": tf.string, "float": tf.float32}
    return {
        c.name: tf.TensorSpec([None] if c.length is None else [None, c.length], kinds[c.kind], name=c.name)
        for c in columns(spec)
        if c.serving
    }


def _examples_signature(spec: FeatureSpec, scorer: Scorer) -> Any:
    parsing = parsing_spec(spec, labels=False)

    # There is no Python control flow to convert, and converting every layer takes longer than tracing them.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return scorer.score(tf.io.parse_example(examples, parsing))

    return serving_default


def _rows_signature(spec: FeatureSpec, scorer: Scorer) -> Any:
    def score_rows(**row: tf.Tensor) -> dict[str, tf.Tensor]:
        return scorer.score({name: _ragged(column) for name, column in row.items()})

    return tf.function(score_rows, autograph=False).get_concrete_function(**row_columns(spec))


def _ragged(column: tf.Tensor) -> tf.RaggedTensor:
    if column.shape.rank == 2:
        # Padding inside a history marks an event without this attribute: it must keep its place.
        return tf.RaggedTensor.from_tensor(column)
    column = column[:, None]
    if column.dtype == tf.float32:
        return tf.ragged.boolean_mask(column, tf.math.is_finite(column))
    padding = PADDING["str"] if column.dtype == tf.string else PADDING["int"]
    return tf.ragged.boolean_mask(column, tf.not_equal(column, tf.constant(padding, column.dtype)))


def _require(spec: FeatureSpec, raw: Mapping[str, tf.RaggedTensor]) -> list[tf.Operation]:
    return [
        tf.debugging.assert_positive(
            raw[column.name].row_lengths(), message=f"required column `{column.name}` is missing in at least one row"
        )
        for column in columns(spec)
        if column.serving and column.required
    ]


def _embeddings(spec: FeatureSpec, model: keras.Model) -> dict[str, dict[str, Any]]:
    found = {}
    for number, variable in enumerate(model.variables):
        for feature in spec.inputs:
            if not isinstance(feature, Numeric) and f"embedding_{feature.name}/" in f"{variable.path}/":
                found[feature.name] = {
                    "variable": f"weights/{number}/.ATTRIBUTES/VARIABLE_VALUE",
                    "vocabulary": f"assets/{feature.name}" if feature.vocab.type == "vocab" else None,
                    "shape": list(variable.shape),
                }
    return found
