"""Chains of dense layers."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.mixing import MLP

X = np.random.default_rng(3).normal(size=(2, 3, 4)).astype("float32")


def test_the_activation_follows_every_layer(check_layer):
    layer = check_layer(MLP, {"units": (7, 5), "activation": "tanh"}, X, parameters=4 * 7 + 7 + 7 * 5 + 5)
    w1, b1, w2, b2 = layer.get_weights()
    np.testing.assert_allclose(layer(X), np.tanh(np.tanh(X @ w1 + b1) @ w2 + b2), atol=1e-5)


def test_no_layers_are_the_identity(check_layer):
    layer = check_layer(MLP, {"units": ()}, X, parameters=0)
    np.testing.assert_array_equal(layer(X), X)


def test_dropout_acts_in_training_only():
    layer = MLP(units=(50,), dropout=0.5)
    plain = np.array(layer(X))
    np.testing.assert_array_equal(layer(X), plain)
    trained = np.array(layer(X, training=True))
    alive = plain > 0
    assert 0.2 < (trained[alive] == 0).mean() < 0.8
    kept = alive & (trained > 0)
    np.testing.assert_allclose(trained[kept], 2 * plain[kept], rtol=1e-5)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match=r"`units` must all be at least 1, received \(5, 0\)"):
        MLP(units=(5, 0))
    with pytest.raises(ValueError, match="`dropout` must be below 1, received 1.0"):
        MLP(units=(5,), dropout=1.0)
