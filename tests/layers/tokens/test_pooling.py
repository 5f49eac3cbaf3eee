"""Histories to vectors: the mean, and attention from the candidate."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.tokens import MeanPooling, TargetAttention, count_pooling, history_pooling, masked_mean

RNG = np.random.default_rng(6)
ITEMS = RNG.normal(size=(4, 5, 3)).astype("float32")
VALID = np.arange(5)[None, :] < np.array([3, 1, 0, 5])[:, None]
QUERY = RNG.normal(size=(4, 2)).astype("float32")
ROWS = np.array([1, 3, 1, 0, 3, 2])


def _target(w, items, valid, query):
    """Deep Interest Network, event by event."""
    pooled = np.zeros((len(query), items.shape[2]))
    for b, (row, mask, c) in enumerate(zip(items, valid, query, strict=True)):
        q = c @ w["query/kernel"] + w["query/bias"]
        for s in row[mask]:
            x = np.concatenate([q, s, q * s])
            for i in range(2):
                x = np.maximum(x @ w[f"hidden_{i}/kernel"] + w[f"hidden_{i}/bias"], 0)
            pooled[b] += (x @ w["weight/kernel"] + w["weight/bias"])[0] * s
    return pooled


def test_the_mean_is_over_valid_events_and_0_without_any(check_layer):
    layer = check_layer(MeanPooling, {}, ITEMS, VALID, parameters=0)
    expected = [ITEMS[0, :3].mean(axis=0), ITEMS[1, 0], np.zeros(3), ITEMS[3].mean(axis=0)]
    np.testing.assert_allclose(layer(ITEMS, VALID), expected, atol=1e-6)


def test_the_mean_of_a_long_history_is_exact_in_bfloat16():
    # bfloat16 counts 256, 256, 256, ...
    layer = MeanPooling(dtype="mixed_bfloat16")
    mean = layer(np.ones((1, 300, 2), "float32"), np.ones((1, 300), bool))
    assert mean.dtype == "bfloat16"
    np.testing.assert_array_equal(np.array(mean, "float32"), np.ones((1, 2)))


def test_target_attention_follows_its_formula(check_layer, arrays):
    parameters = (2 * 3 + 3) + (9 * 7 + 7) + (7 * 4 + 4) + (4 + 1)
    layer = check_layer(TargetAttention, {"units": (7, 4)}, ITEMS, VALID, QUERY, parameters=parameters)
    output = np.array(layer(ITEMS, VALID, QUERY))
    assert np.abs(output).max() > 0.1
    np.testing.assert_allclose(output, _target(arrays(layer), ITEMS, VALID, QUERY), atol=1e-5)
    np.testing.assert_array_equal(output[2], 0)


def test_target_attention_without_hidden_layers_is_linear(check_layer, arrays):
    layer = check_layer(TargetAttention, {"units": ()}, ITEMS, VALID, QUERY, parameters=(2 * 3 + 3) + 9 + 1)
    w = arrays(layer)
    q = (QUERY @ w["query/kernel"] + w["query/bias"])[:, None].repeat(5, axis=1)
    weights = np.concatenate([q, ITEMS, q * ITEMS], axis=2) @ w["weight/kernel"] + w["weight/bias"]
    np.testing.assert_allclose(layer(ITEMS, VALID, QUERY), (weights * VALID[..., None] * ITEMS).sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "target"])
def test_what_stands_in_padding_does_not_matter(pooling, randomize):
    layer = history_pooling(pooling)
    layer(ITEMS, VALID, query=QUERY)
    randomize(layer)
    garbage = np.where(VALID[:, :, None], ITEMS, 1e3).astype("float32")
    np.testing.assert_allclose(layer(garbage, VALID, query=QUERY), layer(ITEMS, VALID, query=QUERY), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "target"])
def test_candidates_of_a_request_share_its_history(pooling, randomize, gradients):
    layer = history_pooling(pooling, name="pool")
    query = np.random.default_rng(1).normal(size=(len(ROWS), 2)).astype("float32")
    expected = layer(ITEMS[ROWS], VALID[ROWS], query=query)
    randomize(layer)
    expected = np.array(layer(ITEMS[ROWS], VALID[ROWS], query=query))
    np.testing.assert_allclose(layer(ITEMS, VALID, query=query, request_of=ROWS), expected, atol=1e-5)
    for a, b in zip(
        gradients(lambda: layer(ITEMS, VALID, query=query, request_of=ROWS), layer.trainable_variables),
        gradients(lambda: layer(ITEMS[ROWS], VALID[ROWS], query=query), layer.trainable_variables),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_target_attention_counts_itself(matrix_product_flops):
    layer = TargetAttention()
    layer(ITEMS, VALID, QUERY)
    part = count_pooling("target", 5, 3, 2)
    assert part.parameters == layer.count_params()
    rows = {"items": ITEMS, "valid": VALID, "query": QUERY}
    assert matrix_product_flops(lambda x: layer(**x), rows) == part.flops
    assert count_pooling("mean", 5, 3, 2)[1:] == (0, 0)


def test_an_empty_batch_of_events_has_the_mean_0():
    np.testing.assert_array_equal(masked_mean(ITEMS, np.zeros((4, 5), bool)), np.zeros((4, 3)))


def test_wrong_widths_are_refused():
    with pytest.raises(ValueError, match=r"`units` must all be at least 1, received \(5, 0\)"):
        TargetAttention(units=(5, 0))
