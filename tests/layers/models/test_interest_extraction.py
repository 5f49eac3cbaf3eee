"""Interest extraction: which query finds what in a history."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.models.hemix import MixedQueryAttention

RNG = np.random.default_rng(2)
DYNAMIC = RNG.normal(size=(2, 3, 4)).astype("float32")
ITEMS = RNG.normal(size=(2, 5, 4)).astype("float32")
MASK = np.array([[True, True, True, False, False], [True, True, True, True, True]])
EMPTY = np.zeros((2, 5), bool)


def _norm(x, gain, bias):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * gain + bias


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize(("heads", "norm"), [(1, False), (2, False), (2, True)])
def test_extraction_follows_the_equations(check_layer, heads, norm):
    parameters = 5 * 16 + 3 * 16 + 2 * 4 + norm * 4 * 4
    options = {"num_fixed": 2, "heads": heads, "norm": norm}
    layer = check_layer(MixedQueryAttention, options, DYNAMIC, ITEMS, MASK, parameters=parameters)
    w = {v.path.removeprefix("layer/"): np.array(v) for v in layer.weights}
    kernels = np.concatenate([w["dynamic_query/kernel"], w["fixed_query/kernel"]])
    for b in range(2):
        queries, items = np.concatenate([DYNAMIC[b], w["fixed"][:, 0]]), ITEMS[b]
        if norm:
            queries, items = (
                _norm(x, w[f"{name}_norm/gamma"], w[f"{name}_norm/beta"])
                for x, name in ((queries, "query"), (items, "item"))
            )
        keys, values = items @ w["key/kernel"], ITEMS[b] @ w["value/kernel"]
        found = np.zeros((5, 4))
        for i in range(5):
            q = queries[i] @ kernels[i]
            for part in np.split(np.arange(4), heads):
                a = _softmax((keys[:, part] @ q[part] / np.sqrt(4 / heads))[MASK[b]])
                found[i, part] = a @ values[MASK[b]][:, part]
        np.testing.assert_allclose(np.array(layer(DYNAMIC, ITEMS, MASK))[b], found @ w["output/kernel"], atol=1e-4)


def test_a_query_changes_only_its_own_token():
    layer = MixedQueryAttention(num_fixed=2, heads=2)
    before = np.array(layer(DYNAMIC, ITEMS, MASK))
    changed = DYNAMIC.copy()
    # LayerNorm takes out what all channels share.
    changed[:, 1] += np.arange(4)
    difference = np.abs(np.array(layer(changed, ITEMS, MASK)) - before).max(axis=(0, 2))
    assert difference[1] > 1e-4
    np.testing.assert_array_equal(difference[[0, 2, 3, 4]], 0)


def test_fixed_queries_depend_on_the_history_alone():
    layer = MixedQueryAttention(num_fixed=2, heads=2)
    candidates = RNG.normal(size=(6, 3, 4)).astype("float32")
    same = np.repeat(ITEMS[:1], 6, axis=0), np.repeat(MASK[:1], 6, axis=0)
    tokens = np.array(layer(candidates, *same))[:, 3:]
    np.testing.assert_allclose(tokens, np.broadcast_to(tokens[:1], tokens.shape), atol=1e-5)
    other = np.array(layer(candidates, np.repeat(ITEMS[1:], 6, axis=0), same[1]))[:, 3:]
    assert np.abs(other - tokens).max() > 1e-4


def test_padding_is_never_read():
    layer = MixedQueryAttention(num_fixed=2, heads=2)
    garbage = np.where(MASK[:, :, None], ITEMS, 1e6).astype("float32")
    np.testing.assert_allclose(layer(DYNAMIC, garbage, MASK), layer(DYNAMIC, ITEMS, MASK), atol=1e-6)


def test_an_empty_history_gives_zero_tokens_and_finite_gradients(gradients):
    layer = MixedQueryAttention(num_fixed=2, heads=2)
    np.testing.assert_array_equal(layer(DYNAMIC, ITEMS, EMPTY), np.zeros((2, 5, 4)))
    for gradient in gradients(layer, layer.trainable_variables, DYNAMIC, ITEMS, EMPTY):
        assert gradient is not None and np.all(np.isfinite(gradient))


def test_the_order_of_the_history_does_not_matter():
    layer = MixedQueryAttention(num_fixed=2, heads=2)
    order = np.array([4, 2, 0, 1, 3])
    shuffled = layer(DYNAMIC, ITEMS[:, order], MASK[:, order])
    np.testing.assert_allclose(shuffled, layer(DYNAMIC, ITEMS, MASK), atol=1e-5)


def test_a_null_key_makes_an_empty_history_a_learned_token(check_layer):
    options = {"num_fixed": 2, "heads": 2, "null_key": True}
    layer = check_layer(MixedQueryAttention, options, DYNAMIC, ITEMS, MASK, parameters=8 * 16 + 2 * 4 + 2 * 4)
    w = {v.path.removeprefix("layer/"): np.array(v) for v in layer.weights}
    expected = w["null"][1, 0, 0] @ w["output/kernel"]
    np.testing.assert_allclose(layer(DYNAMIC, ITEMS, EMPTY), np.broadcast_to(expected, (2, 5, 4)), atol=1e-5)


def test_the_residual_adds_the_queries(check_layer):
    options = {"num_fixed": 2, "heads": 2, "residual": True}
    layer = check_layer(MixedQueryAttention, options, DYNAMIC, ITEMS, MASK, parameters=8 * 16 + 2 * 4)
    fixed = np.broadcast_to(np.array(layer.fixed)[:, 0], (2, 2, 4))
    expected = np.concatenate([DYNAMIC, fixed], axis=1)
    np.testing.assert_allclose(layer(DYNAMIC, ITEMS, EMPTY), expected, atol=1e-6)


def test_without_fixed_queries_only_the_dynamic_ones_remain(check_layer):
    check_layer(MixedQueryAttention, {"num_fixed": 0, "heads": 2}, DYNAMIC, ITEMS, MASK, parameters=6 * 16)


def test_items_of_another_width_are_refused():
    with pytest.raises(ValueError, match="`items` must be as wide as the queries, 4, received 6"):
        MixedQueryAttention(num_fixed=2).build((None, 3, 4), (None, 5, 6), (None, 5))


def test_heads_must_divide_the_query_width():
    with pytest.raises(ValueError, match="`heads` must divide the token width 4, received 3"):
        MixedQueryAttention(num_fixed=2, heads=3).build((None, 3, 4), (None, 5, 4), (None, 5))


@pytest.mark.parametrize(("norm", "low", "high"), [(True, 0.5, 2.0), (False, 0.0, 0.01)])
def test_fresh_scores_can_tell_items_apart_where_queries_and_items_are_normalized(norm, low, high):
    """Of rows as embedding tables start, N(0, 0.05), behind Glorot maps; entropy 1 is the mean of all items."""
    from mixrank.layers.mixing import relative_entropy

    rng, dim = np.random.default_rng(0), 64
    dynamic, items = (rng.normal(0, 0.05, (64, n, dim)).astype("float32") for n in (4, 20))
    layer = MixedQueryAttention(num_fixed=4, heads=4, norm=norm)
    seen = []
    layer(dynamic, items, np.ones((64, 20), bool))
    layer.on_attention = lambda weights, valid: seen.append((np.array(weights), np.array(valid)))
    layer(dynamic, items, np.ones((64, 20), bool))
    ((weights, valid),) = seen
    spread = np.log(weights).std(axis=-1)
    assert low < spread[:, :, :4].mean() < high
    assert (relative_entropy(weights, valid)[:, :, :4].mean() < 0.97) == norm
