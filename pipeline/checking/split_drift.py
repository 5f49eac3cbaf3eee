"""Drift between the splits of a log, by the distances that the run's validation uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixrank.pipeline.checking.log_sample import LogSample
from mixrank.schemas import Dataset
from mixrank.schemas.naming import Declaration

BINS = 10
# Fewer rows of a split give distances by chance.
LEAST_ROWS = 1000


class Drift(Declaration):
    """Distance of a feature between the training rows and another split.

    Args:
        feature: its name.
        split: the other split.
        measure: "L-infinity" of a category, "Jensen-Shannon", in bits, of a number.
        distance: in [0, 1].
        limit: the feature's own `drift`, above which validation stops the run; None without one.
        rows: of the smaller side.
    """

    feature: str
    split: str
    measure: str
    distance: float
    limit: float | None
    rows: int


def drifts(sample: LogSample, dataset: Dataset) -> list[Drift]:
    """The distance of every feature and split, largest first."""
    found = []
    for feature in dataset.spec.inputs:
        before = _values(feature, sample.of_split(feature.name, "train"))
        for split in dataset.split_names[1:]:
            after = _values(feature, sample.of_split(feature.name, split))
            if not before or not after:
                continue
            number = feature.kind == "float"
            found.append(
                Drift(
                    feature=feature.name,
                    split=split,
                    measure="Jensen-Shannon" if number else "L-infinity",
                    distance=jensen_shannon(before, after) if number else l_infinity(before, after),
                    limit=feature.drift,
                    rows=min(sample.figures.rows["train"], sample.figures.rows[split]),
                )
            )
    return sorted(found, key=lambda drift: -drift.distance)


def l_infinity(before: Mapping[Any, int], after: Mapping[Any, int]) -> float:
    """Largest difference of the shares of a value.

    >>> l_infinity({"a": 1, "b": 1}, {"a": 1, "c": 3})
    0.75
    """
    totals = sum(before.values()), sum(after.values())
    values = {**before, **after}
    return max(abs(before.get(value, 0) / totals[0] - after.get(value, 0) / totals[1]) for value in values)


def jensen_shannon(before: Mapping[Any, int], after: Mapping[Any, int]) -> float:
    """Jensen-Shannon divergence of two numbers, in bits.

    As TensorFlow Data Validation has it: each side has a histogram of 10 buckets of one width, and both are cut at the
    edges of both.

    >>> jensen_shannon({0.0: 1, 1.0: 1}, {2.0: 1, 3.0: 1}), jensen_shannon({0.0: 1, 1.0: 1}, {0.0: 2, 1.0: 2})
    (1.0, 0.0)
    """
    sides = [_histogram(side) for side in (before, after)]
    edges = np.unique(np.concatenate([edges for edges, _ in sides]))
    p, q = (_cut(own, counts, edges) for own, counts in sides)
    middle = (p + q) / 2
    return float((_divergence(p, middle) + _divergence(q, middle)) / 2)


def _histogram(values: Mapping[float, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    numbers, counts = np.array(list(values), np.float64), np.array(list(values.values()), np.float64)
    low, high = numbers.min(), numbers.max()
    # A number that never changes has a bucket of no width, which no edge may cut.
    edges = np.linspace(low, high if high > low else np.nextafter(low, np.inf), BINS + 1 if high > low else 2)
    return edges, np.histogram(numbers, edges, weights=counts)[0] / counts.sum()


def _cut(own: NDArray[np.float64], shares: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares between other edges, as if values were spread evenly over a bucket."""
    below = np.interp(edges, own, np.concatenate([[0.0], np.cumsum(shares)]))
    return np.diff(below)


def _divergence(p: NDArray[np.float64], middle: NDArray[np.float64]) -> float:
    some = p > 0
    return float((p[some] * np.log2(p[some] / middle[some])).sum())


def _values(feature: Any, rows: Mapping[Any, int]) -> dict[Any, int]:
    """Value -> how often it occurs; a missing value is none."""
    if feature.max_values is None:
        return {value: count for value, count in rows.items() if value is not None}
    found: dict[Any, int] = {}
    for values, count in rows.items():
        for value in (values or ())[: feature.max_values]:
            found[value] = found.get(value, 0) + count
    return found
