"""Counters of a run: rows, bad rows, and the scores of each task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

BINS = 20


class Counters:
    """Counts of one work item, as plain JSON.

    Args:
        tasks: names of the scores.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        self.rows = self.bad = 0
        empty = {"null": 0, "known": 0, "sum": 0.0, "min": None, "max": None}
        self._scores: dict[str, dict[str, Any]] = {task: {**empty, "histogram": [0] * BINS} for task in tasks}

    def add(self, scores: Mapping[str, np.ndarray], bad: int = 0) -> None:
        """Counts a batch.

        Args:
            scores: task -> prediction of every good row; not finite where the model gave none. The histogram is of
                [0, 1], where probabilities are; predicted numbers outside are not in it.
            bad: rows of the batch that were not scored.
        """
        self.rows += bad + len(next(iter(scores.values())))
        self.bad += bad
        for task, values in scores.items():
            finite = values[np.isfinite(values)].astype(np.float64)
            histogram, _ = np.histogram(finite, BINS, (0.0, 1.0))
            own = {
                "null": len(values) - len(finite),
                "known": len(finite),
                "sum": float(finite.sum()),
                "min": float(finite.min()) if len(finite) else None,
                "max": float(finite.max()) if len(finite) else None,
                "histogram": histogram.tolist(),
            }
            self._scores[task] = _sum(self._scores[task], own)

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "bad": self.bad, "scores": self._scores}


def total(counts: Iterable[Mapping[str, Any]], tasks: Iterable[str]) -> dict[str, Any]:
    """The summed counts of several items, with the mean score of each task."""
    whole = Counters(tasks).to_json()
    for one in counts:
        whole["rows"] += one["rows"]
        whole["bad"] += one["bad"]
        whole["scores"] = {task: _sum(whole["scores"][task], one["scores"][task]) for task in whole["scores"]}
    for scores in whole["scores"].values():
        known = scores.pop("known")
        scores["mean"] = scores.pop("sum") / known if known else None
    return whole


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    least = [value for value in (one["min"], other["min"]) if value is not None]
    most = [value for value in (one["max"], other["max"]) if value is not None]
    return {
        "null": one["null"] + other["null"],
        "known": one["known"] + other["known"],
        "sum": one["sum"] + other["sum"],
        "min": min(least, default=None),
        "max": max(most, default=None),
        "histogram": [a + b for a, b in zip(one["histogram"], other["histogram"], strict=True)],
    }
