"""A step in micro-batches ends with the weights of the whole batch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training import Optimizer, build_strategy
from mixrank.components.training.micro_batches import MicroBatched
from mixrank.components.training.optimizers import build_optimizer

SGD = Optimizer(name="sgd", learning_rate=0.1)
ADAM = Optimizer(learning_rate=0.01, schedule="cosine", warmup=0.5)
ROWS, BATCH, STEPS = 48, 12, 4


def rows():
    rng = np.random.default_rng(3)
    inputs = {"clip": rng.integers(0, 7, (ROWS, 2)), "price": rng.normal(size=(ROWS, 3)).astype(np.float32)}
    labels = {task: rng.integers(0, 2, (ROWS, 1)).astype(np.float32) for task in ("click", "buy")}
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(BATCH, drop_remainder=True)


def ranker():
    keras.utils.set_random_seed(5)
    inputs = {"clip": keras.Input((2,), dtype="int64", name="clip"), "price": keras.Input((3,), name="price")}
    vectors = keras.layers.Flatten()(keras.layers.Embedding(7, 4, name="embedding_clip")(inputs["clip"]))
    hidden = keras.layers.Dense(5, activation="tanh")(keras.layers.Concatenate()([vectors, inputs["price"]]))
    return keras.Model(inputs, {task: keras.layers.Dense(1, name=task)(hidden) for task in ("click", "buy")})


def trained(optimizer, embedding=None, *, parts, replicas=1, jit=False, steps=STEPS):
    strategy = build_strategy(replicas)
    with strategy.scope():
        model = ranker()
        built = build_optimizer(optimizer, embedding, steps=STEPS)
        built.build(model.trainable_variables)
        net = MicroBatched(model, parts)
        losses = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in ("click", "buy")}
        net.compile(built, loss=losses, loss_weights={"click": 1.0, "buy": 0.5}, jit_compile=jit)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    history = net.fit(rows().with_options(options), epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0)
    return net, history.history["loss"][0]


def same_weights(a, b, atol):
    before = ranker().get_weights()
    assert max(np.abs(new - old).max() for new, old in zip(b.get_weights(), before, strict=True)) > 0.005
    for mine, theirs in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol, rtol=0)


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("replicas", [1, 2])
def test_parts_of_a_batch_move_the_weights_as_the_whole_batch_does(parts, replicas):
    whole, loss_of_whole = trained(SGD, parts=1)
    split, loss_of_split = trained(SGD, parts=parts, replicas=replicas)
    same_weights(split, whole, atol=1e-6)
    assert loss_of_split == pytest.approx(loss_of_whole, abs=1e-6)


@pytest.mark.parametrize("embedding", [None, Optimizer(name="adagrad", learning_rate=0.1)])
def test_adam_and_a_partitioned_optimizer_count_updates_not_parts(embedding):
    whole, _ = trained(ADAM, embedding, parts=1)
    split, _ = trained(ADAM, embedding, parts=3)
    # Adam divides a gradient by its own size, so the last bits of tiny gradients are seen in the weights.
    same_weights(split, whole, atol=1e-5)
    assert int(split.optimizer.iterations.numpy()) == STEPS
    part = split.optimizer.dense if embedding else split.optimizer
    assert float(part.learning_rate.numpy()) == pytest.approx(0.0, abs=1e-7)


def test_parts_are_compiled_with_xla_as_well():
    same_weights(trained(SGD, parts=2, jit=True)[0], trained(SGD, parts=1)[0], atol=1e-6)


def test_a_step_is_that_of_keras_where_there_is_one_part():
    mine, loss = trained(ADAM, parts=1)
    model = ranker()
    built = build_optimizer(ADAM, steps=STEPS)
    losses = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in ("click", "buy")}
    model.compile(built, loss=losses, loss_weights={"click": 1.0, "buy": 0.5}, jit_compile=False)
    history = model.fit(rows(), epochs=1, shuffle=False, verbose=0)
    same_weights(mine, model, atol=1e-7)
    assert loss == pytest.approx(history.history["loss"][0], abs=1e-6)


def test_a_gradient_of_a_table_stays_sparse():
    net = MicroBatched(ranker(), 3)
    seen = []

    class Watching(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            seen.extend(zip(grads, trainable_variables, strict=True))
            super().apply(grads, trainable_variables)

    net.compile(Watching(0.1), loss={"click": "mse", "buy": "mse"}, jit_compile=False)
    net.train_step(next(iter(rows())))
    tables = [gradient for gradient, variable in seen if "embedding_" in variable.path]
    assert [isinstance(gradient, tf.IndexedSlices) for gradient in tables] == [True]
    assert tables[0].indices.shape[0] == 2 * BATCH


def test_two_trainings_with_other_shapes_follow_each_other_on_the_same_devices():
    for width in (3, 5):
        strategy = build_strategy(2)

        @tf.function
        def total(strategy=strategy, width=width):
            return strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.ones(width)))

        for found in strategy.experimental_local_results(total()):
            np.testing.assert_array_equal(found, 2 * np.ones(width))
