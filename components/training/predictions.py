"""Scores of rows by an in-memory model, and what validation reads from them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from mixrank.components.metrics import Rows, directed, measure
from mixrank.components.training.batches import TransformedRows, evaluation_batches
from mixrank.components.transform import KEYS
from mixrank.schemas import FeatureSpec

EVALUATION_BATCH = 1024


def predict(spec: FeatureSpec, infer: Any, rows: TransformedRows) -> pd.DataFrame:
    """Scores rows with an in-memory model.

    Returns:
        One row per example: keys, time, scenario (its id as declared, "other" if unknown), `label_<task>` and
        `score_<task>` (probabilities).
    """
    parts: dict[str, list[np.ndarray]] = {}
    keep = {spec.user.name: KEYS["user"], spec.item.name: KEYS["item"], spec.time.name: KEYS["time"]}
    for batch in evaluation_batches(rows, EVALUATION_BATCH):
        logits = infer({name: batch[name] for name in rows.inputs})
        for column, source in keep.items():
            parts.setdefault(column, []).append(batch[source].numpy())
        parts.setdefault("__scenario", []).append(batch[spec.scenario.name].numpy())
        for task in spec.tasks:
            parts.setdefault(f"label_{task}", []).append(batch[task].numpy().astype(np.int64))
            parts.setdefault(f"score_{task}", []).append(tf.sigmoid(logits[task]).numpy().reshape(-1))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    names = np.array([None, *map(str, spec.scenario.values), "other"], dtype=object)
    scenario = names[columns.pop("__scenario")]
    for key in (spec.user, spec.item):
        if key.dtype == "str":
            columns[key.name] = np.array([value.decode() for value in columns[key.name]], dtype=object)
    frame = pd.DataFrame(columns)
    frame.insert(3, spec.scenario.name, scenario)
    return frame


def validation_metrics(spec: FeatureSpec, predictions: pd.DataFrame) -> dict[str, float]:
    """`loss` (weighted sum of log losses over tasks), and `<task>.<metric>` for every metric that has a direction."""
    found: dict[str, float] = {"loss": 0.0}
    for label in spec.labels:
        columns = (f"label_{label.name}", f"score_{label.name}", spec.user.name)
        values = measure(Rows(*(predictions[name].to_numpy() for name in columns)), directed())
        found |= {f"{label.name}.{metric}": value for metric, value in values.items()}
        found["loss"] += label.weight * values["log_loss"]
    return found


def inference(model: keras.Model) -> Any:
    """A function {column: tensor} -> {task: logits} as `predict` takes it."""
    return tf.function(lambda inputs: model(inputs, training=False), reduce_retracing=True, autograph=False)
