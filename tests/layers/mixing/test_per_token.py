"""PerTokenDense, the feed-forward layers and the post-norm block."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.mixing import HeteroMixing, PerTokenDense, PerTokenFFN, PostNormBlock, SharedFFN

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4)).astype("float32")


def test_per_token_dense_is_a_product_per_token(check_layer):
    layer = check_layer(PerTokenDense, {"units": 5}, X, parameters=3 * (4 * 5 + 5))
    kernel, bias = (np.array(w) for w in layer.get_weights())
    expected = np.stack([X[:, t] @ kernel[t] + bias[t, 0] for t in range(3)], axis=1)
    np.testing.assert_allclose(layer(X), expected, atol=1e-5)


def test_token_leading_is_the_same_layer_with_the_axes_swapped(randomize):
    plain = PerTokenDense(5, activation="relu")
    leading = PerTokenDense(5, activation="relu", token_leading=True)
    plain(X)
    randomize(plain)
    leading(X.transpose(1, 0, 2))
    leading.set_weights(plain.get_weights())
    np.testing.assert_allclose(
        np.array(leading(X.transpose(1, 0, 2))).transpose(1, 0, 2), np.array(plain(X)), atol=1e-6
    )


def test_a_token_sees_only_itself():
    layer = PerTokenDense(5, use_bias=False)
    before = np.array(layer(X))
    changed = X.copy()
    changed[:, 1] += 1
    after = np.array(layer(changed))
    np.testing.assert_array_equal(after[:, [0, 2]], before[:, [0, 2]])
    assert np.abs(after[:, 1] - before[:, 1]).min() > 0


@pytest.mark.parametrize("shape", [(2, None, 4), (2, 3, None)])
def test_unknown_sizes_are_refused(shape):
    with pytest.raises(ValueError, match="layer `dense` needs a static number of tokens and inputs"):
        PerTokenDense(5, name="dense").build(shape)


def test_no_units_are_refused():
    with pytest.raises(ValueError, match="`units` must be at least 1, received 0"):
        PerTokenDense(0)


def test_per_token_ffn_is_two_products_per_token(check_layer):
    layer = check_layer(PerTokenFFN, {"expansion": 2}, X, parameters=3 * (2 * 4 * 8 + 8 + 4))
    w1, b1, w2, b2 = (np.array(w) for w in layer.get_weights())
    expected = [np.maximum(X[:, t] @ w1[t] + b1[t], 0) @ w2[t] + b2[t] for t in range(3)]
    np.testing.assert_allclose(layer(X), np.stack(expected, axis=1), atol=1e-4)


def test_shared_ffn_has_one_pair_of_kernels(check_layer):
    layer = check_layer(SharedFFN, {"expansion": 3, "activation": "relu"}, X, parameters=2 * 4 * 12 + 12 + 4)
    w1, b1, w2, b2 = (np.array(w) for w in layer.get_weights())
    np.testing.assert_allclose(layer(X), np.maximum(X @ w1 + b1, 0) @ w2 + b2, atol=1e-4)


def test_no_expansion_is_refused():
    with pytest.raises(ValueError, match="`expansion` must be at least 1, received 0"):
        PerTokenFFN(expansion=0)


def _norm(x, gain, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * gain + bias


def test_post_norm_block_normalises_after_the_residual(check_layer):
    def make(**options):
        return PostNormBlock(mixing=HeteroMixing(heads=2, rank=2), ffn=SharedFFN(expansion=2), **options)

    mixing = 2 * 2 * 6 * 2 + 2 * 2 + 2 * 6
    layer = check_layer(make, {}, X, parameters=mixing + 2 * 4 * 8 + 8 + 4 + 4 * 4)
    gain1, bias1 = (np.array(w) for w in layer.mixing_norm.get_weights())
    gain2, bias2 = (np.array(w) for w in layer.ffn_norm.get_weights())
    z = _norm(np.array(layer.mixing(X)) + X, gain1, bias1)
    expected = _norm(np.array(layer.ffn(z)) + z, gain2, bias2)
    np.testing.assert_allclose(layer(X), expected, atol=1e-4)


def test_dropout_acts_in_training_only():
    layer = PostNormBlock(mixing=HeteroMixing(heads=2, rank=2), ffn=SharedFFN(), dropout=0.5)
    once, again = np.array(layer(X)), np.array(layer(X))
    np.testing.assert_array_equal(once, again)
    assert np.abs(np.array(layer(X, training=True)) - once).max() > 0.01
