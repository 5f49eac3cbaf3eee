"""Ranking metrics on NumPy arrays: AUC, GAUC, log loss, calibration and relative improvement.

The exact reference for what TFMA computes at scale; imports no TensorFlow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixrank.schemas.task_kinds import BINARY

# The same floor as TFMA and Keras, so that a probability at either end of its range costs the same everywhere.
EPSILON = 1e-7


class GroupAuc(NamedTuple):
    """AUC of every group.

    Attributes:
        auc: float `(groups,)`. NaN for a group with one class.
        rows: `(groups,)`. Rows of the group, or the sum of their weights.
        group: int `(rows,)`. Position of each row's group in `auc`.
    """

    auc: NDArray[np.float64]
    rows: NDArray[Any]
    group: NDArray[np.int64]

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """Whether a group has both classes, `(groups,)`."""
        return ~np.isnan(self.auc)


class Gauc(NamedTuple):
    """AUC averaged over groups.

    Attributes:
        impressions: float. Mean weighted by the rows of each group.
        uniform: float. Plain mean over groups.
        used: int. Groups that have both classes.
        skipped: int. Groups left out because all their labels are equal.
    """

    impressions: float
    uniform: float
    used: int
    skipped: int


def auc_by_group(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None) -> GroupAuc:
    """Area under the ROC curve inside each group; ties count one half.

    `AUC = sum_{i positive, j negative} w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (P N)` with the weights P of all
    positives and N of all negatives.

    Args:
        labels: binary, `(rows,)`.
        scores: finite number, `(rows,)`. Any increasing function of the probability.
        groups: integer or text, `(rows,)`. Usually the user.
        weights: of the rows, >= 0, `(rows,)`; None: each counts once.

    Returns:
        `GroupAuc`, groups in ascending order.

    Raises:
        ValueError: if lengths differ, a label is not binary, or a score is not finite.

    >>> auc_by_group([0, 1, 1, 0], [0.1, 0.9, 0.5, 0.5], [7, 7, 8, 8]).auc
    array([1. , 0.5])
    """
    y, s = _check(labels, scores)
    groups = np.asarray(groups)
    if groups.shape != y.shape:
        raise ValueError(f"`groups` must have one entry per label {y.shape}, received shape {groups.shape}")
    names, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((s, group))
    g, s = group[order], s[order]
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)[order]
    starts = np.ones(len(g), bool)
    starts[1:] = (g[1:] != g[:-1]) | (s[1:] != s[:-1])
    tie = np.cumsum(starts) - 1
    # By block of equal scores inside a group.
    owner = g[starts]
    positive, negative = np.bincount(tie, w * y[order]), np.bincount(tie, w * (1 - y[order]))
    positives, negatives = (np.bincount(owner, each, len(names)) for each in (positive, negative))
    before = np.cumsum(negative) - negative
    # Negatives of the groups before do not count.
    beaten = before - (np.cumsum(negatives) - negatives)[owner] + negative / 2
    wins, pairs = np.bincount(owner, positive * beaten, len(names)), positives * negatives
    auc = np.divide(wins, pairs, out=np.full(len(names), np.nan), where=pairs > 0)
    rows = np.bincount(group, minlength=len(names)) if weights is None else positives + negatives
    return GroupAuc(auc, rows, group)


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve over all rows; NaN if there is one class only. Arguments as in `auc_by_group`."""
    y, s = _check(labels, scores)
    return float(auc_by_group(y, s, np.zeros(len(y), np.int8), weights).auc[0]) if len(y) else float("nan")


def gauc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> Gauc:
    """Group AUC: `sum_u n_u AUC_u / sum_u n_u` over the groups u that have both classes, n_u their rows.

    Args and Raises as in `auc_by_group`.

    Returns:
        `Gauc`; both means are NaN if no group has both classes.

    >>> gauc([0, 1, 1, 0, 1], [0.1, 0.9, 0.5, 0.5, 0.3], [7, 7, 8, 8, 9])
    Gauc(impressions=0.75, uniform=0.75, used=2, skipped=1)
    """
    return summarise(auc_by_group(labels, scores, groups))


