"""DHEN: every interaction, both ensembles, and the shortcut."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.mixing import TokenProjection
from mixrank.layers.models.dhen import DHEN, AttentionTokens, CrossTokens, DeepTokens, EnsembleLayer

ALL = ("dot", "cross", "attention", "linear", "mlp")
SMALL = {
    "dim": 6,
    "num_layers": 2,
    "interactions": ALL,
    "num_tokens": 3,
    "rank": 4,
    "cross_rank": 5,
    "mlp_units": (8, 9),
    "attention_heads": 2,
    "head_units": (6,),
}
X = np.random.default_rng(3).normal(size=(6, 3, 4)).astype("float32")


def _below(w, name):
    return {path.removeprefix(f"{name}/"): value for path, value in w.items() if path.startswith(f"{name}/")}


def _norm(x, w):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * w["gamma"] + w["beta"]


def _mlp(x, w):
    for index in range(2):
        x = np.maximum(x @ w[f"hidden/dense_{index}/kernel"] + w[f"hidden/dense_{index}/bias"], 0)
    return x @ w["expand/kernel"] + w["expand/bias"]


def _dot(x, w):
    # All pairwise products, then their compression.
    products = (x @ x.T) @ w["project/project/kernel"]
    return _mlp(_norm(products.reshape(-1), _below(w, "norm")), w).reshape(-1, x.shape[1])


def _cross(x, w):
    flat = x.reshape(-1)
    full = w["cross/project/kernel"] @ w["cross/cross/kernel"]
    crossed = flat * (flat @ full + w["cross/cross/bias"]) + flat
    return w["compress/project/kernel"].T @ crossed.reshape(x.shape)


def _attention(x, w, heads=2):
    q, k, v = (x @ w[f"encode/mixing/{part}/kernel"] for part in ("query", "key", "value"))
    found = np.zeros_like(x)
    for head in np.split(np.arange(x.shape[1]), heads):
        scores = np.exp(q[:, head] @ k[:, head].T / np.sqrt(len(head)))
        found[:, head] = scores / scores.sum(axis=1, keepdims=True) @ v[:, head]
    z = _norm(x + found @ w["encode/mixing/output/kernel"], _below(w, "encode/mixing_norm"))
    hidden = np.maximum(z @ w["encode/ffn/expand/kernel"] + w["encode/ffn/expand/bias"], 0)
    ffn = hidden @ w["encode/ffn/contract/kernel"] + w["encode/ffn/contract/bias"]
    return w["compress/project/kernel"].T @ _norm(z + ffn, _below(w, "encode/ffn_norm"))


NUMPY = {
    "dot": _dot,
    "cross": _cross,
    "attention": _attention,
    "linear": lambda x, w: w["project/kernel"].T @ x,
    "mlp": lambda x, w: _mlp(x.reshape(-1), w).reshape(-1, x.shape[1]),
}


def _layer(x, w, interactions, ensemble):
    found = [NUMPY[kind](x, _below(w, f"{kind}_{i}")) for i, kind in enumerate(interactions)]
    y = np.concatenate(found) if ensemble == "concat" else np.sum(found, axis=0)
    shortcut = w["shortcut/project/kernel"].T @ x if "shortcut/project/kernel" in w else x
    return _norm(y + shortcut, _below(w, "norm"))


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["concat", "sum"])
@pytest.mark.parametrize("interactions", [ALL, *((kind,) for kind in ALL)], ids="-".join)
def test_the_representation_follows_the_equations(
    interactions, ensemble, arguments, check_backbone, arrays, mean_fields
):
    options = {**SMALL, "interactions": interactions, "ensemble": ensemble}
    layer = check_backbone(DHEN, options, arguments)
    w, fields = arrays(layer), mean_fields(*arguments[:2])
    # The fields' widths all differ.
    names = [f"tokenizer/width_{x.shape[1]}_0" for x in fields]
    pairs = zip(fields, names, strict=True)
    tokens = np.stack([x @ w[f"{n}/kernel"][0] + w[f"{n}/bias"][0, 0] for x, n in pairs], axis=1)
    rows = []
    for x in tokens:
        for index in range(2):
            x = _layer(x, _below(w, f"layer_{index}"), interactions, ensemble)
        rows.append(x.reshape(-1))
    assert np.std(rows) > 0.1
    np.testing.assert_allclose(layer(*arguments), np.stack(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "options", "parameters"),
    [
        (CrossTokens, {"tokens": 5, "rank": 2}, 2 * 12 * 2 + 12 + 3 * 5),
        (AttentionTokens, {"tokens": 5, "heads": 2}, 4 * 16 + 2 * 64 + 16 + 4 + 4 * 4 + 3 * 5),
        (DeepTokens, {"tokens": 5, "units": (7,)}, 12 * 7 + 7 + 7 * 20 + 20),
        (DeepTokens, {"tokens": 5}, 12 * 20 + 20),
    ],
    ids=str,
)
def test_an_interaction_is_a_well_behaved_layer(make, options, parameters, check_layer):
    layer = check_layer(make, options, X, parameters=parameters)
    assert layer(X).shape == (6, 5, 4)


@pytest.mark.parametrize(("ensemble", "tokens"), [("concat", 4), ("sum", 2)])
def test_an_ensemble_takes_any_layers_of_tokens(ensemble, tokens, check_layer):
    def make(**kwargs):
        layers = (TokenProjection(tokens=2, name="linear"), DeepTokens(tokens=2, name="deep"))
        return EnsembleLayer(interactions=layers, ensemble=ensemble, **kwargs)

    # The two layers, the shortcut from 3 tokens, and the norm.
    parameters = 3 * 2 + 12 * 8 + 8 + 3 * tokens + 2 * 4
    layer = check_layer(make, {}, X, parameters=parameters)
    assert layer(X).shape == (6, tokens, 4)


def test_tokens_of_an_equal_number_need_no_shortcut(arguments):
    layer = DHEN(**{**SMALL, "num_layers": 3})
    layer(*arguments)
    # 6 fields become 15 tokens in the first layer.
    assert [each.shortcut is None for each in layer.layers] == [False, True, True]


@pytest.mark.parametrize(("ensemble", "tokens"), [("concat", 15), ("sum", 3)])
def test_the_ensemble_decides_the_width(ensemble, tokens):
    widths = Widths({"user": (5,), "item": (4, 3), "context": (2,)}, {})
    assert DHEN(**{**SMALL, "ensemble": ensemble}).width(widths) == tokens * 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"num_layers": 1}, {"interactions": ("linear", "linear")}, {"mlp_units": ()}, {"pooling": "target"}],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(DHEN, {**SMALL, **options}, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interactions": ()}, r"`interactions` must name at least one, received \(\)"),
        ({"interactions": ("dot", "conv")}, "`interactions` must all be dot, cross, attention, linear or mlp"),
        ({"ensemble": "mean"}, "`ensemble` must be concat or sum, received 'mean'"),
        ({"num_tokens": 0}, "`num_tokens` must be at least 1, received 0"),
        ({"attention_heads": 4}, "`attention_heads` must divide `dim` 6, received 4"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DHEN(**{**SMALL, **options})
