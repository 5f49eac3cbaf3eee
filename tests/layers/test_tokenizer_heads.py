"""Interact-then-split tokens and task heads."""

from __future__ import annotations

import numpy as np
import pytest

from layers.counts import Part
from layers.heads import TaskHead, TaskHeads
from layers.tokenizer import InteractThenSplit

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
    with pytest.raises(ValueError, match="`tokens` and `dim` must be at least 1, received 0 and 4"):
        InteractThenSplit(tokens=0, dim=4)


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
