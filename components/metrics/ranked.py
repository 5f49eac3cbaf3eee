"""Rows in the order in which a model ranks them, group by group, and how good that order is.

Rows with equal scores have no order of their own: every figure is its expected value over all orders of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Ranked(NamedTuple):
    """Rows of each group by falling score.

    Attributes:
        rows: int `(groups,)`. Rows of each group, groups in ascending order.
        group: int `(rows,)`. Position of each row's group in `rows`.
        order: int `(rows,)`. The rows, group by group, best score first.
        place: int `(rows,)`. Place of each row of `order` in its group, from 0.
        tie: int `(rows,)`. Number of each row of `order` among runs of rows of one group with equal scores.
    """

    rows: NDArray[np.int64]
    group: NDArray[np.int64]
    order: NDArray[np.int64]
    place: NDArray[np.int64]
    tie: NDArray[np.int64]


class FirstPositive(NamedTuple):
    """Where the first positive of each group is: in a run of `size` rows with equal scores after `before` others.

    Attributes:
        before: int `(groups,)`. Rows with a higher score, all of them negatives.
        size: int `(groups,)`. Rows of the run.
        positives: int `(groups,)`. Positives of the run; 0 for a group without any, whose other figures mean nothing.
    """

    before: NDArray[np.int64]
    size: NDArray[np.int64]
    positives: NDArray[np.int64]

    def reciprocal_rank(self) -> NDArray[np.float64]:
        """Expected `1 / place` of the first positive, places from 1, `(groups,)`; 0 without a positive.

        In a run of m rows with p positives, the first j are all negatives with probability
        `C(m - j, p) / C(m, p)`.
        """
        group = np.repeat(np.arange(len(self.size)), self.size)
        at = np.arange(len(group)) - (np.cumsum(self.size) - self.size)[group]
        chance = _missed(self.size[group], self.positives[group], at)
        chance = chance - _missed(self.size[group], self.positives[group], at + 1)
        found = np.bincount(group, chance / (self.before[group] + at + 1), len(self.size))
        return np.where(self.positives > 0, found, 0.0)

    def hit_rate(self, k: int) -> NDArray[np.float64]:
        """Probability that one of the first k rows is a positive, `(groups,)`; 0 without a positive."""
        inside = np.clip(k - self.before, 0, self.size)
        return np.where(self.positives > 0, 1 - _missed(self.size, self.positives, inside), 0.0)


def ranked(scores: ArrayLike, groups: ArrayLike) -> Ranked:
    """Ranks the rows of each group.

    Args:
        scores: number, `(rows,)`.
        groups: integer or text, `(rows,)`.
    """
    s = np.asarray(scores, np.float64)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    rows = np.bincount(group, minlength=len(names))
    order = np.lexsort((-s, group))
    g, s = group[order], s[order]
    place = np.arange(len(g)) - (np.cumsum(rows) - rows)[g]
    tie = np.cumsum((place == 0) | np.append(True, s[1:] != s[:-1])[: len(g)]) - 1
    return Ranked(rows, group, order, place, tie)


def ndcg(labels: ArrayLike, found: Ranked, k: int) -> NDArray[np.float64]:
    """NDCG@k of every group, `(groups,)`: `DCG / ideal DCG`, `DCG = sum_{i <= k} y_i / log2(i + 1)`; 0 if all y are 0.

    Args:
        labels: number >= 0, `(rows,)`. Gain of each row (Järvelin & Kekäläinen 2002).
        found: the rows, ranked.
        k: int >= 1. Places that count.

    >>> ndcg([0, 1, 1], ranked([0.9, 0.8, 0.1], [7, 7, 7]), 5)
    array([0.69342641])
    """
    y, g = np.asarray(labels, np.float64), found.group[found.order]
    discount = np.where(found.place < k, 1 / np.log2(found.place + 2), 0)
    gain = np.bincount(found.tie, y[found.order]) / np.bincount(found.tie)
    groups = len(found.rows)
    dcg = np.bincount(g, discount * gain[found.tie], groups)
    ideal = np.bincount(g, discount * y[np.lexsort((-y, found.group))], groups)
    return np.divide(dcg, ideal, out=np.zeros(groups), where=ideal > 0)


def first_positive(labels: ArrayLike, found: Ranked) -> FirstPositive:
    """Where the first row with a label above 0 is in every group.

    >>> first = first_positive([0, 0, 1, 1], ranked([0.9, 0.5, 0.5, 0.2], [7, 7, 7, 7]))
    >>> first.reciprocal_rank(), first.hit_rate(2)
    (array([0.41666667]), array([0.5]))
    """
    positive = (np.asarray(labels) > 0)[found.order]
    starts = np.flatnonzero(np.diff(found.tie, prepend=-1))
    size, positives = np.bincount(found.tie), np.bincount(found.tie, positive).astype(np.int64)
    group, before = found.group[found.order][starts], found.place[starts]
    # The first run with a positive, of groups that have one; runs are in the order of groups and places.
    runs = np.flatnonzero(positives)
    runs = runs[np.unique(group[runs], return_index=True)[1]]
    groups = len(found.rows)

    def of_group(values: NDArray[Any]) -> NDArray[np.int64]:
        each = np.zeros(groups, np.int64)
        each[group[runs]] = values[runs]
        return each

    return FirstPositive(of_group(before), of_group(size), of_group(positives))


def _missed(size: NDArray[np.int64], positives: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability that the first rows of a run in random order are all negatives."""
    from scipy.special import gammaln

    left = size - first
    possible = (left >= positives) & (size > 0)
    left, size, positives = (np.where(possible, each, 0) for each in (left, size, positives))
    logs = gammaln(left + 1) - gammaln(left - positives + 1) - gammaln(size + 1) + gammaln(size - positives + 1)
    return np.where(possible, np.exp(logs), 0.0)
