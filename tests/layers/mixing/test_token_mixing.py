"""Block transpose, RankMixer's mixing and HeMix's low-rank mixing."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank.layers.mixing.token_mixing import HeteroMixing, TokenMixing, block_transpose, inverse_block_transpose

RNG = np.random.default_rng(1)


def test_block_transpose_of_the_worked_example():
    x = np.array([[[1, 2, 3, 4], [5, 6, 7, 8]]], "float32")
    np.testing.assert_array_equal(block_transpose(x, 2), [[[1, 2, 5, 6], [3, 4, 7, 8]]])


@settings(max_examples=20)
@given(batch=st.integers(1, 3), tokens=st.integers(1, 5), heads=st.integers(1, 4), piece=st.integers(1, 3))
def test_inverse_block_transpose_undoes_it(batch, tokens, heads, piece):
    x = RNG.normal(size=(batch, tokens, heads * piece)).astype("float32")
    for leading in (False, True):
        mixed = block_transpose(x, heads, token_leading=leading)
        np.testing.assert_array_equal(inverse_block_transpose(mixed, tokens, token_leading=leading), x)


def test_a_mixed_token_joins_the_same_piece_of_every_token():
    x = RNG.normal(size=(2, 3, 8)).astype("float32")
    mixed = np.array(block_transpose(x, 4))
    for h in range(4):
        np.testing.assert_array_equal(mixed[:, h], np.concatenate([x[:, i, 2 * h : 2 * h + 2] for i in range(3)], 1))
    np.testing.assert_array_equal(np.array(block_transpose(x, 4, token_leading=True)).transpose(1, 0, 2), mixed)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="`heads` must divide the token width 8, received 3"):
        block_transpose(np.zeros((2, 3, 8), "float32"), 3)


def test_token_mixing_is_an_involution_without_parameters(check_layer):
    x = RNG.normal(size=(2, 3, 6)).astype("float32")
    layer = check_layer(TokenMixing, {}, x, parameters=0)
    np.testing.assert_array_equal(np.array(layer(layer(x))), x)
    np.testing.assert_array_equal(np.sort(np.array(layer(x)).ravel()), np.sort(x.ravel()))


def test_token_mixing_names_the_nearest_widths():
    with pytest.raises(ValueError, match="divisible by the number of tokens 60, received 256.*240 and 300"):
        TokenMixing()(np.zeros((2, 60, 256), "float32"))


def test_hetero_mixing_is_a_low_rank_product_per_mixed_token(check_layer):
    x = RNG.normal(size=(2, 3, 8)).astype("float32")
    layer = check_layer(HeteroMixing, {"heads": 4, "rank": 5}, x, parameters=2 * 3 * 8 * 5 + 4 * 5 + 3 * 8)
    left, left_bias, right, right_bias = (np.array(w) for w in layer.get_weights())
    expected = np.zeros_like(x)
    for h in range(4):
        g = np.concatenate([x[:, i, 2 * h : 2 * h + 2] for i in range(3)], axis=1)
        g = np.maximum(g @ left[h] + left_bias[h], 0) @ right[h] + right_bias[h]
        for i in range(3):
            expected[:, i, 2 * h : 2 * h + 2] = g[:, 2 * i : 2 * i + 2]
    np.testing.assert_allclose(layer(x), expected, atol=1e-4)


def test_the_jacobian_of_one_mixed_token_has_the_given_rank(randomize):
    x = tf.constant(RNG.normal(size=(1, 5, 8)).astype("float32"))
    layer = HeteroMixing(heads=2, rank=3)
    layer(x)
    randomize(layer)
    # With positive pre-activations the ReLU hides no direction.
    layer.left.bias.assign(layer.left.bias * 0 + 100.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        mixed = block_transpose(layer(x), 2)[0, 1]
    jacobian = np.array(tape.jacobian(mixed, x))[:, 0]
    # (outputs, tokens, dim) -> (outputs, inputs of mixed token 1), and those of mixed token 0
    own, other = jacobian[:, :, 4:].reshape(20, 20), jacobian[:, :, :4].reshape(20, 20)
    assert np.linalg.matrix_rank(own, tol=1e-4) == 3
    assert not np.any(other)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_the_number_of_heads_does_not_change_the_parameters(heads):
    plain = HeteroMixing(heads=heads, rank=2, use_bias=False)
    plain.build((None, 3, 8))
    assert plain.count_params() == 2 * 3 * 8 * 2
    biased = HeteroMixing(heads=heads, rank=2)
    biased.build((None, 3, 8))
    assert biased.count_params() == 2 * 3 * 8 * 2 + heads * 2 + 3 * 8


@pytest.mark.parametrize("rank", [12, 13])
def test_the_rank_is_checked_against_the_mixed_token(rank):
    with pytest.raises(ValueError, match=rf"tokens \* dim / heads = 12, received {rank}"):
        HeteroMixing(heads=2, rank=rank).build((None, 3, 8))
    HeteroMixing(heads=2, rank=11).build((None, 3, 8))
