"""Entropy of attention, and the report of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from mixrank.layers.mixing import attention_report, relative_entropy


def test_it_is_that_of_scipy_over_the_logarithm_of_the_valid_keys():
    rng = np.random.default_rng(3)
    valid = np.arange(6) < np.array([2, 5, 6])[:, None]
    weights = rng.random((3, 6)) * valid
    weights /= weights.sum(axis=1, keepdims=True)
    expected = entropy(weights, axis=1) / np.log([2, 5, 6])
    np.testing.assert_allclose(relative_entropy(weights, valid), expected, atol=1e-12)


@pytest.mark.parametrize("number", [0, 1])
def test_a_row_with_nothing_to_choose_has_none(number):
    valid = np.arange(3) < number
    assert np.isnan(relative_entropy(valid.astype(float), valid))


class _Watched:
    def __init__(self) -> None:
        self.on_attention = None


class _Ranker:
    """Two attention layers, the second with one query; weights come with the rows."""

    input = ("weights",)

    def __init__(self, layers) -> None:
        self.layers = layers

    def __call__(self, rows, training):
        weights = rows["weights"]
        self.layers[0].on_attention(weights, weights > 0)
        self.layers[1].on_attention(weights[:, :, :1], weights[:, :, :1] > 0)
        return {"click": weights[:, 0, 0, 0]}


def test_the_report_holds_means_over_rows_and_heads():
    even, one = [0.25] * 4, [1 - 3e-9, 1e-9, 1e-9, 1e-9]
    # (rows, heads, queries, keys)
    weights = np.array([[[even, one], [one, one]], [[even, even], [even, one]]])
    layers = [_Watched(), _Watched()]
    watched = {"first": (layers[0], ["a", "b"]), "second": (layers[1], ["a"])}
    found = attention_report(_Ranker(layers), [{"weights": weights[:1]}, {"weights": weights[1:]}], watched)
    assert found["attention"]["examined"] == 2 and found["attention"]["columns"] == ["first", "second"]
    assert found["attention"]["rows"] == [
        {"name": "a", "weights": [0.75, 0.75]},
        {"name": "b", "weights": [0.25, None]},
    ]
    assert all(layer.on_attention is None for layer in layers)


def test_without_rows_there_is_no_report():
    layers = [_Watched(), _Watched()]
    assert attention_report(_Ranker(layers), [], {"first": (layers[0], ["a"])}) == {}
