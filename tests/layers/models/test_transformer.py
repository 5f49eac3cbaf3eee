"""Transformer: post- and pre-norm, mean and cls, both tokenizers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixrank.layers.models.transformer import Transformer

SMALL = {"dim": 6, "num_tokens": 4, "num_layers": 2, "attention_heads": 3, "expansion": 2}


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _norm(x, w, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * w[f"{name}/gamma"] + w[f"{name}/beta"]


def _attention(x, w, name, heads):
    q, k, v = (x @ w[f"{name}/{part}/kernel"] for part in ("query", "key", "value"))
    output = np.zeros_like(x)
    for head in np.split(np.arange(x.shape[1]), heads):
        for i in range(len(x)):
            a = np.exp(k[:, head] @ q[i, head] / np.sqrt(len(head)))
            output[i, head] = a / a.sum() @ v[:, head]
    return output @ w[f"{name}/output/kernel"]


def _ffn(x, w, name):
    hidden = _gelu(x @ w[f"{name}/expand/kernel"] + w[f"{name}/expand/bias"])
    return hidden @ w[f"{name}/contract/kernel"] + w[f"{name}/contract/bias"]


def _numpy_transformer(w, fields, *, norm, readout, tokenizer):
    if tokenizer == "split":
        flat = np.concatenate(fields, axis=1) @ w["tokenizer/split/kernel"] + w["tokenizer/split/bias"]
        tokens = flat.reshape(len(flat), -1, 6)
    else:
        # The fields' widths all differ.
        names = [f"tokenizer/width_{x.shape[1]}_0" for x in fields]
        pairs = zip(fields, names, strict=True)
        tokens = np.stack([x @ w[f"{n}/kernel"][0] + w[f"{n}/bias"][0, 0] for x, n in pairs], axis=1)
    rows = []
    for x in tokens:
        if readout == "cls":
            x = np.concatenate([w["cls"][0], x])
        for block in ("block_0", "block_1"):
            if norm == "post":
                z = _norm(x + _attention(x, w, f"{block}/mixing", 3), w, f"{block}/mixing_norm")
                x = _norm(z + _ffn(z, w, f"{block}/ffn"), w, f"{block}/ffn_norm")
            else:
                z = x + _attention(_norm(x, w, f"{block}/mixing_norm"), w, f"{block}/mixing", 3)
                x = z + _ffn(_norm(z, w, f"{block}/ffn_norm"), w, f"{block}/ffn")
        if norm == "pre":
            x = _norm(x, w, "last_norm")
        rows.append(x[0] if readout == "cls" else x.mean(axis=0))
    return np.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "readout", "tokenizer"),
    [("post", "mean", "fields"), ("pre", "mean", "split"), ("post", "cls", "split"), ("pre", "cls", "fields")],
)
def test_the_representation_follows_the_equations(
    norm, readout, tokenizer, arguments, check_backbone, arrays, mean_fields
):
    options = {"norm": norm, "readout": readout, "tokenizer": tokenizer}
    layer = check_backbone(Transformer, {**SMALL, **options}, arguments)
    expected = _numpy_transformer(arrays(layer), mean_fields(*arguments[:2]), **options)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 0},
        {"num_layers": 1, "attention_heads": 1, "expansion": 3},
        {"pooling": "target"},
        {"dropout": 0.3, "head_units": (4,), "norm": "pre"},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(Transformer, {**SMALL, "num_layers": 1, **options}, arguments)


def test_tokens_have_no_order(arguments, randomize):
    """The blocks and the mean see a set: tokens in another order give the same representation."""
    layer = Transformer(**{**SMALL, "tokenizer": "split"})
    layer(*arguments)
    randomize(layer)
    before = np.array(layer(*arguments))
    # The columns of the split's product, token by token, in another order.
    columns = np.arange(24).reshape(4, 6)[[2, 0, 3, 1]].ravel()
    kernel, bias = layer.to_tokens.split.get_weights()
    layer.to_tokens.split.set_weights([kernel[:, columns], bias[columns]])
    np.testing.assert_allclose(layer(*arguments), before, atol=1e-5)


def test_dropout_acts_in_training_only(arguments):
    layer = Transformer(**{**SMALL, "num_layers": 1, "dropout": 0.5})
    plain = np.array(layer(*arguments))
    np.testing.assert_array_equal(layer(*arguments), plain)
    assert np.abs(np.array(layer(*arguments, training=True)) - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"attention_heads": 4}, "`attention_heads` must divide `dim` 6, received 4"),
        ({"expansion": 0}, "`expansion` must be at least 1, received 0"),
        ({"norm": "rms"}, "`norm` must be post or pre, received 'rms'"),
        ({"readout": "max"}, "`readout` must be mean or cls, received 'max'"),
        ({"tokenizer": "even"}, "`tokenizer` must be fields or split, received 'even'"),
        ({"dropout": 1.0}, "`dropout` must be below 1, received 1.0"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Transformer(**{**SMALL, **options})
