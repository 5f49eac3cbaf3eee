"""AutoInt: interacting layers and both forms of the model."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.models.autoint import AutoInt, InteractingLayer

SMALL = {"dim": 5, "attention_dim": 8, "attention_heads": 2, "num_layers": 2, "mlp_units": (11, 7)}
X = np.random.default_rng(3).normal(size=(2, 3, 5)).astype("float32")


def _interact(w, name, e, heads, residual):
    """One interacting layer, field by field and head by head."""
    q, k, v = (e @ w[f"{name}{part}/kernel"] for part in ("query", "key", "value"))
    output = np.zeros_like(q)
    for head in np.split(np.arange(q.shape[1]), heads):
        for m in range(len(e)):
            scores = np.array([q[m, head] @ k[other, head] for other in range(len(e))])
            a = np.exp(scores)
            output[m, head] = sum(a[other] / a.sum() * v[other, head] for other in range(len(e)))
    return np.maximum(output + (e @ w[f"{name}shortcut/kernel"] if residual else 0), 0)


@pytest.mark.parametrize("residual", [True, False])
def test_a_layer_follows_its_equations(residual, check_layer, arrays):
    options = {"dim": 6, "heads": 2, "residual": residual}
    layer = check_layer(InteractingLayer, options, X, parameters=(3 + residual) * 5 * 6)
    expected = [_interact(arrays(layer), "", e, 2, residual) for e in X.astype("float64")]
    np.testing.assert_allclose(layer(X), expected, atol=1e-5)


def _numpy_autoint(w, fields, plus):
    used: dict[int, int] = {}
    tokens = []
    for x in fields:
        index = used[x.shape[1]] = used.get(x.shape[1], -1) + 1
        name = f"tokenizer/width_{x.shape[1]}_0"
        tokens.append(x @ w[f"{name}/kernel"][index] + w[f"{name}/bias"][index, 0])
    rows = []
    for e in np.stack(tokens, axis=1):
        for layer in range(2):
            e = _interact(w, f"interacting_{layer}/", e, 2, True)
        rows.append(e.ravel())
    if not plus:
        return np.stack(rows)
    deep = np.concatenate(fields, axis=1)
    for i in range(2):
        deep = np.maximum(deep @ w[f"mlp/dense_{i}/kernel"] + w[f"mlp/dense_{i}/bias"], 0)
    return np.concatenate([np.stack(rows), deep], axis=1)


@pytest.mark.parametrize("plus", [True, False])
def test_the_representation_follows_the_equations(plus, arguments, check_backbone, arrays, mean_fields):
    layer = check_backbone(AutoInt, {**SMALL, "mlp_units": (11, 7) if plus else ()}, arguments)
    expected = _numpy_autoint(arrays(layer), mean_fields(*arguments[:2]), plus)
    assert expected.shape == (4, 6 * 8 + (7 if plus else 0)) and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 0},
        {"num_layers": 0, "mlp_units": ()},
        {"num_layers": 1, "attention_heads": 4},
        {"residual": False},
        {"pooling": "target"},
        {"dropout": 0.3, "head_units": (4,)},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(AutoInt, {**SMALL, **options}, arguments)


def test_fields_are_interchangeable_below_their_projections(randomize):
    layer = InteractingLayer(dim=6, heads=3)
    layer(X)
    randomize(layer)
    order = [2, 0, 1]
    np.testing.assert_allclose(layer(X[:, order]), np.array(layer(X))[:, order], atol=1e-5)


def test_the_defaults_are_those_of_the_paper():
    # 39 fields; 16 wide embeddings, 2 heads of 32, 3 layers: the first reads 16, the others 64.
    widths = Widths({"user": (16,) * 39, "item": (), "context": ()}, {})
    parts = {part.name: part.parameters for part in AutoInt().count(widths)}
    assert parts["interacting layers"] == 4 * 64 * (16 + 64 + 64)
    assert parts["MLP"] == 39 * 16 * 400 + 400 + 400 * 400 + 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"attention_dim": 0}, "`attention_dim` must be at least 1, received 0"),
        ({"num_layers": -1}, "`num_layers` must be at least 0, received -1"),
        ({"attention_heads": 3}, "`attention_heads` must divide `attention_dim` 8, received 3"),
        ({"mlp_units": (5, 0)}, r"`mlp_units` must all be at least 1, received \(5, 0\)"),
        ({"dropout": 1.0}, "`dropout` must be below 1, received 1.0"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AutoInt(**{**SMALL, **options})


def test_heads_that_do_not_divide_a_layer_are_refused():
    with pytest.raises(ValueError, match="`heads` must divide `dim` 6, received 4"):
        InteractingLayer(dim=6, heads=4)
