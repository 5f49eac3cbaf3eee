"""Per-token initial values."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest

from mixrank.layers.base import PerToken, seeded


@pytest.mark.parametrize(("name", "variance"), [("glorot_uniform", 2 / (30 + 50)), ("he_normal", 2 / 30)])
def test_every_token_has_the_variance_of_its_own_matrix(name, variance):
    kernel = np.array(PerToken(name, seed=3)((40, 30, 50)))
    np.testing.assert_allclose(kernel.var(axis=(1, 2)), variance, rtol=0.2)
    np.testing.assert_allclose(kernel.var(), variance, rtol=0.02)


def test_tokens_differ():
    first, second = np.array(PerToken("glorot_uniform", seed=3)((2, 4, 5)))
    assert np.abs(first - second).max() > 0.01


def test_orthogonal_is_orthogonal_per_token():
    for matrix in np.array(PerToken("orthogonal", seed=1)((3, 4, 4))):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(4), atol=1e-5)


def test_a_seed_repeats_and_the_config_carries_it():
    initializer = PerToken("he_normal", seed=7)
    again = PerToken.from_config(initializer.get_config())
    np.testing.assert_array_equal(initializer((2, 3, 4)), again((2, 3, 4)))


def test_initializers_without_a_seed_work():
    np.testing.assert_array_equal(PerToken("ones")((2, 3, 4)), np.ones((2, 3, 4)))


def test_a_shape_without_tokens_is_refused():
    with pytest.raises(ValueError, match=r"`shape` of a stacked kernel must be \(tokens, ...\), received \(4,\)"):
        PerToken("glorot_uniform")((4,))


def test_seeded_repeats_what_is_drawn_inside_and_leaves_random_alone():
    random.seed(11)
    expected = random.random()
    random.seed(11)
    draws = []
    for seed in (1, 1, 2):
        with seeded(seed):
            draws.append(np.array(keras.initializers.GlorotUniform()((3, 4))))
    assert random.random() == expected
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2])
