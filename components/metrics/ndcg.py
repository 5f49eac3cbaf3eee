"""Normalized discounted cumulative gain at k, averaged over groups (Järvelin & Kekäläinen 2002)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixrank.components.metrics.metric import Metric, Rows, ratio_of_sums
from mixrank.components.metrics.ranked import ndcg


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
        values, used = ndcg(rows.labels, rows.ranked, k), rows.by_group.mixed
        return float(np.average(values[used], weights=rows.by_group.rows[used])) if used.any() else float("nan")

    def of_resamples(rows: Rows, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        group = rows.by_group.group
        return ratio_of_sums(rows, ndcg(rows.labels, rows.ranked, k)[group], rows.by_group.mixed[group], drawn)

    return Metric(f"ndcg@{k}", f"NDCG@{k}", of_rows, of_resamples, higher_is_better=True)
