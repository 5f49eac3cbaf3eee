"""Scores of rows by an in-memory model, and the validation metrics of those scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from mixrank.components.metrics import Rows, directed, find_metric, headlines, measure
from mixrank.components.training.batches import TransformedRows, evaluation_batches
from mixrank.components.transform import KEYS
from mixrank.layers.task_kinds import TASK_KINDS, predicted
from mixrank.schemas import FeatureSpec

EVALUATION_BATCH = 1024


class UnknownIds:
    """Values of the evaluation rows that the vocabularies do not hold, counted batch by batch.

    Args:
        sizes: feature -> largest id of a known value; larger ids are those of values that training has not seen.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.counts = {name: [0, 0] for name in sizes}

    def add(self, batch: Mapping[str, tf.Tensor]) -> None:
        for name, size in self.sizes.items():
            ids = batch[name].numpy()
            self.counts[name][0] += int((ids > 0).sum())
            self.counts[name][1] += int((ids > size).sum())

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Feature -> `values`, those that are there, and `unknown`."""
        return {name: {"values": values, "unknown": unknown} for name, (values, unknown) in self.counts.items()}


def predict(spec: FeatureSpec, infer: Any, rows: TransformedRows, unknown: UnknownIds | None = None) -> pd.DataFrame:
    """Scores rows with an in-memory model.

    Args:
        spec: columns of a row.
        infer: as `inference` makes it, or another function of a batch's columns to the logits of each task.
        rows: transformed rows.
        unknown: counts their unknown values, or None.

    Returns:
        One row per example: keys, time, scenario (its id as declared, "other" if unknown), `label_<task>` (NaN in
        rows that do not count for the task), `score_<output>` of each of `Label.outputs` (the prediction of the task,
        and the probabilities of classes), and `weight_<task>` where rows have weights.
    """
    parts: dict[str, list[np.ndarray]] = {}
    keep = {key.name: KEYS[role] for role, key in spec.row_keys.items()}
    for batch in evaluation_batches(rows, EVALUATION_BATCH):
        logits = infer({name: batch[name] for name in rows.inputs})
        if unknown is not None:
            unknown.add(batch)
        for column, source in keep.items():
            parts.setdefault(column, []).append(batch[source].numpy())
        parts.setdefault("__scenario", []).append(batch[spec.scenario.name].numpy())
        for label in spec.labels:
            truth = batch[label.name].numpy()
            if label.is_flag and not label.counts_where:
                truth = truth.astype(np.int64)
            parts.setdefault(f"label_{label.name}", []).append(truth if label.scale == 1 else truth * label.scale)
            for output, score in predicted(label, logits[label.name], batch).items():
                parts.setdefault(f"score_{output}", []).append(score.numpy().reshape(-1))
            if (weight := spec.weight_of(label)) is not None:
                parts.setdefault(f"weight_{label.name}", []).append(batch[weight].numpy())
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    names = np.array([None, *map(str, spec.scenario.values), "other"], dtype=object)
    scenario = names[columns.pop("__scenario")]
    for key in spec.row_keys.values():
        if columns[key.name].dtype == object:
            columns[key.name] = np.array([value.decode() for value in columns[key.name]], dtype=object)
    frame = pd.DataFrame(columns)
    frame.insert(len(keep), spec.scenario.name, scenario)
    return frame


def logits_of(spec: FeatureSpec, infer: Any, rows: TransformedRows) -> dict[str, np.ndarray]:
    """What a calibration is fitted on: `scenario`, ids; `label_<task>`, in the unit of the loss; `logit_<task>` of the
    tasks that have one; and `weight_<task>` where rows have weights.

    Args:
        spec, infer, rows: as in `predict`.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for batch in evaluation_batches(rows, EVALUATION_BATCH):
        logits = infer({name: batch[name] for name in rows.inputs})
        parts.setdefault("scenario", []).append(batch[spec.scenario.name].numpy())
        for label in spec.labels:
            parts.setdefault(f"label_{label.name}", []).append(batch[label.name].numpy())
            if not label.classes:
                parts.setdefault(f"logit_{label.name}", []).append(logits[label.name].numpy().reshape(-1))
            if (weight := spec.weight_of(label)) is not None:
                parts.setdefault(f"weight_{label.name}", []).append(batch[weight].numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def validation_metrics(
    spec: FeatureSpec, predictions: pd.DataFrame, entire_space: Collection[str] = ()
) -> dict[str, float]:
    """`loss` (weighted sum of the tasks' losses), and `<task>.<metric>` for every metric that has a direction.

    Args:
        spec: columns of a row.
        predictions: as from `predict`.
        entire_space: tasks whose loss is that of the product with what they are given, over all rows; their metrics
            are of the rows that count for them, as those of all others.
    """
    found: dict[str, float] = {"loss": 0.0}
    seen = _over_entire_space(spec, predictions, entire_space) if entire_space else predictions
    for label in spec.labels:
        rows = Rows.of(predictions, label.name, spec)
        values = measure(rows, directed(label.kind, requests=spec.request is not None))
        found |= {f"{label.name}.{metric}": value for metric, value in values.items()}
        # As in training: in the unit of the loss, and 0 for a row that does not count.
        learned_of = Rows.of(seen, label.name, spec) if label.name in entire_space else rows
        learned = learned_of.over(label.scale)
        share = float(learned_of.weight.sum()) / max(1, len(predictions))
        found["loss"] += label.weight * share * find_metric(TASK_KINDS[label.kind].loss_metric).of_rows(learned)
    return found


def _over_entire_space(spec: FeatureSpec, predictions: pd.DataFrame, tasks: Collection[str]) -> pd.DataFrame:
    """`mixrank.layers.losses.over_entire_space` for predictions in place of logits."""
    given = {label.name: label.given for label in spec.labels}

    def of_all_rows(task: str) -> tuple[np.ndarray, np.ndarray]:
        label, score = (predictions[f"{what}_{task}"].to_numpy() for what in ("label", "score"))
        if (parent := given[task]) is None:
            return label, score
        above, probability = of_all_rows(parent)
        return np.where(above > 0, label, above), probability * score

    found = {task: of_all_rows(task) for task in tasks}
    columns = {f"label_{task}": label for task, (label, _) in found.items()}
    return predictions.assign(**columns, **{f"score_{task}": score for task, (_, score) in found.items()})


def shown_metrics(spec: FeatureSpec) -> list[str]:
    """Validation metrics for a line of progress: `loss`, and per task the headline metrics other than the loss."""
    return [
        "loss",
        *(
            f"{label.name}.{metric.name}"
            for label in spec.labels
            for metric in headlines(label.kind, requests=spec.request is not None)
            if metric.name != TASK_KINDS[label.kind].loss_metric
        ),
    ]


def inference(model: keras.Model) -> Any:
    """A function {column: tensor} -> {task: logits} as `predict` takes it."""
    return tf.function(lambda inputs: model(inputs, training=False), reduce_retracing=True, autograph=False)
