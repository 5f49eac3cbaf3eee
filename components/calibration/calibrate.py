"""The calibration of a model's tasks: what is fitted, and what it is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixrank.components.calibration.curves import IDENTITY, Curve, bins_of, fit_isotonic, fit_platt
from mixrank.components.calibration.settings import Calibration
from mixrank.components.metrics import Rows, find_metric, ratio
from mixrank.layers.task_kinds import TASK_KINDS
from mixrank.schemas import FeatureSpec, Label
from mixrank.schemas.naming import Declaration

ERROR_BINS = 15


class Calibrator(Declaration):
    """The curves of one task.

    Args:
        rows: of the fit.
        curve: of all rows.
        scenarios: id of a scenario after Transform -> its own curve.
    """

    rows: int
    curve: Curve
    scenarios: dict[int, Curve] = {}

    def by_id(self, count: int) -> tuple[Curve, ...]:
        """The curve of every scenario id below `count`, or one for all."""
        return tuple(self.scenarios.get(n, self.curve) for n in range(count)) if self.scenarios else (self.curve,)


def fit(settings: Calibration, spec: FeatureSpec, columns: Mapping[str, NDArray[Any]]) -> dict[str, Calibrator]:
    """Task -> its curves.

    Args:
        settings: what to fit.
        spec: columns of a row.
        columns: `scenario`, and per task `label_<task>` (NaN in rows that do not count), `logit_<task>`, and
            `weight_<task>` if its rows have weights; `(rows,)`.
    """
    found = {}
    for label in filter(settings.covers, spec.labels):
        labels = columns[f"label_{label.name}"]
        weights = np.asarray(columns.get(f"weight_{label.name}", np.ones(len(labels))), np.float64)
        known = np.flatnonzero(~np.isnan(labels) & (weights > 0))
        weights = weights[known]
        y, z, scenario = labels[known], columns[f"logit_{label.name}"][known], columns["scenario"][known]
        own = {}
        if settings.per_scenario:
            values, counts = np.unique(scenario, return_counts=True)
            for value in values[counts >= settings.min_rows].tolist():
                inside = scenario == value
                if len(np.unique(y[inside])) > 1:
                    own[value] = _curve(settings.method, label.kind, y[inside], z[inside], weights[inside])
        curve = _curve(settings.method, label.kind, y, z, weights)
        found[label.name] = Calibrator(rows=len(known), curve=curve, scenarios=own)
    return found


def _curve(method: str, kind: str, labels: NDArray[Any], logits: NDArray[Any], weights: NDArray[np.float64]) -> Curve:
    if len(np.unique(labels)) < 2:
        # Nothing can be learned from equal labels.
        return IDENTITY
    return (fit_platt if method == "platt" else fit_isotonic)(kind, labels, logits, weights)


def quality(
    label: Label, labels: NDArray[Any], predictions: NDArray[Any], weights: NDArray[Any] | None = None
) -> dict[str, float]:
    """How good the predictions of a task are as numbers: mean loss, sum p / sum y, and `calibration_error`.

    Args:
        label: the task.
        labels, predictions: `(rows,)` in the label's own unit; rows whose label is NaN do not count.
        weights: of the rows, `(rows,)`; None: each counts once.
    """
    known = ~np.isnan(labels)
    y, p = np.asarray(labels[known], np.float64), np.asarray(predictions[known], np.float64)
    w = None if weights is None else np.asarray(weights[known], np.float64)
    loss = find_metric(TASK_KINDS[label.kind].loss_metric)
    # In the unit of the loss.
    learned = Rows(y / label.scale, p / label.scale, np.zeros(len(y), int), weights=w)
    return {
        "loss": loss.of_rows(learned),
        "ratio": ratio(p, y, w) if y.min(initial=0) >= 0 else float("nan"),
        "error": calibration_error(y, p, weights=w),
    }


def calibration_error(
    labels: ArrayLike, predictions: ArrayLike, bins: int = ERROR_BINS, weights: ArrayLike | None = None
) -> float:
    """Expected calibration error: mean over rows of |mean prediction - mean label| of the row's bin; NaN without rows.

    `sum_b n_b / n |mean p - mean y|` (Naeini, Cooper, Hauskrecht 2015) over bins of equal size, not width: most rates
    are small, and bins of equal width would put all rows into the first.

    >>> calibration_error([0, 1, 0, 1], [0.1, 0.3, 0.6, 0.8], bins=2)
    0.25
    """
    y, p = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    if not w.sum():
        return float("nan")
    return float(np.abs(np.bincount(bins_of(p, bins), w * (p - y))).sum() / w.sum())


def sentence(label: Label, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """One line: `click log loss 0.5790 -> 0.5784, calibration 1.052 -> 1.001, error 0.0121 -> 0.0031`."""
    title = find_metric(TASK_KINDS[label.kind].loss_metric).title
    parts: Iterable[tuple[str, str, int]] = ((title, "loss", 4), ("calibration", "ratio", 3), ("error", "error", 4))
    return f"{label.name} " + ", ".join(
        f"{name} {before[key]:.{digits}f} -> {after[key]:.{digits}f}"
        for name, key, digits in parts
        if not np.isnan(before[key])
    )
