"""The table of metrics inside TFMA, exact and right in every slice."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_util

from mixrank.components.metrics import Rows, find_metric, measure


class Ranking(tfma.metrics.Metric):
    """Metrics of `mixrank.components.metrics`, computed on the rows of a slice.

    TFMA's own grouping (`MetricsSpec.query_key`) hands a whole group to every slice in which it has any example, so
    that GAUC of a scenario would rank examples of other scenarios. This metric therefore reads the group's key
    itself, collects the columns of each slice, and groups them there: 20 bytes per example, slice and task, 24 with
    weights, are held until the values are known. An element may be one example or many (see
    `mixrank.components.judging.tfma_batches`).

    Args:
        group_key: str. Feature with the group of each row, usually the user; integer or text.
        names: metrics to compute.
        where: features that are above 0 in the rows that count.
        weight: feature with the weight of each row; None counts every row once.
        source: str. Fingerprint of the code, so that a cached evaluation notices an edit.
        request_key: feature with the ranking request of each row; None for a log without. It takes 8 bytes more.
        classes: of the label, ascending; each takes 4 bytes more.

    Raises:
        ValueError: if an example has no single value of `group_key`.
    """

    def __init__(
        self,
        group_key: str,
        names: Sequence[str],
        where: Sequence[str] = (),
        weight: str | None = None,
        request_key: str | None = None,
        classes: Sequence[int] = (),
        source: str = "",
    ) -> None:
        super().__init__(
            metric_util.merge_per_key_computations(_computations),
            group_key=group_key,
            names=list(names),
            where=list(where),
            weight=weight,
            source=source,
            request_key=request_key,
            classes=list(classes),
        )


def _computations(
    group_key: str,
    names: Sequence[str],
    where: Sequence[str] = (),
    weight: str | None = None,
    source: str = "",
    request_key: str | None = None,
    classes: Sequence[int] = (),
    eval_config: tfma.EvalConfig | None = None,
    model_name: str = "",
    output_name: str = "",
) -> list[Any]:
    del source
    # TFMA looks up thresholds given by metric name under keys that say nothing about example weights.
    keys = [
        tfma.metrics.MetricKey(name=name, model_name=model_name, output_name=output_name, example_weighted=None)
        for name in names
    ]
    read = [name for name in (group_key, *where, weight, request_key) if name is not None]
    preprocessor = tfma.metrics.FeaturePreprocessor(feature_keys=read)
    collect = _Collect(keys, group_key, where, weight, request_key, tuple(classes), eval_config)
    return [tfma.metrics.MetricComputation(keys, [preprocessor], collect)]


class _Columns(NamedTuple):
    groups: array[int]
    scores: array[float]
    labels: array[float]
    # Empty for rows that count once, and for a log without requests.
    weights: array[float]
    requests: array[int]
    # Row by row, of a label with classes.
    shares: array[float]


class _Collect(beam.CombineFn):
    """Gathers group, request, score, label and weight of a slice's examples and computes the metrics at the end."""

    def __init__(
        self,
        keys: list[tfma.metrics.MetricKey],
        group_key: str,
        where: Sequence[str],
        weight: str | None,
        request_key: str | None,
        classes: tuple[int, ...],
        eval_config: tfma.EvalConfig | None,
    ) -> None:
        self._classes = classes
        self._keys = keys
        self._group_key = group_key
        self._where = where
        self._weight = weight
        self._request_key = request_key
        self._eval_config = eval_config

    def create_accumulator(self) -> _Columns:
        return _Columns(array("q"), array("d"), array("f"), array("f"), array("q"), array("f"))

    def add_input(self, accumulator: _Columns, element: Any) -> _Columns:
        features = element.get_by_key("features")
        groups = np.ravel(features[self._group_key])
        model, output = self._keys[0].model_name, self._keys[0].output_name
        ((labels, scores, _),) = metric_util.to_label_prediction_example_weight(
            _named_predictions(element, model, output),
            eval_config=self._eval_config,
            model_name=model,
            output_name=output,
            flatten=False,
        )
        if not groups.size == labels.size == scores.size:
            raise ValueError(
                f"an example needs one `{self._group_key}`, one label and one score, "
                f"received {groups.size}, {labels.size} and {scores.size} for {self._keys[0].output_name!r}"
            )
        rows = np.ones(groups.size, bool)
        for name in self._where:
            rows &= np.ravel(features[name]) > 0
        accumulator.groups.frombytes(_integers(groups[rows]).tobytes())
        accumulator.scores.frombytes(np.ravel(scores)[rows].astype(np.float64).tobytes())
        accumulator.labels.frombytes(np.ravel(labels)[rows].astype(np.float32).tobytes())
        if self._weight is not None:
            weights = np.ravel(features[self._weight])
            accumulator.weights.frombytes(weights[rows].astype(np.float32).tobytes())
        if self._request_key is not None:
            accumulator.requests.frombytes(_integers(np.ravel(features[self._request_key])[rows]).tobytes())
        if self._classes:
            answers = element.get_predictions(model)
            shares = np.stack([np.ravel(answers[f"{output}_{value}"]) for value in self._classes], axis=1)
            accumulator.shares.frombytes(shares[rows].astype(np.float32).tobytes())
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Columns]) -> _Columns:
        merged: Any = self.create_accumulator()
        for accumulator in accumulators:
            for column, more in zip(merged, accumulator, strict=True):
                column.extend(more)
        return merged

    def extract_output(self, accumulator: _Columns) -> dict[tfma.metrics.MetricKey, float]:
        groups, scores, labels, weights, requests, shares = (np.asarray(column) for column in accumulator)
        of_rows = Rows(
            labels,
            scores,
            groups,
            requests if self._request_key is not None else None,
            weights if self._weight is not None else None,
            self._classes,
            shares.reshape(-1, len(self._classes)) if self._classes else None,
        )
        values = measure(of_rows, [find_metric(key.name) for key in self._keys])
        return {key: values[key.name] for key in self._keys}


def _named_predictions(element: Any, model: str, output: str) -> Any:
    """The element with predictions by output; TFMA takes the name off the output of a model that has only one."""
    predictions = element.get_predictions(model)
    if isinstance(predictions, Mapping):
        return element
    by_output = {output: predictions}
    return tfma.metrics.StandardMetricInputs({**element, "predictions": {model: by_output} if model else by_output})


def _integers(groups: np.ndarray) -> np.ndarray:
    """Keys as int64; text by a 64-bit hash, in which ten million users collide with probability 3e-6."""
    if groups.dtype.kind in "iu":
        return groups.astype(np.int64)
    texts = (key if isinstance(key, bytes) else str(key).encode() for key in groups)
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.array([int.from_bytes(digest, "little", signed=True) for digest in digests], np.int64)
