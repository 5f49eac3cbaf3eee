"""Metrics of classes, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, log_loss

from mixrank.components.metrics import Rows, answers_in, find_metric, headlines
from mixrank.schemas import Label
from mixrank.schemas.task_kinds import CLASSES

LEVELS = (1, 2, 5)


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    shares, y = rng.dirichlet([1, 1, 1], 50), rng.choice(LEVELS, 50)
    answers = np.column_stack([shares @ np.array(LEVELS), shares])
    return Rows.of_answers(y, answers, rng.integers(0, 7, 50), LEVELS, weights=rng.uniform(0, 2, 50))


@pytest.mark.parametrize("weighted", [False, True])
def test_log_loss_and_accuracy_are_scikit_learns(rows, weighted):
    used = rows if weighted else Rows(rows.labels, rows.scores, rows.groups, classes=LEVELS, shares=rows.shares)
    weight = rows.weights if weighted else None
    expected = log_loss(rows.labels, rows.shares, sample_weight=weight, labels=LEVELS)
    assert find_metric("class_log_loss").of_rows(used) == pytest.approx(expected)
    best = np.array(LEVELS)[rows.shares.argmax(axis=1)]
    expected = accuracy_score(rows.labels, best, sample_weight=weight)
    assert find_metric("accuracy").of_rows(used) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["class_log_loss", "accuracy"])
def test_a_resample_of_the_users_is_the_metric_on_their_rows(rows, name):
    metric, drawn = find_metric(name), np.array([[2, 0, 1, 1, 0, 3, 1]], np.float64)
    taken = np.repeat(np.arange(50), drawn[0][rows.groups].astype(int))
    assert metric.of_resamples(rows, drawn)[0] == pytest.approx(metric.of_rows(rows.take(taken)))


def test_a_row_of_several_best_classes_counts_in_part():
    rows = Rows.of_answers(np.array([1, 2]), np.array([[2, 0.4, 0.4, 0.2]] * 2), np.zeros(2, int), LEVELS)
    assert find_metric("accuracy").of_rows(rows) == pytest.approx(0.5)


def test_a_label_that_is_no_class_is_named(rows):
    wrong = Rows(np.full(50, 3), rows.scores, rows.groups, classes=LEVELS, shares=rows.shares)
    with pytest.raises(ValueError, match=r"`labels` must be among the classes \(1, 2, 5\), received 3"):
        find_metric("class_log_loss").of_rows(wrong)


def test_predictions_without_the_classes_are_refused():
    label = Label("stars", kind="ordinal", classes=LEVELS)
    frame = pd.DataFrame({"score_stars": [1.5], "score_stars_1": [0.5], "score_stars_2": [0.5]})
    with pytest.raises(ValueError, match="predictions of label `stars` lack the column `score_stars_5`"):
        answers_in(frame, label)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_first_headline_of_a_label_with_classes_is_one_of_order(kind):
    names = [metric.name for metric in headlines(kind, requests=False)]
    assert names[0] == "xauc" and {"mae", "class_log_loss", "accuracy"} <= set(names)
