"""Metrics of numbers against scikit-learn and a look at every pair."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_poisson_deviance, mean_squared_error, mean_squared_log_error

from mixrank.components.metrics import Rows, find_metric
from mixrank.components.metrics.number_metrics import xauc, xauc_by_group

few = st.integers(0, 4)
rows = st.lists(st.tuples(few, few, st.integers(0, 2)), min_size=1, max_size=30)


def by_pairs(labels, predictions):
    """Share of the pairs that are ordered alike, by a look at each."""
    won, pairs = 0.0, 0
    for (y, p), (z, q) in itertools.combinations(zip(labels, predictions, strict=True), 2):
        if y != z:
            pairs += 1
            won += 0.5 if p == q else float((p > q) == (y > z))
    return won / pairs if pairs else np.nan


@given(rows)
def test_xauc_is_the_share_of_pairs_in_order(rows):
    labels, predictions, groups = (np.array(column, float) for column in zip(*rows, strict=True))
    assert xauc(labels, predictions) == pytest.approx(by_pairs(labels, predictions), abs=1e-12, nan_ok=True)
    found = xauc_by_group(labels, predictions, groups)
    for name, value in zip(np.unique(groups), found.xauc, strict=True):
        own = groups == name
        assert value == pytest.approx(by_pairs(labels[own], predictions[own]), abs=1e-12, nan_ok=True)


def test_errors_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    labels, predictions = rng.poisson(2.0, 300).astype(float), rng.gamma(2.0, 1.0, 300)
    rows = Rows(labels, predictions, rng.integers(0, 20, 300))
    found = {name: find_metric(name).of_rows(rows) for name in ("mae", "rmse", "mse", "msle", "bias", "ratio")}
    assert found == pytest.approx(
        {
            "mae": mean_absolute_error(labels, predictions),
            "rmse": mean_squared_error(labels, predictions) ** 0.5,
            "mse": mean_squared_error(labels, predictions),
            "msle": mean_squared_log_error(labels, predictions),
            "bias": np.mean(predictions) - np.mean(labels),
            "ratio": np.mean(predictions) / np.mean(labels),
        }
    )
    # A deviance is twice the difference to the best loss that labels allow.
    best = find_metric("poisson_loss").of_rows(Rows(labels, labels, rows.groups))
    loss = find_metric("poisson_loss").of_rows(rows)
    assert 2 * (loss - best) == pytest.approx(mean_poisson_deviance(labels, predictions), abs=1e-4)
