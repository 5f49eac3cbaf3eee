"""Metrics of probabilities of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

# As of `ranking_metrics`: the least probability whose logarithm is taken.
EPSILON = 1e-7


def class_log_losses(labels: ArrayLike, shares: ArrayLike, classes: Sequence[int]) -> NDArray[np.float64]:
    """`-log p(y)` of every row, p at least 1e-7.

    Args:
        labels: `(rows,)`, each among the classes.
        shares: probability of each class, `(rows, classes)`.
        classes: values of the label, ascending.

    >>> class_log_losses([1, 3], [[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]], (1, 2, 3)).round(4)
    array([0.6931, 0.6931])
    """
    p = np.asarray(shares, np.float64)
    return -np.log(np.maximum(p[np.arange(len(p)), _places(labels, classes)], EPSILON))


def hits(labels: ArrayLike, shares: ArrayLike, classes: Sequence[int]) -> NDArray[np.float64]:
    """1 for every row whose label is the most probable class, 1 / n if it is one of n, else 0; arguments as above.

    >>> hits([1, 3], [[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]], (1, 2, 3))
    array([0.5, 1. ])
    """
    p = np.asarray(shares, np.float64)
    best = p == p.max(axis=1, keepdims=True)
    return best[np.arange(len(p)), _places(labels, classes)] / best.sum(axis=1)


def _places(labels: ArrayLike, classes: Sequence[int]) -> NDArray[np.int64]:
    y, known = np.asarray(labels), np.asarray(classes)
    places = np.minimum(np.searchsorted(known, y), len(known) - 1)
    if (wrong := known[places] != y).any():
        raise ValueError(f"`labels` must be among the classes {tuple(classes)}, received {y[wrong][0]}")
    return places
