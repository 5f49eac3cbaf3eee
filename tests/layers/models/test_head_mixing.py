"""Mixing across heads, whole and decoupled."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.models.mixformer import HeadAttention, HeadMixing

RNG = np.random.default_rng(8)
GOLDEN = np.array([[[1, 2, 3, 4], [5, 6, 7, 8]]], "float32")
X = RNG.normal(size=(4, 3, 6)).astype("float32")


def test_head_mixing_of_the_worked_example_has_no_parameters():
    layer = HeadMixing()
    np.testing.assert_array_equal(layer([GOLDEN])[0], [[[1, 2, 5, 6], [3, 4, 7, 8]]])
    assert layer.count_params() == 0


def test_a_user_head_of_the_worked_example_takes_only_pieces_of_user_heads():
    user, item = HeadMixing()([GOLDEN[:, :1], GOLDEN[:, 1:]])
    np.testing.assert_array_equal(user, [[[1, 2, 0, 0]]])
    np.testing.assert_array_equal(item, [[[3, 4, 7, 8]]])


def test_head_mixing_is_its_own_inverse():
    layer = HeadMixing()
    np.testing.assert_array_equal(layer(layer([X]))[0], X)


@pytest.mark.parametrize("first", [1, 2])
def test_two_sides_are_the_mixed_heads_under_the_mask(first):
    mask = np.ones((3, 6))
    mask[:first, first * 6 // 3 :] = 0
    mixed = mask * X.reshape(4, 3, 3, 2).transpose(0, 2, 1, 3).reshape(4, 3, 6)
    np.testing.assert_array_equal(np.concatenate(HeadMixing()([X[:, :first], X[:, first:]]), axis=1), mixed)


@pytest.mark.parametrize("make", [HeadMixing, lambda: HeadAttention(heads=2)])
def test_the_user_side_of_a_request_serves_all_its_candidates(make):
    layer, rows = make(), np.array([2, 0, 2, 0, 0])
    user, item = X[:3, :2], RNG.normal(size=(5, 1, 6)).astype("float32")
    of_user, of_item = layer([user, item], rows)
    again, expected = layer([user[rows], item])
    np.testing.assert_allclose(np.array(of_user)[rows], again, atol=1e-6)
    np.testing.assert_allclose(of_item, expected, atol=1e-6)


def _softmax(scores):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("first", [2, None], ids=["user and item", "one side"])
def test_head_attention_lets_user_heads_see_user_heads_only(first, randomize):
    layer = HeadAttention(heads=2)
    sides = [X] if first is None else [X[:, :first], X[:, first:]]
    layer(sides)
    randomize(layer)
    query, key, value, output = layer.get_weights()
    sees = np.ones((3, 3), bool)
    sees[:first, 2 if first else 3 :] = False
    pieces = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = (X @ query)[..., head] @ (X @ key)[..., head].transpose(0, 2, 1) / np.sqrt(3)
        pieces.append(_softmax(np.where(sees, scores, -np.inf)) @ (X @ value)[..., head])
    np.testing.assert_allclose(np.concatenate(layer(sides), axis=1), np.concatenate(pieces, -1) @ output, atol=1e-5)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="divisible by the number of tokens 16, received 386.*384 and 400"):
        HeadMixing()([np.zeros((2, 8, 386), "float32"), np.zeros((2, 8, 386), "float32")])
    with pytest.raises(ValueError, match="`heads` must divide the token width 6, received 4"):
        HeadAttention(heads=4)([X])
