"""Metrics per request against scikit-learn and against every order of tied rows."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from mixrank.components.judging import Thresholds, check_thresholds
from mixrank.components.metrics import (
    Rows,
    measure,
    of_kinds,
    request_hit_rate_at,
    request_mrr,
    request_ndcg_at,
)
from mixrank.schemas import Categorical, EventTime, FeatureSpec, Key, Label, Request, Scenario


def rows_of(labels, scores, requests):
    return Rows(np.asarray(labels), np.asarray(scores), np.zeros(len(labels), int), np.asarray(requests))


@pytest.fixture(scope="module")
def rows():
    """Requests of 1 to 6 rows, with ties, some of them without a positive; rows of a request are not adjacent."""
    rng = np.random.default_rng(7)
    requests = np.repeat(np.arange(30), rng.integers(1, 7, 30))
    labels = (rng.random(len(requests)) < 0.35).astype(int)
    scores = rng.integers(1, 4, len(requests)) / 4
    order = rng.permutation(len(requests))
    return rows_of(labels[order], scores[order], np.array([f"r{each}" for each in requests])[order])


def over_all_orders(rows, value):
    """Mean over the requests with a positive of the mean of `value(labels in order)` over all orders of tied rows."""
    found = []
    for request in np.unique(rows.requests):
        mine = rows.requests == request
        labels, scores = rows.labels[mine], rows.scores[mine]
        if labels.any():
            runs = [labels[scores == score] for score in sorted(set(scores), reverse=True)]
            orders = itertools.product(*(itertools.permutations(run) for run in runs))
            found.append(np.mean([value([y for run in order for y in run]) for order in orders]))
    return np.mean(found)


def test_mrr_is_the_mean_over_all_orders_of_tied_rows(rows):
    expected = over_all_orders(rows, lambda labels: 1 / (1 + labels.index(1)))
    assert request_mrr().of_rows(rows) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_hit_rate_is_the_mean_over_all_orders_of_tied_rows(rows, k):
    expected = over_all_orders(rows, lambda labels: any(labels[:k]))
    assert request_hit_rate_at(k).of_rows(rows) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("gains", ["binary", "count", "watch_time"])
def test_ndcg_equals_scikit_learn_request_by_request(rows, k, gains):
    rng = np.random.default_rng(3)
    times = {"binary": 1, "count": rng.integers(1, 5, len(rows.labels)), "watch_time": 9 * rng.random(len(rows.labels))}
    labels = rows.labels * times[gains]
    found = []
    for request in np.unique(rows.requests):
        mine = rows.requests == request
        if labels[mine].any():
            # scikit-learn takes no single row; every order of one is the best.
            found.append(ndcg_score([labels[mine]], [rows.scores[mine]], k=k) if mine.sum() > 1 else 1.0)
    metric = request_ndcg_at(k)
    assert gains in metric.kinds
    assert metric.of_rows(rows_of(labels, rows.scores, rows.requests)) == pytest.approx(np.mean(found), abs=1e-12)


def test_a_constant_score_gives_what_chance_gives():
    labels, requests = np.zeros(4000, int), np.repeat(np.arange(4), 1000)
    labels[::500] = 1
    flat = rows_of(labels, np.full(4000, 0.5), requests)
    assert request_hit_rate_at(5).of_rows(flat) == pytest.approx(1 - 995 * 994 / (1000 * 999), rel=1e-9)
    # Two positives among m rows: the first is at j with probability 2 (m - j) / (m (m - 1)).
    places = np.arange(1, 1000)
    expected = np.sum(2 * (1000 - places) / (1000 * 999) / places)
    assert request_mrr().of_rows(flat) == pytest.approx(expected, rel=1e-9)


def test_requests_without_a_positive_are_left_out_and_counted(rows):
    found = measure(rows, of_kinds("binary", requests=True))
    positives = [rows.labels[rows.requests == request].any() for request in np.unique(rows.requests)]
    assert (found["requests_used"], found["requests_skipped"]) == (sum(positives), 30 - sum(positives))
    assert found["requests_skipped"] > 0
    none = rows_of([0, 0], [0.1, 0.2], [1, 1])
    assert np.isnan([request_mrr().of_rows(none), request_ndcg_at(3).of_rows(none)]).all()


def test_metrics_per_request_need_requests():
    without = Rows(np.array([0, 1]), np.array([0.1, 0.2]), np.array([1, 1]))
    with pytest.raises(ValueError, match="metrics per request need requests: declare `request=Request"):
        request_mrr().of_rows(without)
    assert not any(metric.per_request for metric in of_kinds("binary", requests=False))
    for make in (request_ndcg_at, request_hit_rate_at):
        with pytest.raises(ValueError, match="`k` must be >= 1, received 0"):
            make(0)


def test_a_threshold_per_request_needs_a_declared_request():
    parts = {
        "name": "shop",
        "user": Key("member"),
        "item": Key("article"),
        "time": EventTime("at"),
        "scenario": Scenario("page", values=(1, 2)),
        "labels": (Label("click"), Label("seconds", kind="regression")),
        "features": (Categorical("article", group="item"),),
    }
    bounds = Thresholds(**{"min_request_ndcg@10": {"click": 0.5}})
    with pytest.raises(ValueError, match="`min_request_ndcg@10` is of NDCG@10 per request, and log `shop` declares no"):
        check_thresholds(bounds, FeatureSpec(**parts))
    declared = FeatureSpec(**parts, request=Request("search"))
    check_thresholds(bounds, declared)
    # A label below 0 is no gain.
    with pytest.raises(ValueError, match="of kind regression, which NDCG@10 per request does not measure"):
        check_thresholds(Thresholds(**{"min_request_ndcg@10": {"seconds": 0.5}}), declared)
