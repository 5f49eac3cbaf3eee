"""Interact-then-split tokens and task heads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mixrank.layers.base import Part
from mixrank.layers.heads import TaskHead, TaskHeads
from mixrank.layers.tokens import EvenSplit, FieldTokens, InteractThenSplit, count_field_tokens, merge_adjacent

X = np.random.default_rng(3).normal(size=(2, 7)).astype("float32")


def test_tokens_are_pieces_of_one_product(check_layer):
    layer = check_layer(InteractThenSplit, {"tokens": 3, "dim": 4}, X, parameters=7 * 12 + 12)
    kernel, bias = (np.array(w) for w in layer.get_weights())
    np.testing.assert_allclose(np.array(layer(X))[:, 1], X @ kernel[:, 4:8] + bias[4:8], atol=1e-5)


def test_the_tokenizer_may_have_hidden_layers(check_layer):
    options = {"tokens": 3, "dim": 4, "units": (5,)}
    layer = check_layer(InteractThenSplit, options, X, parameters=7 * 5 + 5 + 5 * 12 + 12)
    w1, b1, w2, b2 = (np.array(w) for w in layer.get_weights())
    expected = (np.maximum(X @ w1 + b1, 0) @ w2 + b2).reshape(2, 3, 4)
    np.testing.assert_allclose(layer(X), expected, atol=1e-4)


def test_no_tokens_are_refused():
    with pytest.raises(ValueError, match="`tokens` must be at least 1, received 0"):
        InteractThenSplit(tokens=0, dim=4)


def test_even_pieces_have_projections_of_their_own(check_layer):
    # 7 columns in three pieces of 3, the last one padded with two zeros.
    layer = check_layer(EvenSplit, {"tokens": 3, "dim": 4}, X, parameters=3 * (3 * 4 + 4))
    kernel, bias = (np.array(w) for w in layer.get_weights())
    pieces = [X[:, :3], X[:, 3:6], np.pad(X[:, 6:], ((0, 0), (0, 2)))]
    for token, piece in enumerate(pieces):
        np.testing.assert_allclose(np.array(layer(X))[:, token], piece @ kernel[token] + bias[token, 0], atol=1e-5)


def test_even_pieces_may_have_no_bias_and_may_need_no_padding(check_layer):
    layer = check_layer(EvenSplit, {"tokens": 7, "dim": 2, "use_bias": False}, X, parameters=7 * 2)
    np.testing.assert_allclose(layer(X), X[:, :, None] * layer.get_weights()[0][:, 0], atol=1e-6)


WIDTHS = (3, 1, 4, 3, 1, 3)
FIELDS = [np.random.default_rng(i).normal(size=(2, width)).astype("float32") for i, width in enumerate(WIDTHS)]


@pytest.mark.parametrize("units", [(), (7, 9)])
def test_every_field_becomes_a_token_by_weights_of_its_own(units, arrays, gradients, randomize):
    layer = FieldTokens(dim=5, units=units, name="layer")
    layer(FIELDS)
    randomize(layer)
    w, used = arrays(layer), {}
    for token, x in enumerate(FIELDS):
        width = x.shape[1]
        index = used[width] = used.get(width, -1) + 1
        for i in range(len(units) + 1):
            name = f"width_{width}_{i}"
            x = (x if i == 0 else np.maximum(x, 0)) @ w[f"{name}/kernel"][index] + w[f"{name}/bias"][index, 0]
        np.testing.assert_allclose(np.array(layer(FIELDS))[:, token], x, atol=1e-4)
    part = count_field_tokens(WIDTHS, 5, units)
    assert part.parameters == layer.count_params()
    assert part.flops == sum(2 * a * b for width in WIDTHS for a, b in itertools.pairwise((width, *units, 5)))
    # Batched by width, each field's weights still have a gradient of their own.
    for gradient in gradients(layer, layer.trainable_variables, FIELDS):
        assert np.all(np.abs(gradient).max(axis=(1, 2)) > 0)


def test_field_tokens_come_back_from_their_config():
    layer = FieldTokens(dim=5, units=(7,))
    assert layer(FIELDS).shape == layer.compute_output_shape([x.shape for x in FIELDS]) == (2, 6, 5)
    again = FieldTokens.from_config(layer.get_config())
    again(FIELDS)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(FIELDS), layer(FIELDS))


def test_fields_of_one_width_do_not_start_equal():
    layer = FieldTokens(dim=5)
    layer(FIELDS)
    kernel = np.array(layer.chains["3"][0].kernel)
    assert len({float(x) for x in kernel[:, 0, 0]}) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EvenSplit(tokens=3, dim=0), "`dim` must be at least 1, received 0"),
        (lambda: FieldTokens(dim=0), "`dim` must be at least 1, received 0"),
        (lambda: FieldTokens(dim=3, units=(2, 0)), r"`units` must all be at least 1, received \(2, 0\)"),
    ],
)
def test_widths_of_tokens_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_head_without_hidden_layers_is_a_logistic_regression(check_layer):
    layer = check_layer(TaskHead, {}, X, parameters=8)
    kernel, bias = (np.array(w) for w in layer.get_weights())
    np.testing.assert_allclose(layer(X), (X @ kernel + bias)[:, 0], atol=1e-5)


def test_a_head_is_an_mlp_and_counts_itself(check_layer):
    layer = check_layer(TaskHead, {"units": (5, 3)}, X, parameters=7 * 5 + 5 + 5 * 3 + 3 + 3 + 1)
    w1, b1, w2, b2, w3, b3 = (np.array(w) for w in layer.get_weights())
    hidden = np.maximum(np.maximum(X @ w1 + b1, 0) @ w2 + b2, 0)
    np.testing.assert_allclose(layer(X), (hidden @ w3 + b3)[:, 0], atol=1e-4)


def test_heads_of_several_tasks_have_weights_of_their_own_and_count_them():
    layer = TaskHeads(tasks=("click", "like"), units=(5,))
    logits = layer(X, np.zeros(len(X), "int64"))
    assert list(logits) == ["click", "like"] and np.abs(logits["click"] - logits["like"]).max() > 1e-6
    assert layer.parts() == layer.count(7) == [Part("heads", 2 * (7 * 5 + 5 + 5 + 1), 2 * 2 * (7 * 5 + 5))]
    assert layer.count_params() == layer.parts()[0].parameters


def test_a_head_stays_float32_in_mixed_precision(float32_afterwards):
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    assert TaskHead(units=(5,))(X.astype("float16")).dtype == "float32"


def test_head_widths_are_checked():
    with pytest.raises(ValueError, match=r"`units` must all be at least 1, received \(5, 0\)"):
        TaskHead(units=(5, 0))


def test_adjacent_events_stand_side_by_side_in_one_token():
    items = np.arange(10, dtype="float32").reshape(1, 5, 2)
    valid = np.array([[True, True, True, False, False]])
    merged, kept = merge_adjacent(items, valid, 2)
    assert np.array(merged)[0].tolist() == [[0, 1, 2, 3], [4, 5, 0, 0], [0, 0, 0, 0]]
    assert np.array(kept).tolist() == [[True, True, False]]
    same, mask = merge_adjacent(items, valid, 1)
    assert same is items and mask is valid
