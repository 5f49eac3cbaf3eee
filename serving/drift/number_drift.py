"""Drift of labels that are numbers, and of predictions against them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mixrank.serving.drift.alarms import BIAS, ERROR, LABEL_MEAN, Finding, Limits


def mean_findings(
    baseline: dict[str, float], new: pd.DataFrame, tasks: Sequence[str], limits: Limits, min_rows: int
) -> list[Finding]:
    """Relative change of the mean label.

    Args:
        baseline: task -> mean label; tasks that are missing, or have a mean of 0, are skipped.
        new: `label_<task>` where known.
        tasks, limits: as in `score_findings`.
        min_rows: int >= 0. Fewer rows raise no alarm, nor does a mean whose standard error is a third of the limit.
    """
    found = []
    for task in tasks:
        labels = new[f"label_{task}"].dropna().to_numpy(np.float64) if f"label_{task}" in new else np.zeros(0)
        before = baseline.get(task)
        if not len(labels) or not before:
            continue
        change = abs(labels.mean() / before - 1)
        enough = len(labels) >= min_rows and 3 * _error_of_mean(labels) < limits.label * abs(before)
        said = [f"mean {mean:.4g}" for mean in (before, labels.mean())]
        found.append(Finding(task, LABEL_MEAN, change, limits.label, len(labels), enough, *said))
    return found


def error_findings(
    baseline: pd.DataFrame, new: pd.DataFrame, tasks: Sequence[str], limits: Limits, min_rows: int
) -> list[Finding]:
    """Mean error in standard deviations of the labels, and relative rise of the mean absolute error.

    Without labels of the baseline the first is compared with 0, and the second is skipped.

    Args:
        baseline, new: `score_<task>` and `label_<task>` where known.
        tasks, limits, min_rows: as in `mean_findings`.
    """
    found = []
    for task in tasks:
        now, known = _errors(new, task), _errors(baseline, task)
        if now is None:
            continue
        (errors, spread), before = now, 0.0 if known is None else known[0].mean()
        enough = len(errors) >= min_rows and 3 * _error_of_mean(errors) < limits.bias * spread
        said = [f"mean error {mean:.4g}" for mean in (before, errors.mean())]
        if known is None:
            said[0] = "no labels, taken as 0"
        change = abs(errors.mean() - before) / spread
        found.append(Finding(task, BIAS, change, limits.bias, len(errors), enough, *said))
        if known is None:
            continue
        old, size = np.abs(known[0]).mean(), np.abs(errors)
        enough = len(errors) >= min_rows and 3 * _error_of_mean(size) < limits.error * old
        said = [f"mean absolute error {mean:.4g}" for mean in (old, size.mean())]
        found.append(Finding(task, ERROR, size.mean() / old - 1, limits.error, len(errors), enough, *said))
    return found


def _errors(frame: pd.DataFrame, task: str) -> tuple[NDArray[np.float64], float] | None:
    """Prediction less label of the rows that have both, and the standard deviation of the labels; None if that is 0."""
    columns = [f"score_{task}", f"label_{task}"]
    if not set(columns) <= set(frame):
        return None
    scores, labels = frame[columns].dropna().to_numpy(np.float64).T
    spread = float(labels.std()) if len(labels) else 0.0
    return (scores - labels, spread) if spread else None


def _error_of_mean(values: NDArray[np.float64]) -> float:
    return float(values.std() / np.sqrt(len(values)))
