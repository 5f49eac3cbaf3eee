"""How the tasks of a kind are calibrated. `mixrank.layers.task_kinds` holds the loss and the link of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixrank.schemas.task_kinds import CLASSES, WATCH_QUANTILE

# As in `mixrank.layers.task_kinds`: the largest logit whose exponential is a prediction.
LARGEST = 30.0


class TaskCalibration(NamedTuple):
    """Fitting of the tasks of a kind.

    Attributes:
        loss: labels, logits -> the kind's loss of every row and its derivative by the logit.
        target: labels -> what the kind's loss learns the mean of.
        logit: mean of targets -> the logit with that mean; infinite at the end of the labels' range.
    """

    loss: Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]
    target: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    logit: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _same(values: Any) -> Any:
    return values


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    return expit(z)


def _softplus(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.logaddexp(0, z)


def _log(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.log(mean)


def _log_odds(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.log(mean) - np.log1p(-mean)


def _of_counts(y: NDArray[np.float64], z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = np.exp(np.minimum(z, LARGEST))
    return mean - y * z, mean - y


# None: a task with several logits has no one logit that a curve could map, and one of ranks predicts no mean.
TASK_CALIBRATIONS: dict[str, TaskCalibration | None] = {
    "binary": TaskCalibration(lambda y, z: (_softplus(z) - y * z, _sigmoid(z) - y), _same, _log_odds),
    "regression": TaskCalibration(lambda y, z: ((y - z) ** 2, 2 * (z - y)), _same, _same),
    "log_regression": TaskCalibration(lambda y, z: ((np.log1p(y) - z) ** 2, 2 * (z - np.log1p(y))), np.log1p, _same),
    "count": TaskCalibration(_of_counts, _same, _log),
    "watch_time": TaskCalibration(
        lambda y, z: (y * _softplus(-z) + _softplus(z), (1 + y) * _sigmoid(z) - y), _same, _log
    ),
    **dict.fromkeys((WATCH_QUANTILE.name, *CLASSES)),
}
