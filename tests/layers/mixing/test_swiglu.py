"""Gated feed-forward layers, shared and per token."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.mixing import PerTokenSwiGLU, SwiGLU

X = np.random.default_rng(2).normal(size=(2, 3, 4)).astype("float32")


def _swiglu(x, up, gate, down):
    g = x @ gate
    return (x @ up * g / (1 + np.exp(-g))) @ down


def test_a_shared_swiglu_has_three_matrices_without_biases(check_layer):
    layer = check_layer(SwiGLU, {"units": 5}, X, parameters=3 * 4 * 5)
    np.testing.assert_allclose(layer(X), _swiglu(X, *layer.get_weights()), atol=1e-4)


def test_every_token_has_a_swiglu_of_its_own(check_layer):
    layer = check_layer(PerTokenSwiGLU, {"units": 5}, X, parameters=3 * 3 * 4 * 5)
    up, gate, down = layer.get_weights()
    for i in range(3):
        np.testing.assert_allclose(layer(X)[:, i], _swiglu(X[:, i], up[i], gate[i], down[i]), atol=1e-4)


def test_tokens_do_not_start_equal():
    layer = PerTokenSwiGLU(units=5)
    layer.build((None, 3, 4))
    firsts = [token.ravel()[0] for kernel in layer.get_weights() for token in kernel]
    assert len(set(firsts)) == 9


@pytest.mark.parametrize("kind", [SwiGLU, PerTokenSwiGLU])
def test_no_hidden_width_is_refused(kind):
    with pytest.raises(ValueError, match="`units` must be at least 1, received 0"):
        kind(units=0)
