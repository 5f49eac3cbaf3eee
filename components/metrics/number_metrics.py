"""Metrics of labels that are numbers: order by XAUC, and how far predictions are off.

The exact reference for what TFMA computes at scale; imports no TensorFlow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# As of `ranking_metrics`: the least prediction whose logarithm is taken.
EPSILON = 1e-7


class GroupXauc(NamedTuple):
    """XAUC of every group.

    Attributes:
        xauc: float `(groups,)`. NaN for a group whose labels are all equal.
        rows: `(groups,)`. Rows of the group, or the sum of their weights.
        group: int `(rows,)`. Position of each row's group in `xauc`.
    """

    xauc: NDArray[np.float64]
    rows: NDArray[Any]
    group: NDArray[np.int64]


def xauc(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Share of the pairs of rows with different labels that predictions order alike; ties of predictions count half.

    `XAUC = sum w_i w_j ([p_i > p_j] + [p_i = p_j] / 2) / sum w_i w_j` over the pairs with y_i > y_j, for two classes
    the AUC (Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation", KDD 2022).
    In O(n log n): two predictions are told apart at the highest bit in which their ranks differ.

    Args:
        labels, predictions: `(rows,)`.
        weights: of the rows, >= 0, `(rows,)`; None: each counts once.

    Returns:
        NaN if all labels are equal.

    >>> xauc([0.0, 2.0, 5.0], [0.1, 0.4, 0.3])
    0.6666666666666666
    """
    y, p = (np.unique(np.asarray(each), return_inverse=True)[1] for each in (labels, predictions))
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(y, kind="stable")
    y, p, w = y[order], p[order], w[order]
    last = int(p.max(initial=0))
    concordant = 0.0
    for bit in reversed(range(last.bit_length())):
        # Rows whose ranks agree above the bit, in the order of their labels.
        order = np.argsort(p >> (bit + 1), kind="stable")
        g, high, label, mass = p[order] >> (bit + 1), (p[order] >> bit) & 1, y[order], w[order]
        lower = np.cumsum(mass * (1 - high)) - mass * (1 - high)
        block = np.append(True, (g[1:] != g[:-1]) | (label[1:] != label[:-1]))[: len(g)]
        group = np.append(True, g[1:] != g[:-1])[: len(g)]
        at, begun = (np.maximum.accumulate(np.where(each, np.arange(len(g)), 0)) for each in (block, group))
        concordant += float(np.sum(mass * high * (lower[at] - lower[begun])))
    of_labels, of_predictions, of_both = (_squares(each, w) for each in (y, p, y * (last + 1) + p))
    pairs, tied = (w.sum() ** 2 - of_labels) / 2, (of_predictions - of_both) / 2
    return float((concordant + tied / 2) / pairs) if len(y) and y[-1] > 0 and pairs > 0 else float("nan")


def _squares(values: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """Sum over the distinct values of the square of their rows' weight."""
    _, place = np.unique(values, return_inverse=True)
    return float(np.square(np.bincount(place, weights)).sum())


def xauc_by_group(
    labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> GroupXauc:
    """`xauc` inside each group, by its pairs: n rows of one group cost n (n - 1) / 2 comparisons."""
    y, p = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(group, kind="stable")
    g, y, p, w = group[order], y[order], p[order], w[order]
    size = np.bincount(g, minlength=len(names))
    pairs, won = np.zeros(len(names)), np.zeros(len(names))
    # Each row with the one `apart` places after it in its group.
    left = np.arange(len(g))
    for apart in range(1, int(size.max(initial=0))):
        left = left[left + apart < len(g)]
        left = left[g[left] == g[left + apart]]
        dy, dp = y[left + apart] - y[left], p[left + apart] - p[left]
        both = np.where(dy != 0, w[left] * w[left + apart], 0)
        pairs += np.bincount(g[left], both, len(names))
        won += np.bincount(g[left], both * (0.5 + 0.5 * np.sign(dy) * np.sign(dp)), len(names))
    rows = size if weights is None else np.bincount(g, w, len(names))
    return GroupXauc(np.divide(won, pairs, out=np.full(len(names), np.nan), where=pairs > 0), rows, group)


def squared_log_errors(labels: ArrayLike, predictions: ArrayLike) -> NDArray[np.float64]:
    """`(log(1 + y) - log(1 + p))^2` of every row."""
    p = np.maximum(np.asarray(predictions, np.float64), EPSILON - 1)
    return np.square(np.log1p(np.asarray(labels, np.float64)) - np.log1p(p))


def poisson_losses(labels: ArrayLike, predictions: ArrayLike) -> NDArray[np.float64]:
    """`p - y log p` of every row: the negative log-likelihood of a Poisson count of mean p, less `log y!`."""
    y, p = np.asarray(labels, np.float64), np.maximum(np.asarray(predictions, np.float64), EPSILON)
    return p - y * np.log(p)


def watch_losses(labels: ArrayLike, predictions: ArrayLike) -> NDArray[np.float64]:
    """`(1 + y) log(1 + p) - y log p` of every row: weighted logistic regression with the odds p."""
    y, p = np.asarray(labels, np.float64), np.maximum(np.asarray(predictions, np.float64), EPSILON)
    return (1 + y) * np.log1p(p) - y * np.log(p)
