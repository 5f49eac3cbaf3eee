"""Row optimizers against dense references in NumPy, on gradients whose rows repeat."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training.optimizing.row_optimizer import RULES, Gradient, build_row_optimizer, summed_by_row

SIZE, DIM, STEPS, RATE = 9, 3, 5, 0.1


def table():
    rng = np.random.default_rng(1)
    return rng.normal(size=(SIZE, DIM)).astype("float32")


def gradients():
    """Row numbers with repetitions, and their gradients, of every step; row 8 is never read."""
    rng = np.random.default_rng(2)
    return [(rng.integers(0, SIZE - 1, 12), rng.normal(size=(12, DIM)).astype("float32")) for _ in range(STEPS)]


def dense(rows, values):
    """The gradient of the whole table: the sum of those of every row, and which rows were read."""
    total = np.zeros((SIZE, DIM))
    np.add.at(total, rows, values.astype(np.float64))
    return total, np.isin(np.arange(SIZE), rows)[:, None]


def optimized(name, steps=None, **options):
    variable = keras.Variable(table(), name="embeddings")
    optimizer = build_row_optimizer(name, RATE, options)
    optimizer.build([variable])
    for step, (rows, values) in enumerate(gradients() if steps is None else steps):
        optimizer.apply([Gradient(tf.constant(rows, tf.int64), tf.constant(values))], tf.constant(step))
    return np.array(variable), optimizer


def test_rowwise_adagrad_keeps_one_number_per_row():
    w, a = table().astype(np.float64), np.zeros((SIZE, 1))
    for rows, values in gradients():
        g, _ = dense(rows, values)
        a += (g**2).mean(axis=1, keepdims=True)
        w -= RATE * g / np.sqrt(a + 1e-8)
    found, optimizer = optimized("rowwise_adagrad")
    np.testing.assert_allclose(found, w, atol=1e-6)
    (slot,) = optimizer.variables
    assert tuple(slot.shape) == (SIZE, 1)
    np.testing.assert_allclose(np.array(slot), a, rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_the_rate_of_a_table_is_that_of_its_rows(name):
    """Tables a, b and c begin at rows 0, 4 and 7 of one variable; every rule is linear in its rate."""
    whole = optimized(name)[0] - table()
    variable = keras.Variable(table(), name="embeddings")
    optimizer = build_row_optimizer(name, RATE, {}, {"b": 0.5, "c": 0.0, "of_another_width": 3.0})
    optimizer.build([variable], [{"a": 0, "c": 7, "b": 4}])
    for step, (rows, values) in enumerate(gradients()):
        optimizer.apply([Gradient(tf.constant(rows, tf.int64), tf.constant(values))], tf.constant(step))
    factors = np.array([1, 1, 1, 1, 0.5, 0.5, 0.5, 0, 0])[:, None]
    np.testing.assert_allclose(np.array(variable) - table(), factors * whole, atol=1e-6)


def test_adagrad_keeps_one_number_per_weight():
    w, a = table().astype(np.float64), np.zeros((SIZE, DIM))
    for rows, values in gradients():
        g, _ = dense(rows, values)
        a += g**2
        w -= RATE * g / np.sqrt(a + 0.01)
    np.testing.assert_allclose(optimized("adagrad", start=0.01)[0], w, atol=1e-6)


def test_lazy_adam_leaves_the_moments_of_other_rows_alone():
    w, m, v = table().astype(np.float64), np.zeros((SIZE, DIM)), np.zeros((SIZE, DIM))
    for t, (rows, values) in enumerate(gradients(), start=1):
        g, read = dense(rows, values)
        m = np.where(read, 0.8 * m + 0.2 * g, m)
        v = np.where(read, 0.99 * v + 0.01 * g**2, v)
        w -= np.where(read, RATE * np.sqrt(1 - 0.99**t) / (1 - 0.8**t) * m / (np.sqrt(v) + 1e-7), 0)
    np.testing.assert_allclose(optimized("lazy_adam", beta_1=0.8, beta_2=0.99)[0], w, atol=1e-6)


def test_lazy_adam_is_keras_adam_where_every_step_reads_every_row():
    steps = [(np.arange(SIZE), values) for values in np.random.default_rng(4).normal(size=(3, SIZE, DIM)).astype("f")]
    variable = keras.Variable(table())
    adam = keras.optimizers.Adam(RATE)
    for _, values in steps:
        adam.apply([tf.constant(values)], [variable])
    np.testing.assert_allclose(optimized("lazy_adam", steps)[0], np.array(variable), atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_a_row_that_is_never_read_never_changes(name):
    found, optimizer = optimized(name)
    np.testing.assert_array_equal(found[SIZE - 1], table()[SIZE - 1])
    for slot in optimizer.variables:
        np.testing.assert_array_equal(np.array(slot)[SIZE - 1], 0)


def test_equal_rows_are_summed_before_they_are_squared():
    one = optimized("adagrad", [(np.array([4]), np.full((1, DIM), 2.0, "f"))])[0]
    two = optimized("adagrad", [(np.array([4, 4]), np.full((2, DIM), 1.0, "f"))])[0]
    np.testing.assert_allclose(one, two, atol=1e-7)
    found = summed_by_row(Gradient(tf.constant([7, 2, 7], tf.int64), tf.constant([[1.0], [2.0], [4.0]])))
    assert dict(zip(found.rows.numpy().tolist(), found.values.numpy()[:, 0].tolist(), strict=True)) == {7: 5.0, 2: 2.0}


def test_limits_are_those_of_the_summed_gradients():
    rows, values = np.array([1, 1, 2]), np.array([[3.0, 0, 0], [3.0, 0, 0], [0, 8.0, 0]], "f")
    start = 1e-8
    by_value = optimized("adagrad", [(rows, values)], clipvalue=0.5, start=1.0)[0] - table()
    assert by_value[1, 0] == pytest.approx(-RATE * 0.5 / np.sqrt(1.25), abs=1e-6)
    # The norm of the sums (6, 8) is 10, so a limit of 5 halves them.
    _, optimizer = optimized("rowwise_adagrad", [(rows, values)], global_clipnorm=5.0, start=start)
    np.testing.assert_allclose(np.array(optimizer.variables[0])[1:3, 0], [3.0, 16 / 3], rtol=1e-5)


def test_the_rate_may_follow_a_schedule():
    seen = []

    def rate(step):
        seen.append(int(step))
        return tf.constant(0.0)

    optimizer = build_row_optimizer("rowwise_adagrad", rate, {})
    variable = keras.Variable(table())
    optimizer.build([variable])
    for step in (0, 1):
        optimizer.apply([Gradient(tf.constant([1], tf.int64), tf.ones((1, DIM)))], tf.constant(step))
    assert seen == [0, 1]
    np.testing.assert_array_equal(np.array(variable), table())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rowwise_adagrad", {"strat": 1.0}, "no option `strat`; did you mean `start`"),
        ("rowwise_adagrad", {"weight_decay": 0.1}, "no option `weight_decay`; expected one of `clipvalue`"),
        ("lazy_adam", {"use_ema": True}, "no option `use_ema`"),
        ("adagrad", {"start": 0}, "`start` must be a number > 0, received 0"),
        ("lazy_adam", {"beta_1": 1.0}, r"`beta_1` must be in \[0, 1\), received 1.0"),
        ("adagrad", {"clipvalue": "1"}, "`clipvalue` must be a number > 0, received '1'"),
    ],
)
def test_an_option_is_honoured_or_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_row_optimizer(name, 0.1, options)
