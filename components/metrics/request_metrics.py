"""How good the order of the items is inside the requests of a log that declares them.

Every request with a positive counts once, whatever its size: a metric is the plain mean over them, or the mean weighted
by the mean weight of each one's rows. A request without a positive is left out, since every order of it is as good as
any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixrank.components.metrics.metric import Metric, Rows, ratio_of_sums
from mixrank.components.metrics.ranked import first_positive, ndcg
from mixrank.components.metrics.ranking_metrics import mean
from mixrank.schemas.task_kinds import LABEL_KINDS

# Kinds whose labels may be gains.
GAINS = tuple(kind.name for kind in LABEL_KINDS.values() if kind.low >= 0)


def request_ndcg_at(k: int) -> Metric:
    """The metric `request_ndcg@k`: the mean of NDCG@k over the requests with a positive.

    `DCG = sum_{i <= k} y_i / log2(i + 1)`: a label that is a number is the gain itself. Rows with equal scores share
    the mean of their labels.

    Args:
        k: int >= 1. Places that count.
    """
    _check_places(k)
    return _of_requests(
        f"request_ndcg@{k}",
        f"NDCG@{k} per request",
        lambda rows: ndcg(rows.labels, rows.ranked_requests, k),
        kinds=GAINS,
        short=f"NDCG@{k}/req",
        headline=True,
    )


def request_mrr() -> Metric:
    """The metric `request_mrr`: the mean of 1 / place of the first positive, over the requests with a positive."""
    return _of_requests(
        "request_mrr",
        "MRR per request",
        lambda rows: first_positive(rows.labels, rows.ranked_requests).reciprocal_rank(),
    )


def request_hit_rate_at(k: int) -> Metric:
    """The metric `request_hit_rate@k`: the share of the requests with a positive that have one in the first k places.

    Args:
        k: int >= 1. Places that count.
    """
    _check_places(k)
    return _of_requests(
        f"request_hit_rate@{k}",
        f"hit rate@{k} per request",
        lambda rows: first_positive(rows.labels, rows.ranked_requests).hit_rate(k),
    )


def _check_places(k: int) -> None:
    if k < 1:
        raise ValueError(f"`k` must be >= 1, received {k}")


def _of_requests(name: str, title: str, of_each: Callable[[Rows], NDArray[np.float64]], **options: Any) -> Metric:
    """The mean of a value per request, over those with a positive."""

    def of_rows(rows: Rows) -> float:
        used, found = with_positive(rows), rows.ranked_requests
        weight = np.bincount(found.group, rows.weight, len(found.rows)) / found.rows
        return mean(of_each(rows)[used], weight[used])

    def of_resamples(rows: Rows, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        request = rows.ranked_requests.group
        # Each row brings its share of the request, so that a request counts once.
        once = (with_positive(rows) / rows.ranked_requests.rows)[request]
        return ratio_of_sums(rows, of_each(rows)[request] * once, once, drawn)

    return Metric(name, title, of_rows, of_resamples, higher_is_better=True, per_request=True, **options)


def with_positive(rows: Rows) -> NDArray[np.bool_]:
    """Whether a request has a label above 0, `(requests,)`."""
    found = rows.ranked_requests
    return np.bincount(found.group, np.asarray(rows.labels) > 0, len(found.rows)) > 0


OF_REQUESTS = (
    request_ndcg_at(10),
    request_mrr(),
    request_hit_rate_at(1),
    request_hit_rate_at(5),
    Metric(
        "requests_used",
        "requests with a positive",
        lambda rows: int(with_positive(rows).sum()),
        per_request=True,
        kinds=GAINS,
    ),
    Metric(
        "requests_skipped",
        "requests without a positive",
        lambda rows: int((~with_positive(rows)).sum()),
        per_request=True,
        kinds=GAINS,
    ),
)
