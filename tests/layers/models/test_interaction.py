"""Dot products of pairs: which, in which order."""

from __future__ import annotations

import keras
import numpy as np

from mixrank.layers.models.dlrm import DotInteraction

V = np.random.default_rng(2).normal(size=(2, 4, 3)).astype("float32")


def test_every_pair_is_multiplied_once_row_by_row(check_layer):
    layer = check_layer(DotInteraction, {}, V, parameters=0)
    expected = [[float(v[i] @ v[j]) for i in range(4) for j in range(i)] for v in V.astype("float64")]
    np.testing.assert_allclose(layer(V), expected, atol=1e-5)


def test_one_vector_has_no_pairs():
    assert DotInteraction()(V[:, :1]).shape == (2, 0)


def test_the_gradient_of_a_vector_is_the_sum_of_its_partners(gradients):
    tokens = keras.Variable(V)
    layer = DotInteraction()
    # The loss weighs pair k with the harness's k-th number.
    weights = np.random.default_rng(5).normal(size=(2, 6))
    (found,) = gradients(lambda: layer(tokens), [tokens])
    expected = np.zeros_like(V)
    for k, (i, j) in enumerate([(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]):
        expected[:, i] += weights[:, k, None] * V[:, j]
        expected[:, j] += weights[:, k, None] * V[:, i]
    np.testing.assert_allclose(found, expected, atol=1e-5)
