"""What each kind of task learns: the loss that fits finds what a log was drawn from, another does not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers.task_kinds import TASK_KINDS
from mixrank.schemas.task_kinds import LABEL_KINDS, NUMBERS

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
    z, loss = tf.Variable(np.zeros(ITEMS, "float32")), TASK_KINDS[kind].loss()
    optimizer = keras.optimizers.Adam(0.05)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss(tf.reshape(labels, (-1, 1)), tf.repeat(z, ROWS))
        optimizer.apply([tape.gradient(value, z)], [z])

    optimizer.build([z])
    for _ in range(300):
        step()
    return TASK_KINDS[kind].link(keras.ops.convert_to_tensor(z)).numpy()


@pytest.mark.parametrize("kind", LABEL_KINDS)
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
