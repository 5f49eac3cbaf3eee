"""MaskNet: a block, both forms of the model and its sizes."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.models.masknet import MaskBlock, MaskNet

SMALL = {"dim": 3, "num_blocks": 2, "block_units": 9, "reduction": 1.0, "mlp_units": (8, 5)}
RNG = np.random.default_rng(3)
X, V = (RNG.normal(size=(3, n)).astype("float32") for n in (5, 7))


def _norm(w, name, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}/gamma"] + w[f"{name}/beta"]


def _block(w, name, x, v):
    hidden = np.maximum(v @ w[f"{name}aggregate/kernel"] + w[f"{name}aggregate/bias"], 0)
    mask = hidden @ w[f"{name}mask/kernel"] + w[f"{name}mask/bias"]
    return np.maximum(_norm(w, f"{name}norm", (mask * x) @ w[f"{name}dense/kernel"]), 0)


def test_a_block_follows_its_equations(check_layer, arrays):
    parameters = 7 * 6 + 6 + 6 * 5 + 5 + 5 * 4 + 2 * 4
    layer = check_layer(MaskBlock, {"units": 4, "mask_units": 6}, X, V, parameters=parameters)
    np.testing.assert_allclose(layer(X, V), _block(arrays(layer), "", X.astype("float64"), V), atol=1e-4)


@pytest.mark.parametrize("structure", ["parallel", "serial"])
def test_the_representation_follows_the_equations(structure, arguments, check_backbone, arrays, mean_fields):
    layer = check_backbone(MaskNet, {**SMALL, "structure": structure}, arguments)
    w, fields = arrays(layer), mean_fields(*arguments[:2])
    used: dict[int, int] = {}
    tokens = []
    for x in fields:
        index = used[x.shape[1]] = used.get(x.shape[1], -1) + 1
        name = f"project/width_{x.shape[1]}_0"
        tokens.append(x @ w[f"{name}/kernel"][index] + w[f"{name}/bias"][index, 0])
    v = np.stack(tokens, axis=1)
    x, v = _norm(w, "norm", v).reshape(4, -1), v.reshape(4, -1)
    if structure == "serial":
        for i in range(2):
            x = _block(w, f"block_{i}/", x, v)
    else:
        x = np.concatenate([_block(w, f"block_{i}/", x, v) for i in range(2)], axis=1)
        for i in range(2):
            x = np.maximum(x @ w[f"mlp/dense_{i}/kernel"] + w[f"mlp/dense_{i}/bias"], 0)
    assert x.shape == (4, 9 if structure == "serial" else 5)
    np.testing.assert_allclose(layer(*arguments), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"num_blocks": 1}, {"mlp_units": ()}, {"pooling": "target"}, {"dropout": 0.3, "head_units": (4,)}],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(MaskNet, {**SMALL, **options}, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 0}, "`num_blocks` must be at least 1, received 0"),
        ({"reduction": 0.0}, "`reduction` must be above 0, received 0.0"),
        ({"structure": "both"}, "`structure` must be parallel or serial, received 'both'"),
        ({"mlp_units": (0,)}, r"`mlp_units` must all be at least 1, received \(0,\)"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MaskNet(**{**SMALL, **options})
