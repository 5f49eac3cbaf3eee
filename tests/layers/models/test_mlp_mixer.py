"""MLP-Mixer: both MLPs, the block, both tokenizers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixrank.layers.mixing import PreNormBlock, SharedFFN
from mixrank.layers.models.mlp_mixer import MLPMixer, TokenMLP

SMALL = {"dim": 5, "num_tokens": 4, "num_layers": 2, "token_expansion": 3, "expansion": 2}
X = np.random.default_rng(3).normal(size=(2, 3, 5)).astype("float32")


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _norm(x, w, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * w[f"{name}/gamma"] + w[f"{name}/beta"]


def _mlp(x, w, name):
    hidden = _gelu(x @ w[f"{name}/expand/kernel"] + w[f"{name}/expand/bias"])
    return hidden @ w[f"{name}/contract/kernel"] + w[f"{name}/contract/bias"]


def _block(x, w, name=""):
    """One row's tokens; the token MLP channel by channel, the channel MLP token by token."""
    u = x.copy()
    normed = _norm(x, w, f"{name}mixing_norm")
    for channel in range(x.shape[1]):
        u[:, channel] += _mlp(normed[:, channel], w, f"{name}mixing/mlp")
    y = u.copy()
    for token in range(len(x)):
        y[token] += _mlp(_norm(u[token], w, f"{name}ffn_norm"), w, f"{name}ffn")
    return y


def _tokens(w, fields, tokenizer):
    if tokenizer == "split":
        flat = np.concatenate(fields, axis=1) @ w["tokenizer/split/kernel"] + w["tokenizer/split/bias"]
        return flat.reshape(len(flat), -1, 5)
    # The fields' widths all differ.
    names = [f"tokenizer/width_{x.shape[1]}_0" for x in fields]
    kernels = [w[f"{name}/kernel"][0] for name in names]
    return np.stack([x @ k + w[f"{n}/bias"][0, 0] for x, k, n in zip(fields, kernels, names, strict=True)], axis=1)


@pytest.mark.parametrize("tokenizer", ["fields", "split"])
def test_the_representation_follows_the_equations(tokenizer, arguments, check_backbone, arrays, mean_fields):
    layer = check_backbone(MLPMixer, {**SMALL, "tokenizer": tokenizer}, arguments)
    w = arrays(layer)
    rows = []
    for x in _tokens(w, mean_fields(*arguments[:2]), tokenizer):
        assert len(x) == (6 if tokenizer == "fields" else 4)
        for index in range(2):
            x = _block(x, w, f"block_{index}/")
        rows.append(_norm(x, w, "norm").mean(axis=0))
    assert np.abs(rows).max() > 0.1
    np.testing.assert_allclose(layer(*arguments), np.stack(rows), atol=1e-5)


def test_a_pre_norm_block_adds_to_what_it_was_given(check_layer, arrays):
    options = {"mixing": TokenMLP(expansion=3, name="mixing"), "ffn": SharedFFN(activation="gelu", name="ffn")}
    parameters = (2 * 3 * 9 + 9 + 3) + (2 * 5 * 20 + 20 + 5) + 2 * 2 * 5
    # The harness builds the layer twice, and a block takes its sub-layers from outside.
    layer = PreNormBlock(**options, name="layer")
    layer(X)
    assert layer.count_params() == parameters
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(scale=0.5, size=x.shape) for x in layer.get_weights()])
    expected = [_block(x, arrays(layer)) for x in X.astype("float64")]
    np.testing.assert_allclose(layer(X), expected, atol=1e-4)
    layer.ffn.contract.set_weights([0 * x for x in layer.ffn.contract.get_weights()])
    layer.mixing.mlp.contract.set_weights([0 * x for x in layer.mixing.mlp.contract.get_weights()])
    np.testing.assert_array_equal(layer(X), X)
    again = PreNormBlock.from_config(layer.get_config())
    again(X)
    assert type(again) is PreNormBlock and again.count_params() == parameters


def test_the_token_mlp_treats_every_channel_alike(check_layer):
    layer = check_layer(TokenMLP, {"expansion": 2}, X, parameters=2 * 3 * 6 + 6 + 3)
    order = [3, 0, 4, 2, 1]
    np.testing.assert_allclose(layer(X[:, :, order]), np.array(layer(X))[:, :, order], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 0},
        {"token_expansion": 1, "expansion": 3},
        {"tokenizer": "split", "num_tokens": 1},
        {"pooling": "target"},
        {"dropout": 0.3, "head_units": (4,)},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(MLPMixer, {**SMALL, "num_layers": 1, **options}, arguments)


def test_dropout_acts_in_training_only(arguments):
    layer = MLPMixer(**{**SMALL, "num_layers": 1, "dropout": 0.5})
    plain = np.array(layer(*arguments))
    np.testing.assert_array_equal(layer(*arguments), plain)
    assert np.abs(np.array(layer(*arguments, training=True)) - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"num_tokens": 0}, "`num_tokens` must be at least 1, received 0"),
        ({"num_layers": -1}, "`num_layers` must be at least 0, received -1"),
        ({"tokenizer": "even"}, "`tokenizer` must be fields or split, received 'even'"),
        ({"token_expansion": 0}, "`token_expansion` must be at least 1, received 0"),
        ({"expansion": 0}, "`expansion` must be at least 1, received 0"),
        ({"dropout": 1.0}, "`dropout` must be below 1, received 1.0"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MLPMixer(**{**SMALL, **options})


def test_no_hidden_width_is_refused():
    with pytest.raises(ValueError, match="`expansion` must be at least 1, received 0"):
        TokenMLP(expansion=0)
