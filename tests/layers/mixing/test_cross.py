"""Full-rank, low-rank and mixture-of-experts cross layers against their equations."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.mixing import Cross, CrossMixture

X0, X = np.random.default_rng(2).normal(size=(2, 3, 5)).astype("float32")


def test_a_cross_multiplies_the_input_with_a_map_of_the_last_layer(check_layer):
    layer = check_layer(Cross, {}, X0, X, parameters=5 * 5 + 5)
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(layer(X0, X), X0 * (X @ kernel + bias) + X, atol=1e-5)


def test_a_low_rank_cross_is_a_cross_with_a_matrix_of_that_rank(check_layer):
    layer = check_layer(Cross, {"rank": 2}, X0, X, parameters=5 * 2 + 2 * 5 + 5)
    down, up, bias = layer.get_weights()
    assert np.linalg.matrix_rank(down @ up) == 2
    full = Cross(dtype="float32")
    full(X0, X)
    full.set_weights([down @ up, bias])
    np.testing.assert_allclose(layer(X0, X), full(X0, X), atol=1e-5)


def test_two_layers_cross_three_features():
    # With W = 1 and b = 0 the layers turn x into x + x^2, then into x + 2 x^2 + x^3.
    layers = [Cross(), Cross()]
    x0 = x = np.array([[2.0]], "float32")
    for layer in layers:
        layer.build(x0.shape, x.shape)
        layer.set_weights([np.ones((1, 1)), np.zeros(1)])
        x = layer(x0, x)
    np.testing.assert_array_equal(x, [[2 + 2 * 4 + 8]])


def test_a_mixture_weighs_its_experts_by_the_gates(check_layer):
    # Per expert 5 x 2, 2 x 2 and 2 x 5; a shared bias, and a gate vector for each expert.
    layer = check_layer(CrossMixture, {"rank": 2, "experts": 4}, X0, X, parameters=4 * (10 + 4 + 10) + 5 + 5 * 4)
    w = {v.path.removeprefix("layer/"): np.array(v, "float64") for v in layer.weights}
    expected = X.astype("float64")
    for b, (x0, x) in enumerate(zip(X0, X, strict=True)):
        gates = np.exp(x @ w["gate/kernel"])
        gates /= gates.sum()
        for i, gate in enumerate(gates):
            inner = np.tanh(np.tanh(x @ w["down/kernel"][i]) @ w["inner/kernel"][i])
            expected[b] += gate * x0 * (inner @ w["up/kernel"][i] + w["bias"])
    np.testing.assert_allclose(layer(X0, X), expected, atol=1e-5)


def test_experts_do_not_start_equal():
    layer = CrossMixture(rank=2, experts=3)
    layer.build(X0.shape, X.shape)
    for kernel in (layer.down.kernel, layer.inner.kernel, layer.up.kernel):
        assert len({float(x) for x in np.array(kernel)[:, 0, 0]}) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cross(rank=0), "`rank` must be at least 1 or None, received 0"),
        (lambda: CrossMixture(rank=2, experts=0), "`experts` must be at least 1, received 0"),
        (lambda: Cross()(X0, X[:, :4]), "`x0` and `x` must be equally wide, received 5 and 4"),
        (lambda: CrossMixture(rank=2, experts=3)(X0[:, :4], X), "must be equally wide, received 4 and 5"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
