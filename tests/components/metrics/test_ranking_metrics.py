import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import roc_auc_score

from mixrank.components.metrics import ranking_metrics as rm


def by_user(labels, scores, users):
    """(rows, AUC) of every user with both classes, from scikit-learn."""
    kept = []
    for user in np.unique(users):
        rows = users == user
        if len(set(labels[rows])) == 2:
            kept.append((rows.sum(), roc_auc_score(labels[rows], scores[rows])))
    return np.array(kept).reshape(-1, 2)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 70), levels=st.integers(1, 6))
def test_gauc_equals_scikit_learn_user_by_user_with_ties(seed, rows, levels):
    rng = np.random.default_rng(seed)
    labels, users = rng.integers(0, 2, rows), rng.integers(0, 9, rows)
    scores = rng.integers(0, levels, rows) / levels
    kept = by_user(labels, scores, users)
    got = rm.gauc(labels, scores, users)
    assert (got.used, got.skipped) == (len(kept), len(np.unique(users)) - len(kept))
    if len(kept):
        assert got.impressions == pytest.approx(np.average(kept[:, 1], weights=kept[:, 0]), abs=1e-12)
        assert got.uniform == pytest.approx(kept[:, 1].mean(), abs=1e-12)
    else:
        assert np.isnan(got.impressions) and np.isnan(got.uniform)


@settings(max_examples=60)
@given(hnp.arrays(np.float64, 23, elements=st.sampled_from([0.0, 1e-9, 0.25, 0.5, 1.0])), st.integers(1, 2**23 - 2))
def test_auc_equals_scikit_learn_with_ties(scores, bits):
    labels = np.array([bits >> i & 1 for i in range(23)])
    assert rm.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_gauc_ignores_users_with_one_class():
    # User 1 ranks right, user 2 wrong on three rows, users 3 and 4 have one class.
    labels = [0, 1, 1, 1, 0, 1, 1, 0]
    scores = [0.2, 0.8, 0.1, 0.3, 0.9, 0.4, 0.5, 0.6]
    users = ["1", "1", "2", "2", "2", "3", "3", "4"]
    assert rm.gauc(labels, scores, users) == rm.Gauc(pytest.approx(2 / 5), pytest.approx(1 / 2), 2, 2)


def test_gauc_is_one_half_when_all_scores_are_equal():
    assert rm.gauc([0, 1, 1, 0, 1], np.full(5, 0.3), [1, 1, 2, 2, 2]).impressions == 0.5


def test_auc_by_group_lists_groups_in_ascending_order():
    got = rm.auc_by_group([1, 0, 0, 1, 1], [0.9, 0.1, 0.5, 0.2, 0.7], [30, 30, -4, -4, 11])
    np.testing.assert_array_equal(got.auc, [0.0, np.nan, 1.0])
    np.testing.assert_array_equal(got.rows, [2, 1, 2])
    np.testing.assert_array_equal(got.group, [2, 2, 0, 0, 1])


def test_auc_is_missing_with_one_class_or_no_rows():
    assert np.isnan(rm.auc([1, 1], [0.1, 0.2]))
    assert np.isnan(rm.auc([], []))


def test_log_loss_equals_scikit_learn():
    rng = np.random.default_rng(3)
    labels, p = rng.integers(0, 2, 41), rng.random(41)
    assert rm.log_loss(labels, p) == pytest.approx(sk_log_loss(labels, p), abs=1e-12)


def test_log_loss_of_a_certain_mistake_is_finite():
    assert rm.log_loss([1], [0.0]) == pytest.approx(-np.log(1e-7))


def test_calibration_is_predicted_over_observed():
    assert rm.calibration([1, 0, 0, 1, 0], [0.5, 0.5, 0.25, 1.0, 0.75]) == 1.5
    assert np.isnan(rm.calibration([0, 0], [0.5, 0.5]))


def test_relative_improvement_reproduces_the_printed_column():
    assert rm.rela_impr_auc(0.7315, 0.7312) == pytest.approx(0.0013, abs=5e-5)
    assert rm.rela_impr_auc(0.75, 0.6) == pytest.approx(1.5)
    assert rm.rela_impr_log_loss(0.45, 0.5) == pytest.approx(-0.1)
    assert np.isnan(rm.rela_impr_auc(0.7, 0.5)) and np.isnan(rm.rela_impr_auc(0.7, 0.4))


def test_gauc_of_200k_rows_takes_less_than_a_second():
    rng = np.random.default_rng(5)
    labels, scores, users = rng.integers(0, 2, 200_000), rng.random(200_000), rng.integers(0, 27_000, 200_000)
    start = time.process_time()
    rm.gauc(labels, scores, users)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("labels", "scores", "users", "message"),
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], [1, 1, 1], "`labels` must be 0 or 1, received 2.0"),
        ([0, 1], [0.1, 0.2, 0.3], [1, 1], r"`labels` and `scores` must be of one length, received shapes \(2,\)"),
        ([0, 1], [0.1, np.nan], [1, 1], "`scores` must be finite, received nan in row 1"),
        ([0, 1], [0.1, 0.2], [1, 1, 1], r"`groups` must have one entry per label \(2,\)"),
    ],
)
def test_wrong_columns_are_named(labels, scores, users, message):
    with pytest.raises(ValueError, match=message):
        rm.gauc(labels, scores, users)


def test_a_probability_above_one_is_refused():
    with pytest.raises(ValueError, match=r"`probabilities` must lie in \[0, 1\], received 0.5 to 1.5"):
        rm.log_loss([0, 1], [0.5, 1.5])


def test_gauc_counts_knowledge_of_earlier_outcomes_against_a_model():
    # The table in docs/judging.md.
    rng = np.random.default_rng(0)
    rate, item = rng.beta(2, 2, 40_000)[:, None], 0.5 * rng.normal(size=(40_000, 4))
    truth = np.log(rate / (1 - rate)) + item
    labels = (rng.random(item.shape) < 1 / (1 + np.exp(-truth))).astype(int)
    earlier = np.cumsum(labels, axis=1) - labels
    posterior = (2 + earlier) / (4 + np.arange(4))
    informed = np.log(posterior / (1 - posterior)) + item
    users = np.repeat(np.arange(40_000), 4)

    def judge(scores):
        found = rm.gauc(labels.ravel(), scores.ravel(), users).impressions
        return round(rm.auc(labels.ravel(), scores.ravel()), 2), round(found, 2)

    assert judge(item) == (0.61, 0.63)
    assert judge(informed) == (0.66, 0.45)
    assert judge(truth) == (0.77, 0.63)
