"""Increasing functions of a logit, fitted to labels: Platt's line and an isotonic curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixrank.components.calibration.task_kinds import TASK_CALIBRATIONS, TaskCalibration
from mixrank.schemas.naming import Declaration

# Bins of an isotonic curve, and the rows of each that make its mean worth something.
MOST_KNOTS, ROWS_PER_BIN = 100, 100
# Knots are at least this far apart: a steeper piece would make more of the last bits of a logit than servers agree on.
LEAST_GAP = 0.01
# Weight, in rows, of the line that changes nothing. It matters only where labels are separated or very few.
PRIOR_ROWS = 1e-3


class Curve(Declaration):
    """A piecewise linear function of the logit: through its knots, and on beyond the outermost with a slope each.

    Args:
        knots: increasing, at least one.
        values: increasing, one per knot.
        left, right: slopes before the first and after the last knot, > 0.
    """

    knots: tuple[float, ...] = (0.0,)
    values: tuple[float, ...] = (0.0,)
    left: float = 1.0
    right: float = 1.0

    def of(self, logits: ArrayLike) -> NDArray[np.float64]:
        """The calibrated logits, float64, of the same shape.

        >>> Curve(knots=(0.0, 2.0), values=(1.0, 2.0)).of([-1.0, 1.0, 2.0, 3.0])
        array([0. , 1.5, 2. , 3. ])
        """
        z, (first, *_), (*_, last) = np.asarray(logits, np.float64), self.knots, self.knots
        inside = np.interp(z, self.knots, self.values)
        return inside + self.left * np.minimum(z - first, 0) + self.right * np.maximum(z - last, 0)

    def as_argument(self) -> tuple[tuple[float, ...], tuple[float, ...], float, float]:
        """As `mixrank.layers.heads.CalibratedLogits` takes it."""
        return self.knots, self.values, self.left, self.right


IDENTITY = Curve()


def fit_platt(
    kind: str, labels: NDArray[Any], logits: NDArray[Any], weights: NDArray[np.float64] | None = None
) -> Curve:
    """The line `a z + b` with the least loss of the kind (Platt 1999, and the same for labels that are numbers).

    An increasing line keeps every order. If the best one would not increase, the logits carry no order worth keeping
    or turning round: then a is 1, and b alone is fitted.

    Args:
        kind: as in `Label.kind`.
        labels, logits: `(rows,)`, the labels in the unit of the loss.
        weights: of the rows, > 0, `(rows,)`; None: each counts once.
    """
    task, y, z = _of(kind), np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    w = np.full(len(y), 1 / len(y)) if weights is None else weights / weights.sum()
    a, b = _line(task, y, z, w, both=True)
    if a <= 0:
        a, b = _line(task, y, z, w, both=False)
    return Curve(values=(b,), left=a, right=a)


def _line(
    task: TaskCalibration, y: NDArray[np.float64], z: NDArray[np.float64], w: NDArray[np.float64], both: bool
) -> tuple[float, float]:
    from scipy.optimize import minimize

    unchanged = np.array([1.0, 0.0])
    weight = PRIOR_ROWS / len(y)

    def mean_loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        losses, slopes = task.loss(y, line[0] * z + line[1])
        change = np.array([w @ (slopes * z) if both else 0.0, w @ slopes])
        away = line - unchanged
        return float(w @ losses + weight * away @ away / 2), change + weight * away

    found = minimize(mean_loss, unchanged, jac=True, method="BFGS", options={"gtol": 1e-9})
    return float(found.x[0]), float(found.x[1])


def fit_isotonic(
    kind: str,
    labels: NDArray[Any],
    logits: NDArray[Any],
    weights: NDArray[np.float64] | None = None,
    rows_per_bin: int = ROWS_PER_BIN,
    gap: float = LEAST_GAP,
) -> Curve:
    """A strictly increasing curve through the mean labels of neighbouring logits.

    Rows are put into at most `MOST_KNOTS` bins of equal size by their logits; bins whose mean labels fall are pooled
    (pool adjacent violators, the isotonic regression of least squares and of every loss whose best prediction is the
    mean). Each pool is a knot, at its mean logit and the logit of its mean label, so that the curve rises inside pools
    as well and keeps every order (centred isotonic regression, Oron & Flournoy 2017). Beyond the outermost knots it
    goes on with slope 1.

    Args:
        kind, labels, logits, weights: as in `fit_platt`.
        rows_per_bin: int >= 1. Least rows of a bin.
        gap: float >= 0. Knots that are closer become one.
    """
    from sklearn.isotonic import isotonic_regression

    task = _of(kind)
    z, target = np.asarray(logits, np.float64), task.target(np.asarray(labels, np.float64))
    number = bins_of(z, max(1, min(MOST_KNOTS, len(z) // rows_per_bin)))
    w = np.ones(len(z)) if weights is None else weights
    weight = np.bincount(number, w)
    at, mean = np.bincount(number, w * z) / weight, np.bincount(number, w * target) / weight
    pooled = isotonic_regression(mean, sample_weight=weight)
    pool = np.cumsum(np.append(False, pooled[1:] > pooled[:-1]))
    pools = [(w, w * x, w * m) for w, x, m in zip(weight, at, mean, strict=True)]
    pools = [_sum(part for part, p in zip(pools, pool, strict=True) if p == each) for each in range(pool[-1] + 1)]
    # All labels of an outer pool may be the least or the largest there is, of which the logit is infinite.
    while len(pools) > 1 and not np.isfinite(_logit(task, pools[0])):
        pools[:2] = [_sum(pools[:2])]
    while len(pools) > 1 and not np.isfinite(_logit(task, pools[-1])):
        pools[-2:] = [_sum(pools[-2:])]
    kept = pools[:1]
    for each in pools[1:]:
        if each[1] / each[0] - kept[-1][1] / kept[-1][0] < gap:
            kept[-1] = _sum([kept[-1], each])
        else:
            kept.append(each)
    values = [_logit(task, each) for each in kept]
    return (
        Curve(knots=tuple(x / w for w, x, _ in kept), values=tuple(values)) if np.isfinite(values).all() else IDENTITY
    )


def _of(kind: str) -> TaskCalibration:
    if (found := TASK_CALIBRATIONS[kind]) is None:
        raise ValueError(f"a task of kind {kind} has no one logit whose prediction is a mean")
    return found


def _sum(pools: Any) -> tuple[float, float, float]:
    w, x, m = (float(sum(each)) for each in zip(*pools, strict=True))
    return w, x, m


def _logit(task: TaskCalibration, pool: tuple[float, float, float]) -> float:
    return float(task.logit(np.array(pool[2] / pool[0])))


def bins_of(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Number of each row's bin, `(rows,)`, of bins of about equal size by rising value; equal values share a bin.

    >>> bins_of(np.array([3.0, 1.0, 1.0, 2.0]), 2)
    array([1, 0, 0, 1])
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count + 1) / 2
    number = (middle * bins / len(values)).astype(np.int64)
    # Without empty numbers.
    return np.unique(number, return_inverse=True)[1][place]
