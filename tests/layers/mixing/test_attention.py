"""Masked softmax and self-attention."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mixrank.layers.mixing import SelfAttention, masked_softmax, matmul_of_rows, merge_heads, split_heads

RNG = np.random.default_rng(2)
DYNAMIC = RNG.normal(size=(2, 3, 4)).astype("float32")
ITEMS = RNG.normal(size=(2, 5, 4)).astype("float32")
MASK = np.array([[True, True, True, False, False], [True, True, True, True, True]])
EMPTY = np.zeros((2, 5), bool)


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_a_history_of_one_event_gets_all_the_weight_or_none():
    weights = masked_softmax(np.array([[3.0], [4.0]]), np.array([[True], [False]]))
    np.testing.assert_array_equal(weights, [[1.0], [0.0]])


def test_masked_softmax_is_a_softmax_over_the_valid_positions():
    scores = RNG.normal(size=(2, 5)).astype("float32")
    weights = np.array(masked_softmax(scores, MASK))
    np.testing.assert_allclose(weights[0, :3], _softmax(scores[0, :3]), rtol=1e-5)
    np.testing.assert_array_equal(weights[0, 3:], 0)
    np.testing.assert_allclose(weights[1], _softmax(scores[1]), rtol=1e-5)


def test_masked_softmax_of_an_empty_row_is_zero():
    np.testing.assert_array_equal(masked_softmax(np.full((1, 3), 1e30, "float32"), np.zeros((1, 3), bool)), [[0] * 3])


def test_masked_softmax_is_float32_and_survives_large_scores():
    scores = keras.ops.cast(np.array([[1e4, -1e4, 0.0]]), "float16")
    weights = masked_softmax(scores, np.ones((1, 3), bool))
    assert weights.dtype == "float32"
    np.testing.assert_allclose(weights, [[1, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_are_multiplied_by_their_own_matrix_or_by_a_shared_one(rows):
    x, y = RNG.normal(size=(3, 2, 5, 4)), RNG.normal(size=(rows, 2, 4, 6))
    expected = np.einsum("bhqn,bhnm->bhqm", x, np.broadcast_to(y, (3, 2, 4, 6)))
    np.testing.assert_allclose(matmul_of_rows(x.astype("float32"), y.astype("float32")), expected, atol=1e-5)


def test_heads_are_merged_as_they_were_split():
    np.testing.assert_array_equal(merge_heads(split_heads(keras.ops.array(ITEMS), 2)), ITEMS)


def test_self_attention_follows_the_equations(check_layer):
    layer = check_layer(SelfAttention, {"heads": 2}, ITEMS, parameters=4 * 16)
    wq, wk, wv, wo = (np.array(w) for w in layer.get_weights())
    for b in range(2):
        found = np.zeros((5, 4))
        for i in range(5):
            for part in np.split(np.arange(4), 2):
                scores = (ITEMS[b] @ wk)[:, part] @ (ITEMS[b, i] @ wq)[part] / np.sqrt(2)
                found[i, part] = _softmax(scores) @ (ITEMS[b] @ wv)[:, part]
        np.testing.assert_allclose(np.array(layer(ITEMS))[b], found @ wo, atol=1e-4)