def summarise(groups: GroupAuc) -> Gauc:
    """The two means over groups and the two counts of `gauc`, from the AUC of every group."""
    used = groups.mixed
    skipped = int(np.sum(~used))
    if not used.any():
        return Gauc(float("nan"), float("nan"), 0, skipped)
    weighted = float(np.average(groups.auc[used], weights=groups.rows[used]))
    return Gauc(weighted, float(np.mean(groups.auc[used])), int(np.sum(used)), skipped)


def log_losses(labels: ArrayLike, probabilities: ArrayLike) -> NDArray[np.float64]:
    """Binary cross entropy of every row, in nats: `-y log p - (1 - y) log(1 - p)`.

    Args:
        labels: binary, `(rows,)`.
        probabilities: number in [0, 1], `(rows,)`; clipped to `[EPSILON, 1 - EPSILON]`.

    Raises:
        ValueError: if lengths differ, a label is not binary, or a probability leaves [0, 1].
    """
    y, p = _check(labels, probabilities, "probabilities")
    if len(p) and (p.min() < 0 or p.max() > 1):
        raise ValueError(f"`probabilities` must lie in [0, 1], received {p.min():g} to {p.max():g}")
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return -np.where(y > 0, np.log(p), np.log1p(-p))


def mean(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean of a value per row, weighted; NaN without a row that counts.

    >>> mean([1, 4], [2, 1]), mean([1, 4], [0, 0])
    (2.0, nan)
    """
    return ratio(values, np.ones(np.shape(values)), weights)


def ratio(upper: ArrayLike, lower: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Ratio of the weighted sums of two values per row; NaN where the lower one is 0."""
    w = 1.0 if weights is None else np.asarray(weights, np.float64)
    above, below = (float(np.sum(np.asarray(each, np.float64) * w)) for each in (upper, lower))
    return above / below if below else float("nan")


def log_loss(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean of `log_losses`; NaN without rows."""
    return mean(log_losses(labels, probabilities), weights)


def normalized_entropy(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Log loss over that of predicting the mean label for every row: `log_loss / H(mean y)` (He et al. 2014, Eq. 3).

    Below 1 is better than the mean; unlike log loss it can be compared between logs with other rates of positives.
    NaN if all labels are equal.

    >>> round(normalized_entropy([1, 0, 0, 0], [0.4, 0.2, 0.2, 0.2]), 4)
    0.705
    """
    rate = mean(labels, weights)
    return log_loss(labels, probabilities, weights) / float(entropy(rate)) if 0 < rate < 1 else float("nan")


def entropy(rate: ArrayLike) -> NDArray[np.float64]:
    """Entropy of a binary label of mean p, in nats: `-p log p - (1 - p) log(1 - p)`; NaN if all labels are equal."""
    p = np.where((np.asarray(rate) > 0) & (np.asarray(rate) < 1), rate, np.nan)
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


def calibration(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Predicted over observed positives, `sum w p / sum w y`: 1 is right, above is too high; NaN if all y = 0."""
    y, p = _check(labels, probabilities, "probabilities")
    return ratio(p, y, weights)


def rela_impr_auc(model: float, base: float) -> float:
    """Relative improvement of an AUC, `(model - 0.5) / (base - 0.5) - 1` (HeMix, Eq. 25).

    NaN if `base` is 0.5 or below, since a ratio to no skill is meaningless.

    >>> round(rela_impr_auc(0.7315, 0.7312), 4)
    0.0013
    """
    return (model - 0.5) / (base - 0.5) - 1 if base > 0.5 else float("nan")


def rela_impr_log_loss(model: float, base: float) -> float:
    """Relative change of a log loss, `model / base - 1` (HeMix, Eq. 25); below 0 is better, NaN if base is 0."""
    return model / base - 1 if base else float("nan")


def _check(labels: Any, scores: Any, name: str = "scores") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, s = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if y.ndim != 1 or y.shape != s.shape:
        raise ValueError(f"`labels` and `{name}` must be of one length, received shapes {y.shape} and {s.shape}")
    BINARY.check("`labels`", np.unique(y).tolist())
    if not np.isfinite(s).all():
        row = int(np.flatnonzero(~np.isfinite(s))[0])
        raise ValueError(f"`{name}` must be finite, received {s[row]} in row {row}")
    return y, s
