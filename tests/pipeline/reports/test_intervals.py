import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from mixrank.components.metrics import Rows
from mixrank.pipeline.reports.intervals import draw_users, percentile_interval, resampled_metrics


@pytest.fixture
def log():
    rng = np.random.default_rng(2)
    users = rng.integers(0, 9, 70)
    labels = rng.integers(0, 2, 70)
    return labels, rng.integers(1, 8, 70) / 8, users


@pytest.mark.parametrize("weighted", [False, True])
def test_a_resample_equals_scikit_learn_on_the_repeated_rows(log, weighted):
    labels, scores, users = log
    weights = np.random.default_rng(4).uniform(0.1, 3, 70) if weighted else None
    w = np.ones(70) if weights is None else weights
    drawn = draw_users(9, resamples=5, seed=7)
    got = resampled_metrics("binary", Rows(labels, scores, users, weights=weights), drawn)
    for resample, times in enumerate(drawn):
        rows = np.repeat(np.arange(70), times[users])
        y, p, v = labels[rows], scores[rows], w[rows]
        assert got["auc"][resample] == pytest.approx(roc_auc_score(y, p, sample_weight=v), abs=1e-12)
        assert got["log_loss"][resample] == pytest.approx(log_loss(y, p, sample_weight=v), abs=1e-12)
        assert got["calibration"][resample] == pytest.approx((v * p).sum() / (v * y).sum(), abs=1e-12)
        total = weight = 0.0
        for user in range(9):
            mine = users == user
            if len(set(labels[mine])) == 2:
                area = roc_auc_score(labels[mine], scores[mine], sample_weight=w[mine])
                total += times[user] * w[mine].sum() * area
                weight += times[user] * w[mine].sum()
        assert got["gauc"][resample] == pytest.approx(total / weight, abs=1e-12)


def test_resamples_are_drawn_with_replacement_and_repeat_with_their_seed():
    drawn = draw_users(50, resamples=40, seed=3)
    assert (drawn.sum(axis=1) == 50).all()
    # Of n users a share of 1 - 1/e is drawn at least once.
    assert (drawn > 0).mean() == pytest.approx(1 - np.exp(-1), abs=0.02)
    np.testing.assert_array_equal(drawn, draw_users(50, resamples=40, seed=3))
    assert (drawn != draw_users(50, resamples=40, seed=4)).any()


def test_users_missing_from_a_slice_do_not_count(log):
    labels, scores, users = log
    kept = users != 4
    drawn = draw_users(9, resamples=3, seed=1)
    without = np.delete(drawn, 4, axis=1)
    renamed = np.where(users > 4, users - 1, users)
    for metric, values in resampled_metrics("binary", Rows(labels, scores, users).take(kept), drawn).items():
        expected = resampled_metrics("binary", Rows(labels, scores, renamed).take(kept), without)[metric]
        np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_a_resample_with_one_class_has_no_auc():
    drawn = np.array([[2, 0], [1, 1]], np.int32)
    got = resampled_metrics("binary", Rows(np.array([1, 1, 0]), np.array([0.2, 0.7, 0.4]), np.array([0, 0, 1])), drawn)
    np.testing.assert_array_equal(got["auc"], [np.nan, 0.5])
    np.testing.assert_array_equal(got["gauc"], [np.nan, np.nan])


@pytest.mark.slow
def test_interval_covers_the_truth_about_as_often_as_it_says():
    # Mean of 60 users' log losses against its expectation, over 150 made-up logs.
    rng = np.random.default_rng(0)
    truth = np.log(2)
    inside = 0
    for seed in range(150):
        scores = np.where(rng.random(60) < 0.5, 0.3, 0.6)
        labels = (rng.random(60) < scores).astype(np.int64)
        entropy = {p: -p * np.log(p) - (1 - p) * np.log(1 - p) for p in (0.3, 0.6)}
        truth = (entropy[0.3] + entropy[0.6]) / 2
        drawn = draw_users(60, resamples=200, seed=seed)
        low, high = percentile_interval(
            resampled_metrics("binary", Rows(labels, scores, np.arange(60)), drawn)["log_loss"]
        )
        inside += low <= truth <= high
    assert 0.88 <= inside / 150 <= 0.99


def test_interval_is_missing_when_too_few_resamples_have_a_value():
    values = np.arange(10.0)
    assert percentile_interval(values) == pytest.approx((0.225, 8.775))
    values[:2] = np.nan
    assert np.isnan(percentile_interval(values)).all()
