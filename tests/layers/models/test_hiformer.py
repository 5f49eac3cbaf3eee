"""Hiformer: its equations, pruning, both kinds of projections, and its sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.models.hiformer import CompositeProjection, FieldAttention, Hiformer
from mixrank.layers.registry import presets

SMALL = {
    "dim": 6,
    "num_cls": 2,
    "num_layers": 2,
    "attention_heads": 3,
    "key_dim": 4,
    "value_dim": 5,
    "key_rank": 7,
    "value_rank": 8,
    "expansion": 3,
    "head_units": (6,),
}


def _norm(x, gain, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * gain + bias


def _project(w, name, x, number, units, composite):
    """Queries, keys or values of the first `number` tokens, (number, units)."""
    if composite:
        matrix = w[f"{name}/factor_0/kernel"]
        if f"{name}/factor_1/kernel" in w:
            matrix = matrix @ w[f"{name}/factor_1/kernel"]
        return (x.reshape(-1) @ matrix).reshape(number, units)
    return np.stack([x[i] @ w[f"{name}/kernel"][i] for i in range(number)])


def _numpy_layer(w, x, asking, *, heads, key_dim, value_dim, composite):
    queries = _project(w, "attention/query", x, asking, heads * key_dim, composite)
    keys = _project(w, "attention/key", x, len(x), heads * key_dim, composite)
    values = _project(w, "attention/value", x, len(x), heads * value_dim, composite)
    out = []
    for i in range(asking):
        found = []
        for h in range(heads):
            key, value = slice(h * key_dim, (h + 1) * key_dim), slice(h * value_dim, (h + 1) * value_dim)
            e = np.exp([queries[i, key] @ k[key] / math.sqrt(key_dim) for k in keys])
            found.append((e / e.sum()) @ values[:, value])
        o = np.concatenate(found) @ w["attention/output/kernel"][i]
        o = _norm(x[i] + o, w["attention_norm/gamma"], w["attention_norm/beta"])
        hidden = o @ w["ffn/expand/kernel"][i] + w["ffn/expand/bias"][i, 0]
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        f = hidden @ w["ffn/contract/kernel"][i] + w["ffn/contract/bias"][i, 0]
        out.append(_norm(o + f, w["ffn_norm/gamma"], w["ffn_norm/beta"]))
    return np.stack(out)


def _numpy_hiformer(w, tokens, options):
    """The representation by the equations, from the tokens on, row by row."""
    composite = options.get("attention") != "heterogeneous"
    rows = []
    for x in tokens:
        for layer in range(2):
            part = {name.split("/", 1)[1]: value for name, value in w.items() if name.startswith(f"layer_{layer}/")}
            x = _numpy_layer(part, x, 2 if layer == 1 else len(x), heads=3, key_dim=4, value_dim=5, composite=composite)
        rows.append(x.reshape(-1))
    return np.stack(rows)


@pytest.mark.parametrize("options", [{}, {"low_rank": False}, {"attention": "heterogeneous"}], ids=str)
def test_the_representation_follows_the_equations(options, arguments, randomize):
    layer = Hiformer(**{**SMALL, **options})
    layer(*arguments)
    randomize(layer, scale=0.4)
    w = {v.path.removeprefix(f"{layer.name}/"): np.array(v, "float64") for v in layer.weights}
    tokens = np.array(layer.tokens(*arguments[:2]), "float64")
    # 2 task tokens, 4 feature vectors and 2 histories.
    assert tokens.shape == (4, 8, 6)
    expected = _numpy_hiformer(w, tokens, options)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, atol=1e-5)


def test_tokens_are_task_tokens_then_numbers_together_then_fields(arguments, randomize):
    features, histories, scenario = arguments
    rng = np.random.default_rng(1)
    one, two = (rng.normal(size=(4, 1)).astype("float32") for _ in range(2))
    features = {**features, "user": [one, *features["user"]], "context": [*features["context"], two]}
    layer = Hiformer(**SMALL, num_dense=3)
    layer(features, histories, scenario)
    randomize(layer)
    tokens = np.array(layer.tokens(features, histories))
    assert tokens.shape[1] == layer.num_tokens(layer.widths) == 2 + 3 + 6
    np.testing.assert_allclose(tokens[:, :2], np.broadcast_to(layer.cls, (4, 2, 6)))
    split = layer.dense_tokens.split
    numbers = np.concatenate([one, two], axis=1) @ np.array(split.kernel) + np.array(split.bias)
    np.testing.assert_allclose(tokens[:, 2:5].reshape(4, -1), numbers, atol=1e-5)
    moved = {**features, "user": [one, features["user"][1] + 1]}
    changed = np.abs(np.array(layer.tokens(moved, histories)) - tokens).max(axis=(0, 2)) > 0
    assert np.flatnonzero(changed).tolist() == [5]
    assert Hiformer(**SMALL, num_dense=0).num_tokens(layer.widths) == 2 + 8


@pytest.mark.parametrize("composite", [True, False])
def test_asking_for_the_first_tokens_only_gives_what_asking_for_all_gives_them(composite, randomize):
    x = np.random.default_rng(3).normal(size=(6, 5, 4)).astype("float32")
    options = {"heads": 2, "key_dim": 3, "value_dim": 7, "composite": composite, "key_rank": 6, "value_rank": 5}
    full, pruned = FieldAttention(**options), FieldAttention(**options, num_queries=2)
    full(x)
    randomize(full)
    pruned(x)
    kept = {v.path.split("/", 1)[1]: np.array(v) for v in full.weights}
    if composite:
        kept["query/factor_1/kernel"] = kept["query/factor_1/kernel"][:, : 2 * 2 * 3]
    else:
        kept["query/kernel"] = kept["query/kernel"][:2]
    kept["output/kernel"] = kept["output/kernel"][:2]
    pruned.set_weights([kept[v.path.split("/", 1)[1]] for v in pruned.weights])
    np.testing.assert_allclose(pruned(x), np.array(full(x))[:, :2], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 3 * (4 * 6 + 4 * 6 + 4 * 10 + 10 * 4)),
        ({"num_queries": 2}, 2 * 4 * 6 + 3 * (4 * 6 + 4 * 10) + 2 * 10 * 4),
        ({"composite": True}, 12 * 18 + 12 * 18 + 12 * 30 + 3 * 10 * 4),
        (
            {"composite": True, "key_rank": 5, "value_rank": 8, "num_queries": 1},
            12 * 5 + 5 * 6 + 12 * 5 + 5 * 18 + 12 * 8 + 8 * 30 + 10 * 4,
        ),
    ],
    ids=str,
)
def test_field_attention_is_a_well_behaved_layer(options, parameters, check_layer):
    x = np.random.default_rng(3).normal(size=(6, 3, 4)).astype("float32")
    options = {"heads": 2, "key_dim": 3, "value_dim": 5, "composite": False, **options}
    layer = check_layer(FieldAttention, options, x, parameters=parameters)
    assert layer.count(3, 4)[0] == parameters


def test_a_composite_projection_reads_every_token(randomize):
    x = np.random.default_rng(3).normal(size=(2, 3, 4)).astype("float32")
    layer = CompositeProjection(tokens=5, units=2, rank=6)
    before = np.array(layer(x))
    for token in range(3):
        moved = x.copy()
        moved[:, token] += 1
        assert np.all(np.abs(np.array(layer(moved)) - before).max(axis=(0, 2)) > 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 1},
        {"num_cls": 1},
        {"low_rank": False},
        {"attention": "heterogeneous"},
        {"pooling": "target"},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_learns_and_comes_back_from_its_config(options, arguments, check_backbone):
    check_backbone(Hiformer, {**SMALL, **options}, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, received 0"),
        ({"num_cls": 0}, "`num_cls` must be at least 1, received 0"),
        ({"num_dense": -1}, "`num_dense` must be at least 0, received -1"),
        ({"value_rank": 0}, "`value_rank` must be at least 1, received 0"),
        ({"attention": "plain"}, "`attention` must be composite or heterogeneous, received 'plain'"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Hiformer(**{**SMALL, **options})


def test_low_rank_saves_what_the_paper_prints():
    # 59.95 M without and 16.68 M with low rank are printed; 38 tokens, the task's among them, give that difference.
    widths = Widths(vectors={"user": (8,) * 37, "item": (), "context": ()}, histories={})
    small, large = (
        {part.name: part.parameters for part in Hiformer(**presets("hiformer")[name]).count(widths)}
        for name in ("small", "large")
    )
    # The printed sizes hold for the same query, which low rank makes smaller too: one task token asks.
    query = 38 * 128 * 64 - (38 * 128 * 128 + 128 * 64)
    saved = large["layers: attention"] - small["layers: attention"] - query
    assert saved == pytest.approx(59.95e6 - 16.68e6, abs=0.01e6)
    assert sum(small.values()) == pytest.approx(16.68e6, rel=0.03)
    assert sum(large.values()) == pytest.approx(59.95e6, rel=0.01)
