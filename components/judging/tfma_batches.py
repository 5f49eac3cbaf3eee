"""Feeding TFMA whole batches, one per slice, instead of single examples.

TFMA unpacks every example into a dictionary of all its features and passes it, by itself, to every metric of every
slice. Here only the columns that slices and metrics read are kept, and a batch is cut into one element per value of
the slicing columns, so that the cost per example is that of a few NumPy operations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis import constants
from tensorflow_model_analysis.extractors import slice_key_extractor

from mixrank.schemas.arrow import pa

PER_EXAMPLE = (constants.FEATURES_KEY, constants.LABELS_KEY, constants.PREDICTIONS_KEY)


def extractors(eval_shared_model: Any, eval_config: tfma.EvalConfig, tensor_adapter_config: Any) -> list[Any]:
    """TFMA's default extractors with column selection in front and one element per slice in place of one per example.

    Args:
        eval_shared_model, tensor_adapter_config: as in `tfma.default_extractors`.
        eval_config: its metrics must all accept elements of many examples, as `Ranking` does.
    """
    slicing = sorted({key for spec in eval_config.slicing_specs for key in spec.feature_keys})
    measured = [json.loads(metric.config) for spec in eval_config.metrics_specs for metric in spec.metrics]
    read = ("group_key", "request_key", "weight")
    groups = {metric[key] for metric in measured for key in read if metric[key] is not None}
    groups |= {name for metric in measured for name in metric["where"]}
    labels = {label for model in eval_config.model_specs for label in model.label_keys.values()}
    columns = {constants.ARROW_INPUT_COLUMN, *slicing, *groups, *labels}
    default = tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
    )
    until_predictions = default[: [e.stage_name for e in default].index("ExtractUnbatchedInputs")]
    return [
        tfma.extractors.Extractor("SelectColumns", beam.Map(select_columns, columns)),
        *until_predictions,
        tfma.extractors.Extractor("OneElementPerSlice", beam.FlatMap(split_by_slice, slicing)),
        slice_key_extractor.SliceKeyExtractor(eval_config=eval_config, materialize=False),
    ]


def select_columns(extracts: dict[str, Any], columns: set[str]) -> dict[str, Any]:
    """The extracts with only `columns` left in their Arrow batch."""
    batch = extracts[constants.ARROW_RECORD_BATCH_KEY]
    kept = [index for index, name in enumerate(batch.schema.names) if name in columns]
    selected = pa.RecordBatch.from_arrays([batch.column(i) for i in kept], [batch.schema.names[i] for i in kept])
    return {**extracts, constants.ARROW_RECORD_BATCH_KEY: selected}


def split_by_slice(extracts: dict[str, Any], slicing: list[str]) -> Iterable[dict[str, Any]]:
    """Cuts a batch into one element per combination of values of the slicing columns.

    Args:
        extracts: batched extracts with features, labels and predictions.
        slicing: feature names.

    Yields:
        Extracts in which slicing columns hold one value and all other columns `(examples of the slice,)`.
    """
    size = len(extracts[constants.INPUT_KEY])
    columns = {key: _flat(extracts[key], size, key) for key in PER_EXAMPLE}
    features = columns[constants.FEATURES_KEY]
    values = [features[name] for name in slicing]
    index = np.zeros(size, np.int64)
    for value in values:
        _, code = np.unique(value, return_inverse=True)
        index = np.unique(index * (code.max() + 1) + code, return_inverse=True)[1]
    for part in range(index.max() + 1):
        rows = np.flatnonzero(index == part)
        element = {key: _take(column, rows) for key, column in columns.items()}
        for name, value in zip(slicing, values, strict=True):
            element[constants.FEATURES_KEY][name] = value[rows[:1]]
        yield element


def _flat(value: Any, size: int, name: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _flat(inner, size, key) for key, inner in value.items()}
    flat = np.ravel(value) if isinstance(value, np.ndarray) else np.empty(0)
    if flat.size != size:
        raise ValueError(f"column `{name}` must have one value in every example, a batch of {size} has other counts")
    return flat


def _take(value: Any, rows: np.ndarray) -> Any:
    return {key: _take(inner, rows) for key, inner in value.items()} if isinstance(value, Mapping) else value[rows]
