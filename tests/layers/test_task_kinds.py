"""What each kind of task learns: the loss that fits finds what a log was drawn from, another does not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit
from scipy.stats import spearmanr

from mixrank.layers import losses
from mixrank.layers.heads import TaskLogits
from mixrank.layers.task_kinds import TASK_KINDS, at_rank, new_loss, predicted
from mixrank.schemas import Label
from mixrank.schemas.task_kinds import CLASSES, LABEL_KINDS, NUMBERS

ITEMS, ROWS = 6, 4000
MEANS = np.linspace(0.3, 4.0, ITEMS)


def draw(kind):
    """Labels (items, rows) of a kind, and what is true of each item: the mean, or that of the logarithm."""
    rng = np.random.default_rng(3)
    shape = (ITEMS, ROWS)
    match kind:
        case "binary":
            return (rng.random(shape) < MEANS[:, None] / 5).astype("float32"), MEANS / 5
        case "regression":
            return rng.normal(MEANS[:, None] - 2, 1.0, shape).astype("float32"), MEANS - 2
        case "log_regression":
            return np.expm1(rng.gamma(4.0, MEANS[:, None] / 4, shape)).astype("float32"), np.expm1(MEANS)
        case "count":
            return rng.poisson(MEANS[:, None], shape).astype("float32"), MEANS
        case "watch_time":
            # Two in three leave at once, the others stay for a time with a long tail.
            times = rng.lognormal(0.0, 0.5, shape) * MEANS[:, None] * 3 / np.exp(0.125)
            return np.where(rng.random(shape) < 1 / 3, times, 0).astype("float32"), MEANS


def learned(kind, labels):
    """Predictions of a logit per item that minimizes the loss of a kind."""
    items, rows = labels.shape
    z, loss = tf.Variable(np.zeros(items, "float32")), TASK_KINDS[kind].loss()
    optimizer = keras.optimizers.Adam(0.05)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss(tf.reshape(labels, (-1, 1)), tf.repeat(z, rows))
        optimizer.apply([tape.gradient(value, z)], [z])

    optimizer.build([z])
    for _ in range(300):
        step()
    return TASK_KINDS[kind].link(keras.ops.convert_to_tensor(z)).numpy()


@pytest.mark.parametrize("kind", [kind for kind in LABEL_KINDS if kind not in (*CLASSES, "watch_quantile")])
def test_the_loss_of_a_kind_finds_what_its_labels_were_drawn_from(kind):
    labels, truth = draw(kind)
    np.testing.assert_allclose(learned(kind, labels), truth, rtol=0.1, atol=0.06)


@pytest.mark.parametrize(("kind", "wrong"), [("watch_time", "log_regression"), ("log_regression", "watch_time")])
def test_another_loss_finds_something_else(kind, wrong):
    labels, truth = draw(kind)
    off = learned(wrong, labels) / truth
    assert np.all(off < 0.8) if kind == "watch_time" else np.all(off > 1.02)


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), 0.5])
def test_a_label_outside_its_kind_is_refused(kind, wrong):
    fits = np.isfinite(wrong) and wrong >= LABEL_KINDS[kind].low and not (LABEL_KINDS[kind].whole and wrong % 1)
    if fits:
        LABEL_KINDS[kind].check("label `x`", [0, wrong])
    else:
        with pytest.raises(ValueError, match="label `x` must be a "):
            LABEL_KINDS[kind].check("label `x`", [0, wrong])


LEVELS = (1, 2, 3, 5)
THRESHOLDS = np.array([-1.5, 0.2, 1.0])
SCORES = np.linspace(-2, 2, ITEMS)


def of_levels(scores, thresholds=THRESHOLDS):
    """Probabilities of the levels, by SciPy."""
    above = np.pad(expit(scores[:, None] - thresholds), ((0, 0), (1, 1)), constant_values=0)
    above[:, 0] = 1
    return above[:, :-1] - above[:, 1:]


# Of a nominal label: no order of the classes explains these.
SHARES = np.array([[0.5, 0.0, 0.1, 0.4], [0.1, 0.6, 0.1, 0.2], [0.25, 0.25, 0.25, 0.25]])


def drawn_classes(shares, rows, seed=5):
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(LEVELS, rows, p=each) for each in shares]).astype("float32")


def learned_shares(kind, labels):
    """Probabilities of the classes of each item, by the loss of a kind; its thresholds are learned beside."""
    items, rows = labels.shape
    label = Label("stars", kind=kind, classes=LEVELS)
    layer = TaskLogits(
        tasks=("stars",),
        levels={} if label.values.logit_per_class else {"stars": len(LEVELS)},
        classes={"stars": label.logits} if label.values.logit_per_class else {},
    )
    z, loss = tf.Variable(np.zeros((items, len(label.logits)), "float32")), new_loss(label)
    optimizer = keras.optimizers.Adam(0.05)

    def logits():
        return layer({name: z[:, place] for place, name in enumerate(label.logits)})["stars"]

    logits()
    variables = [z, *(weight.value for weight in layer.trainable_weights)]
    optimizer.build(variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss(tf.reshape(labels, (-1, 1)), tf.repeat(logits(), rows, axis=0))
        optimizer.apply(tape.gradient(value, variables), variables)

    for _ in range(400):
        step()
    found = predicted(label, logits(), {})
    shares = np.stack([found[name].numpy() for name in label.outputs[1:]], axis=1)
    np.testing.assert_allclose(found["stars"], shares @ np.array(LEVELS), rtol=1e-5)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    return shares


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_levels_of_proportional_odds_are_found_by_both_kinds_with_classes(kind):
    truth = of_levels(SCORES)
    np.testing.assert_allclose(learned_shares(kind, drawn_classes(truth, ROWS)), truth, atol=0.02)


@pytest.mark.slow
def test_few_labels_of_an_item_say_more_where_levels_have_an_order():
    truth = of_levels(np.linspace(-2, 2, 60))
    labels = drawn_classes(truth, 8)
    ordinal, multiclass = (
        np.sum(truth * (np.log(truth) - np.log(np.maximum(learned_shares(kind, labels), 1e-3)))) for kind in CLASSES
    )
    assert ordinal < 0.5 * multiclass


@pytest.mark.slow
def test_classes_without_an_order_are_found_by_the_multiclass_loss_alone():
    labels = drawn_classes(SHARES, ROWS)
    np.testing.assert_allclose(learned_shares("multiclass", labels), SHARES, atol=0.03)
    assert np.abs(learned_shares("ordinal", labels) - SHARES).max() > 0.15


@pytest.mark.slow
def test_the_mean_level_is_not_what_a_loss_of_logarithms_finds():
    truth = of_levels(SCORES)
    labels, mean = drawn_classes(truth, ROWS), truth @ np.array(LEVELS)
    np.testing.assert_allclose(learned_shares("ordinal", labels) @ np.array(LEVELS), mean, rtol=0.02)
    assert np.all(learned("log_regression", labels) < 0.98 * mean)


def test_the_ordinal_loss_is_the_negative_logarithm_of_the_probability_of_the_level():
    rng = np.random.default_rng(2)
    scores = rng.normal(0, 3, 50)
    shares, y = of_levels(scores), rng.choice(LEVELS, 50)
    expected = -np.log(shares[np.arange(50), np.searchsorted(LEVELS, y)])
    logits = (scores[:, None] - THRESHOLDS).astype("float32")
    label = Label("stars", kind="ordinal", classes=LEVELS)
    got = new_loss(label).call(y[:, None].astype("float32"), logits)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    found = predicted(label, keras.ops.convert_to_tensor(logits), {})
    np.testing.assert_allclose(np.stack([found[f"stars_{c}"] for c in LEVELS], axis=1), shares, rtol=1e-3)


@pytest.mark.parametrize("far", [-60.0, 60.0])
def test_a_far_logit_has_a_finite_loss_and_gradient(far):
    label = Label("stars", kind="ordinal", classes=LEVELS)
    z = tf.Variable(np.array([[far + 1, far, far - 1]], "float32"))
    for level in LEVELS:
        with tf.GradientTape() as tape:
            value = new_loss(label).call(tf.constant([[float(level)]]), z)
        assert np.isfinite(value.numpy()).all() and np.isfinite(tape.gradient(value, z).numpy()).all()


def test_thresholds_rise_and_start_with_levels_that_are_equally_likely():
    label = Label("stars", kind="ordinal", classes=(0, 1, 2, 3, 4))
    layer = TaskLogits(tasks=("click", "stars"), levels={"stars": 5})
    found = layer({"click": tf.ones(2), "stars": tf.zeros(2)})
    assert list(found) == ["click", "stars"] and found["click"].shape == (2,)
    shares = predicted(label, found["stars"], {})
    np.testing.assert_allclose([shares[name][0] for name in label.outputs[1:]], 0.2, rtol=1e-5)
    layer.thresholds["stars"].assign([3.0, -9.0, -9.0, 5.0])
    assert np.all(np.diff(layer.rising("stars")) > 0)
    assert layer.parts()[0].parameters == layer.count_params() == 4


@pytest.mark.slow
def test_ranks_among_equal_durations_find_the_interest_that_watch_times_hide():
    # Items of one minute and of ten; what a user likes is watched to a larger part, whatever its length.
    interest, length = np.tile(np.linspace(0.2, 0.8, 6), 2), np.repeat([60.0, 600.0], 6)
    rng = np.random.default_rng(7)
    watched = length[:, None] * rng.beta(4 * interest, 4 * (1 - interest), (ROWS, 12)).T
    steps = np.linspace(0, 1, 51)
    tables = np.stack([np.quantile(watched[length == each], steps) for each in length])
    ranks = np.stack([np.interp(y, table, steps) for y, table in zip(watched, tables, strict=True)])
    label = Label("seen_s", kind="watch_quantile", duration="length_s")
    z, loss = tf.Variable(np.zeros(12, "float32")), new_loss(label)
    optimizer = keras.optimizers.Adam(0.05)
    optimizer.build([z])
    for _ in range(200):
        with tf.GradientTape() as tape:
            value = loss(ranks.reshape(-1, 1).astype("float32"), tf.repeat(z, ROWS)[:, None])
        optimizer.apply([tape.gradient(value, z)], [z])
    found = predicted(label, z, {"seen_s_quantiles": tf.constant(tables, tf.float32)})
    # One order for both lengths, and the mean rank of each item.
    np.testing.assert_allclose(found["seen_s_rank"], ranks.mean(axis=1), atol=0.01)
    assert spearmanr(found["seen_s_rank"], interest).statistic > 0.98
    np.testing.assert_allclose(
        found["seen_s"],
        [np.interp(p, steps, t) for p, t in zip(found["seen_s_rank"].numpy(), tables, strict=True)],
        rtol=1e-3,
    )
    times = learned("watch_time", (watched / 60).astype("float32"))
    assert spearmanr(times, interest).statistic < 0.7 and spearmanr(times, length).statistic > 0.8


def test_a_rank_is_read_from_the_table_of_its_row_or_of_its_request():
    tables = tf.constant([[0.0, 0.0, 4.0, 10.0], [1.0, 2.0, 3.0, 4.0]])
    ranks = tf.constant([0.5, 1.0])
    np.testing.assert_allclose(at_rank(ranks, tables), [2.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(at_rank(ranks, tables[:1]), [2.0, 10.0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "q"), [("watch_time", 0.5), ("watch_time", 0.8), ("log_regression", 0.3)])
def test_the_quantile_loss_of_times_finds_their_quantile(kind, q):
    labels, _ = draw("watch_time")
    labels = labels + np.float32(0.2)
    loss = losses.load("quantile", {"q": q}, kind)
    # The loss is least where the prediction is the quantile: looked at around it.
    for item in labels:
        truth = np.quantile(item, q)
        link = TASK_KINDS[kind].link
        grid = np.linspace(0.3, 3, 200) * truth
        z = np.log(grid) if kind == "watch_time" else np.log1p(grid)
        np.testing.assert_allclose(link(keras.ops.convert_to_tensor(z)), grid, rtol=1e-4)
        values = [loss(item[:, None], np.full((ROWS, 1), each, "float32")) for each in z.astype("float32")]
        assert grid[np.argmin(values)] == pytest.approx(truth, rel=0.05)
