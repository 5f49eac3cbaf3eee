"""Metrics of labels that are numbers: order by XAUC, and how far predictions are off.

The exact reference for what TFMA computes at scale; imports no TensorFlow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# As of `ranking_metrics`: the least prediction whose logarithm is taken.
EPSILON = 1e-7


class GroupXauc(NamedTuple):
    """XAUC of every group.

    Attributes:
        xauc: float `(groups,)`. NaN for a group whose labels are all equal.
        rows: int `(groups,)`. Rows of the group.
        group: int `(rows,)`. Position of each row's group in `xauc`.
    """

    xauc: NDArray[np.float64]
    rows: NDArray[np.int64]
    group: NDArray[np.int64]


def xauc(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Share of the pairs of rows with different labels that predictions order alike; ties of predictions count half.

    `XAUC = 1/2 + (concordant - discordant) / (2 pairs)`, for two classes the AUC (Zhan et al., "Deconfounding Duration
    Bias in Watch-time Prediction for Video Recommendation", KDD 2022). By Kendall's tau-b in O(n log n).

    Returns:
        NaN if all labels are equal.

    >>> xauc([0.0, 2.0, 5.0], [0.1, 0.4, 0.3])
    0.6666666666666666
    """
    from scipy.stats import kendalltau

    y, p = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    all_pairs = len(y) * (len(y) - 1) / 2
    differ, told_apart = all_pairs - _ties(y), all_pairs - _ties(p)
    if not differ:
        return float("nan")
    if not told_apart:
        return 0.5
    return 0.5 + 0.5 * float(kendalltau(p, y).statistic) * float(np.sqrt(told_apart / differ))


def _ties(values: NDArray[np.float64]) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float((counts * (counts - 1.0) / 2).sum())


def xauc_by_group(labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike) -> GroupXauc:
    """`xauc` inside each group, by its pairs: n rows of one group cost n (n - 1) / 2 comparisons."""
    y, p = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(group, kind="stable")
    g, y, p = group[order], y[order], p[order]
    rows = np.bincount(g, minlength=len(names))
    pairs, won = np.zeros(len(names)), np.zeros(len(names))
    # Each row with the one `apart` places after it in its group.
    left = np.arange(len(g))
    for apart in range(1, int(rows.max(initial=0))):
        left = left[left + apart < len(g)]
        left = left[g[left] == g[left + apart]]
        dy, dp = y[left + apart] - y[left], p[left + apart] - p[left]
        differ = dy != 0
        pairs += np.bincount(g[left], differ, len(names))
        won += np.bincount(g[left], differ * (0.5 + 0.5 * np.sign(dy) * np.sign(dp)), len(names))
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
