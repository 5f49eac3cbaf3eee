"""Curves of logits against scikit-learn, and what no curve may do to an order."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression

from mixrank.components.calibration import TASK_CALIBRATIONS, Curve, fit_isotonic, fit_platt
from mixrank.components.calibration.curves import IDENTITY, bins_of
from mixrank.layers.task_kinds import TASK_KINDS
from mixrank.schemas.task_kinds import LABEL_KINDS

SIZE = 4000


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.fixture(scope="module")
def log():
    """Labels, and logits that are too far from 0 and too high."""
    rng = np.random.default_rng(5)
    truth = rng.normal(-1, 1, SIZE)
    return (rng.random(SIZE) < sigmoid(truth)).astype(int), 2 * truth + 0.7


def test_platts_line_is_scikit_learns_logistic_regression(log):
    labels, logits = log
    curve = fit_platt("binary", labels, logits)
    exact = LogisticRegression(penalty=None, tol=1e-10).fit(logits[:, None], labels)
    assert (curve.left, curve.values[0]) == pytest.approx((exact.coef_[0, 0], exact.intercept_[0]), abs=1e-4)
    assert curve.left == curve.right == pytest.approx(0.5, abs=0.05)
    # The first-order condition of the intercept: predictions add up to the labels.
    assert sigmoid(curve.of(logits)).sum() == pytest.approx(labels.sum(), rel=1e-6)


def test_of_numbers_it_is_least_squares(log):
    rng = np.random.default_rng(1)
    logits = log[1]
    labels = 3 * logits - 1 + rng.normal(size=SIZE)
    exact = LinearRegression().fit(logits[:, None], labels)
    for kind, y in (("regression", labels), ("log_regression", np.expm1(labels - labels.min()))):
        curve = fit_platt(kind, y, logits)
        shift = labels.min() if kind == "log_regression" else 0.0
        assert curve.left == pytest.approx(exact.coef_[0], rel=1e-5)
        assert curve.values[0] == pytest.approx(exact.intercept_ - shift, rel=1e-5)


@pytest.mark.parametrize("kind", ["count", "watch_time"])
@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_of_counts_and_times_the_mean_is_found_again(kind, fit):
    rng = np.random.default_rng(8)
    truth = rng.normal(0, 0.7, 20_000)
    labels = rng.poisson(np.exp(truth)) if kind == "count" else rng.exponential(np.exp(truth))
    curve = fit(kind, labels, 0.5 * truth - 2)
    inside = np.abs(truth) < 1
    np.testing.assert_allclose(curve.of(0.5 * truth - 2)[inside], truth[inside], atol=0.2)


@pytest.mark.parametrize("kind", [kind for kind, task in TASK_CALIBRATIONS.items() if task is not None])
def test_the_derivative_of_the_loss_is_its_difference_and_the_loss_is_the_kinds(kind):
    import keras

    rng = np.random.default_rng(3)
    task, z = TASK_CALIBRATIONS[kind], rng.normal(size=30)
    y = np.array([LABEL_KINDS[kind].toy(*pair) for pair in rng.random((30, 2))], np.float64)
    losses, slopes = task.loss(y, z)
    step = 1e-6
    numeric = (task.loss(y, z + step)[0] - task.loss(y, z - step)[0]) / (2 * step)
    np.testing.assert_allclose(slopes, numeric, atol=1e-6)
    expected = float(TASK_KINDS[kind].loss()(y.astype(np.float32), z.astype(np.float32)))
    assert losses.mean() == pytest.approx(expected, rel=1e-5)
    # The logit of a mean gives that mean back through the link.
    mean = task.target(np.array([0.3]))
    link = keras.ops.convert_to_numpy(TASK_KINDS[kind].link(task.logit(mean).astype(np.float32)))
    assert link == pytest.approx(0.3, rel=1e-5)


def test_an_isotonic_curve_passes_through_scikit_learns_regression():
    # Sixty logits, each with a bin of its own.
    logits = np.repeat(np.linspace(-3, 3, 60), 30)
    labels = (np.random.default_rng(1).random(1800) < sigmoid(logits)).astype(int)
    exact = IsotonicRegression().fit(logits, labels)
    curve = fit_isotonic("binary", labels, logits, rows_per_bin=1)
    pools = exact.predict(logits)
    # One knot per pool, at its mean logit; outer pools of one class have joined their neighbours.
    inner = np.unique(pools)[2:-2]
    for pool in inner:
        assert sigmoid(curve.of(logits[pools == pool].mean())) == pytest.approx(pool, abs=1e-9)
    assert len(inner) >= 10


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_a_curve_makes_predictions_right_and_keeps_every_order(log, fit):
    labels, logits = log
    curve = fit("binary", labels, logits)
    assert len(curve.knots) <= 100
    assert (np.diff(curve.of(np.unique(logits))) > 0).all()
    outside = curve.of([-50.0, -40.0, 40.0, 50.0])
    assert (np.diff(outside) > 0).all() and np.isfinite(outside).all()
    fresh = np.random.default_rng(6).normal(-1, 1, 50_000)
    # Against the truth that the labels were drawn with.
    before = np.abs(sigmoid(2 * fresh + 0.7) - sigmoid(fresh)).mean()
    after = np.abs(sigmoid(curve.of(2 * fresh + 0.7)) - sigmoid(fresh)).mean()
    assert after < 0.2 * before


def test_an_isotonic_curve_follows_what_a_line_cannot():
    rng = np.random.default_rng(2)
    logits = rng.uniform(-3, 3, 40_000)
    truth = np.where(logits < 0, -2.0, -2.0 + 1.5 * logits)
    labels = (rng.random(40_000) < sigmoid(truth)).astype(int)
    line, curve = (fit("binary", labels, logits) for fit in (fit_platt, fit_isotonic))
    off = {name: np.abs(sigmoid(each.of(logits)) - sigmoid(truth)).mean() for name, each in (("l", line), ("c", curve))}
    assert off["c"] < 0.02 < off["l"]


def test_a_line_that_would_turn_the_order_round_only_moves(log):
    labels, logits = log
    curve = fit_platt("binary", labels, -logits)
    assert curve.left == curve.right == 1
    assert sigmoid(curve.of(-logits)).mean() == pytest.approx(labels.mean(), rel=1e-5)


def test_few_or_separated_rows_give_finite_curves():
    logits = np.linspace(-1, 1, 20)
    labels = (logits > 0).astype(int)
    for fit in (fit_platt, fit_isotonic):
        found = fit("binary", labels, logits).of(logits)
        assert np.isfinite(found).all() and (np.diff(found) > 0).all()
    assert fit_isotonic("binary", np.ones(20, int), logits) == IDENTITY
    flat = fit_isotonic("binary", labels, np.zeros(20))
    assert flat.of([0.0, 1.0]) == pytest.approx([0.0, 1.0], abs=1e-12)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_a_row_of_weight_k_counts_as_k_rows(log, fit):
    labels, logits = log
    weights = 1.0 + np.arange(len(labels)) % 3 * (labels + 1)
    taken = np.repeat(np.arange(len(labels)), weights.astype(int))
    weighted = fit("binary", labels, logits, weights)
    # Bins of an isotonic curve are of rows, not of weight.
    repeated, apart = fit("binary", labels[taken], logits[taken]), 0.1 if fit is fit_isotonic else 1e-3
    np.testing.assert_allclose(weighted.of([-1.0, 0.0, 1.0]), repeated.of([-1.0, 0.0, 1.0]), atol=apart)
    assert np.abs(weighted.of([0.0]) - fit("binary", labels, logits).of([0.0])) > 0.2


def test_bins_keep_equal_values_together():
    values = np.array([0.5] * 7 + [1.0, 2.0, 3.0])
    number = bins_of(values, 5)
    assert len(set(number[:7])) == 1 and number.max() + 1 <= 4
    assert (np.diff(number) >= 0).all() and len(set(number)) == number.max() + 1


def test_a_curve_is_linear_between_and_beyond_its_knots():
    curve = Curve(knots=(-1.0, 0.0, 2.0), values=(-3.0, 0.0, 1.0), left=2.0, right=0.5)
    np.testing.assert_allclose(curve.of([-2, -1, -0.5, 0, 1, 2, 4]), [-5, -3, -1.5, 0, 0.5, 1, 2])
