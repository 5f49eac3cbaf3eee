"""Normalized discounted cumulative gain at k, averaged over groups (Järvelin & Kekäläinen 2002)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixrank.components.metrics.metric import Metric, Rows, ratio_of_sums


def ndcg_at(k: int) -> Metric:
    """The metric NDCG@k, named `ndcg@k`: `sum_u n_u NDCG_u / sum_u n_u` over the groups u that have both classes.

    n_u are the rows of a group or their weights, as in GAUC; weights do not enter NDCG_u. A group with one class is
    left out: every order of it is the best one.

    Args:
        k: int >= 1. Places that count.

    >>> ndcg_at(5).of_rows(Rows(np.array([0, 1, 1]), np.array([0.9, 0.8, 0.1]), np.array([7, 7, 7])))
    0.6934264036172708
    """
    if k < 1:
        raise ValueError(f"`k` must be >= 1, received {k}")

    def of_rows(rows: Rows) -> float:
        values, used = ndcg_by_group(rows, k), rows.by_group.mixed
        return float(np.average(values[used], weights=rows.by_group.rows[used])) if used.any() else float("nan")

    def of_resamples(rows: Rows, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        group = rows.by_group.group
        return ratio_of_sums(rows, ndcg_by_group(rows, k)[group], rows.by_group.mixed[group], drawn)

    return Metric(f"ndcg@{k}", f"NDCG@{k}", of_rows, of_resamples, higher_is_better=True)


def ndcg_by_group(rows: Rows, k: int) -> NDArray[np.float64]:
    """NDCG@k of every group, `(groups,)`: `DCG / ideal DCG`, `DCG = sum_{i <= k} y_i / log2(i + 1)`; 0 if all y are 0.

    Rows with equal scores share the mean of their labels, so that their order in the data does not matter.
    """
    group = rows.by_group.group
    size = np.bincount(group, minlength=len(rows.by_group.auc))
    labels = np.asarray(rows.labels, np.float64)
    order = np.lexsort((-np.asarray(rows.scores, np.float64), group))
    g, s = group[order], rows.scores[order]
    place = np.arange(len(g)) - (np.cumsum(size) - size)[g]
    discount = np.where(place < k, 1 / np.log2(place + 2), 0)
    tie = np.cumsum((np.diff(g, prepend=-1) != 0) | np.append(True, s[1:] != s[:-1])) - 1
    gain = np.bincount(tie, labels[order]) / np.bincount(tie)
    found = np.bincount(g, discount * gain[tie], len(size))
    ideal = np.bincount(g, discount * labels[np.lexsort((-labels, group))], len(size))
    return np.divide(found, ideal, out=np.zeros(len(size)), where=ideal > 0)
