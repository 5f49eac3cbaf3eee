"""xDeepFM: the compressed interaction network, and what stands beside it."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.models.xdeepfm import CompressedInteraction, XDeepFM

SMALL = {"dim": 3, "cin_units": (4, 2), "mlp_units": (8, 5)}
RNG = np.random.default_rng(3)
X, X0 = (RNG.normal(size=(2, n, 3)).astype("float32") for n in (2, 4))


def _interact(w, name, x, x0):
    """Equation (6), output vector by output vector and pair by pair."""
    kernel = w[f"{name}mix/kernel"]
    result = np.zeros((len(x), kernel.shape[1], x.shape[2]))
    for h in range(kernel.shape[1]):
        for i in range(x.shape[1]):
            for j in range(x0.shape[1]):
                result[:, h] += kernel[i * x0.shape[1] + j, h] * x[:, i] * x0[:, j]
    return result


def test_a_layer_follows_its_equation(check_layer, arrays):
    layer = check_layer(CompressedInteraction, {"units": 5}, X, X0, parameters=2 * 4 * 5)
    expected = _interact(arrays(layer), "", X.astype("float64"), X0.astype("float64"))
    np.testing.assert_allclose(layer(X, X0), expected, atol=1e-5)


def test_the_representation_follows_the_equations(arguments, check_backbone, arrays, mean_fields):
    layer = check_backbone(XDeepFM, SMALL, arguments)
    w, fields = arrays(layer), mean_fields(*arguments[:2])
    used: dict[int, int] = {}
    tokens = []
    for x in fields:
        index = used[x.shape[1]] = used.get(x.shape[1], -1) + 1
        name = f"project/width_{x.shape[1]}_0"
        tokens.append(x @ w[f"{name}/kernel"][index] + w[f"{name}/bias"][index, 0])
    x = x0 = np.stack(tokens, axis=1)
    pooled = []
    for k in range(2):
        x = _interact(w, f"cin_{k}/", x, x0)
        pooled.append(x.sum(axis=2))
    deep = x0.reshape(4, -1)
    for i in range(2):
        deep = np.maximum(deep @ w[f"mlp/dense_{i}/kernel"] + w[f"mlp/dense_{i}/bias"], 0)
    expected = np.concatenate([*fields, *pooled, deep], axis=1)
    np.testing.assert_allclose(layer(*arguments), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"cin_units": ()}, {"mlp_units": ()}, {"pooling": "target"}, {"dropout": 0.3, "head_units": (4,)}],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(XDeepFM, {**SMALL, **options}, arguments)


def test_the_defaults_are_those_of_the_paper():
    m = 39
    parts = {p.name: p.parameters for p in XDeepFM().count(Widths({"user": (10,) * m, "item": (), "context": ()}, {}))}
    assert parts["compressed interaction"] == 200 * m * m + 2 * 200 * 200 * m
    assert parts["MLP"] == 10 * m * 400 + 400 + 400 * 400 + 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"cin_units": (4, 0)}, r"`cin_units` must all be at least 1, received \(4, 0\)"),
        ({"dropout": 1.0}, "`dropout` must be below 1, received 1.0"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        XDeepFM(**{**SMALL, **options})
