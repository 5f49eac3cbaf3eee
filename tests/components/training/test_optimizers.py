"""One optimizer for embedding tables, another for the rest."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mixrank.components.training import Optimizer
from mixrank.components.training.optimizers import build_optimizer


def model():
    keras.utils.set_random_seed(1)
    ids = keras.Input((3,), dtype="int64")
    x = keras.layers.Embedding(5, 2, name="embedding_clip")(ids)
    return keras.Model(ids, keras.layers.Dense(1, name="head")(keras.layers.Flatten()(x)))


def fitted(optimizer, steps=4):
    net = model()
    net.compile(optimizer, loss="mse", jit_compile=False)
    ids = np.array([[0, 1, 2], [2, 3, 4]])
    net.fit(ids, np.array([[1.0], [-1.0]]), epochs=steps, verbose=0, shuffle=False)
    return net


def test_each_part_moves_as_it_would_alone():
    """With a rate of nearly zero for one part, the other part moves as under its optimizer alone."""
    still = Optimizer(name="sgd", learning_rate=1e-12)
    both = fitted(build_optimizer(still, Optimizer(name="adagrad", learning_rate=0.1)))
    alone = model()
    alone.get_layer("head").trainable = False
    alone.compile(keras.optimizers.Adagrad(0.1), loss="mse", jit_compile=False)
    alone.fit(np.array([[0, 1, 2], [2, 3, 4]]), np.array([[1.0], [-1.0]]), epochs=4, verbose=0, shuffle=False)
    for mine, theirs in zip(both.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_steps_are_counted_once():
    net = fitted(build_optimizer(Optimizer(), Optimizer(name="adagrad", learning_rate=0.1)))
    assert int(net.optimizer.iterations) == 4


def test_state_survives_saving(tmp_path):
    optimizer = build_optimizer(Optimizer(learning_rate=0.1), Optimizer(name="adagrad", learning_rate=0.1))
    net = fitted(optimizer)
    net.save_weights(tmp_path / "a.weights.h5")
    again = model()
    fresh = build_optimizer(Optimizer(learning_rate=0.1), Optimizer(name="adagrad", learning_rate=0.1))
    fresh.build(again.trainable_variables)
    again.compile(fresh, loss="mse", jit_compile=False)
    again.load_weights(tmp_path / "a.weights.h5")
    for part in ("dense", "embedding"):
        before, after = getattr(optimizer, part).variables, getattr(fresh, part).variables
        assert len(before) == len(after) > 2
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(np.array(a), np.array(b))


def test_a_refused_option_is_named():
    with pytest.raises(ValueError, match="optimizer `adam` refuses its options {'momentun': 0.9}"):
        build_optimizer(Optimizer(options={"momentun": 0.9}))
    with pytest.raises(ValueError, match="there is no optimizer `adan`; did you mean `adam`"):
        Optimizer(name="adan")


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"schedule": "cosine"}, {0: 0.2, 4: 0.1, 8: 0.0}),
        ({"schedule": "cosine", "warmup": 0.5}, {0: 0.0, 2: 0.1, 4: 0.2, 6: 0.1, 8: 0.0}),
        ({"warmup": 0.25}, {0: 0.0, 1: 0.1, 2: 0.2, 8: 0.2}),
        ({}, {0: 0.2, 8: 0.2}),
    ],
)
def test_the_rate_follows_its_schedule(settings, rates):
    optimizer = build_optimizer(Optimizer(learning_rate=0.2, **settings), steps=8)
    for step, rate in rates.items():
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate, abs=1e-6)
