"""Heads that read a history: both orders, requests, masks."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers.models.mixformer import PerHeadCrossAttention

RNG = np.random.default_rng(6)
QUERIES = RNG.normal(size=(4, 3, 5)).astype("float32")
ITEMS = RNG.normal(size=(4, 6, 3, 5)).astype("float32")
VALID = np.arange(6) < np.array([4, 0, 6, 1])[:, None]
ORDERS = ("materialised", "reordered")


def _rms(x, gain):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * gain


def _expected(queries, items, valid, key, value, *gains):
    """Equations (6)-(8), row by row and head by head."""
    asked, compared = queries, items
    if gains:
        asked, compared = _rms(queries, gains[0]), _rms(items, gains[1])
    result = np.array(queries, "float64")
    for b in range(len(queries)):
        for i in range(queries.shape[1]):
            if valid[b].any():
                h = items[b, valid[b], i]
                e = np.exp((compared[b, valid[b], i] @ key[i]) @ asked[b, i] / np.sqrt(queries.shape[2]))
                result[b, i] += (e / e.sum()) @ (h @ value[i])
    return result


def _built(randomize, order="auto"):
    layer = PerHeadCrossAttention(order=order)
    layer(QUERIES, ITEMS, VALID)
    randomize(layer)
    return layer


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_each_head_reads_its_slice_of_the_valid_items(order, norm, check_layer):
    options = {"order": order, "norm": norm}
    parameters = 2 * 3 * 5 * 5 + norm * 2 * 5
    layer = check_layer(PerHeadCrossAttention, options, QUERIES, ITEMS, VALID, parameters=parameters)
    np.testing.assert_allclose(
        layer(QUERIES, ITEMS, VALID), _expected(QUERIES, ITEMS, VALID, *layer.get_weights()), atol=1e-5
    )


def test_an_empty_history_leaves_a_head_as_it_is(randomize):
    np.testing.assert_array_equal(_built(randomize)(QUERIES, ITEMS, VALID)[1], QUERIES[1])


@pytest.mark.parametrize("rows", [[2, 0, 2, 1], [0, 0, 0, 0]], ids=["several requests", "one request"])
@pytest.mark.parametrize("order", ORDERS)
def test_queries_of_a_request_read_it_as_if_it_were_repeated(order, rows, randomize, gradients):
    layer, rows = _built(randomize, order), np.array(rows)
    items, valid = ITEMS[: rows.max() + 1], VALID[: rows.max() + 1]
    variables = layer.trainable_variables
    np.testing.assert_allclose(layer(QUERIES, items, valid, rows), layer(QUERIES, items[rows], valid[rows]), atol=1e-5)
    by_request = gradients(layer, variables, QUERIES, items, valid, rows)
    by_row = gradients(layer, variables, QUERIES, items[rows], valid[rows])
    for left, right in zip(by_request, by_row, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)


@pytest.mark.parametrize(
    ("candidates", "requests", "projects"),
    [(12, 2, False), (13, 2, True), (None, 1, True), (4, None, True), (6, 1, False), (7, 1, True)],
)
def test_auto_projects_the_items_only_for_more_queries_than_items(candidates, requests, projects, randomize):
    layer = _built(randomize)
    shapes = [(candidates, 3, 5), (requests, 6, 3, 5)]
    specs = [tf.TensorSpec(shape) for shape in shapes]
    specs += [tf.TensorSpec((requests, 6), "bool"), tf.TensorSpec((candidates,), "int32")]
    graph = tf.function(layer).get_concrete_function(*specs).graph
    # Reordered multiplies the kernels with queries of 5 channels; materialised with requests * 6 items.
    products = [op for op in graph.get_operations() if op.type == "BatchMatMulV2"]
    assert len(products) == 4
    assert any(op.type == "Transpose" and op.outputs[0].shape == (3, 5, 5) for op in graph.get_operations()) != projects


def test_one_request_is_never_repeated_for_its_candidates(randomize):
    layer = _built(randomize)
    specs = [tf.TensorSpec((512, 3, 5)), tf.TensorSpec((1, 6, 3, 5)), tf.TensorSpec((1, 6), "bool")]
    graph = tf.function(layer).get_concrete_function(*specs, tf.TensorSpec((512,), "int32")).graph
    sizes = [y.shape.num_elements() or 0 for op in graph.get_operations() for y in op.outputs if y.shape.rank]
    # Scores are 512 * 6 * 3, queries 512 * 3 * 5; repeated keys would be 512 * 6 * 3 * 5.
    assert max(sizes) == 512 * 6 * 3


def test_auto_is_reordered_for_rows_of_their_own(randomize):
    layer = _built(randomize)
    reordered = _built(randomize, "reordered")
    np.testing.assert_array_equal(layer(QUERIES, ITEMS, VALID), reordered(QUERIES, ITEMS, VALID))


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="`order` must be auto, materialised or reordered, received 'fast'"):
        PerHeadCrossAttention(order="fast")
    with pytest.raises(ValueError, match=r"`items` must end in the queries' \(3, 5\), received \(2, 5\)"):
        PerHeadCrossAttention()(QUERIES, ITEMS[:, :, :2], VALID)
