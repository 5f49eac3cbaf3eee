"""DCN-V2: its three crosses, both structures and its sizes."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.models.dcnv2 import DCNv2
from mixrank.layers.registry import presets

SMALL = {"num_layers": 2, "rank": 3, "num_experts": 4, "mlp_units": (8, 5)}
# 5 + 4 + 3 + 2 wide features, histories of 6 and 9.
WIDTH = 29


def _cross(w, name, cross, x0, x):
    if cross == "full":
        return x0 * (x @ w[f"{name}/cross/kernel"] + w[f"{name}/cross/bias"]) + x
    if cross == "low_rank":
        return x0 * (x @ (w[f"{name}/project/kernel"] @ w[f"{name}/cross/kernel"]) + w[f"{name}/cross/bias"]) + x
    scores = np.exp(x @ w[f"{name}/gate/kernel"])
    result = x.copy()
    for i, gate in enumerate((scores / scores.sum(axis=1, keepdims=True)).T):
        inner = np.tanh(np.tanh(x @ w[f"{name}/down/kernel"][i]) @ w[f"{name}/inner/kernel"][i])
        result += gate[:, None] * (x0 * (inner @ w[f"{name}/up/kernel"][i] + w[f"{name}/bias"]))
    return result


def _numpy_dcnv2(w, fields, cross, structure):
    x = x0 = np.concatenate(fields, axis=1)
    for layer in range(2):
        x = _cross(w, f"cross_{layer}", cross, x0, x)
    deep = x if structure == "stacked" else x0
    for i in range(2):
        deep = np.maximum(deep @ w[f"mlp/dense_{i}/kernel"] + w[f"mlp/dense_{i}/bias"], 0)
    return deep if structure == "stacked" else np.concatenate([x, deep], axis=1)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("cross", ["full", "low_rank", "mixture"])
def test_the_representation_follows_the_equations(cross, structure, arguments, check_backbone, arrays, mean_fields):
    layer = check_backbone(DCNv2, {**SMALL, "cross": cross, "structure": structure}, arguments)
    expected = _numpy_dcnv2(arrays(layer), mean_fields(*arguments[:2]), cross, structure)
    assert expected.shape[1] == 5 + (WIDTH if structure == "parallel" else 0) and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 0},
        {"mlp_units": ()},
        {"mlp_units": (), "structure": "stacked"},
        {"num_layers": 1, "pooling": "target"},
        {"dropout": 0.3, "head_units": (4,)},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(DCNv2, {**SMALL, **options}, arguments)


def test_without_mlp_both_structures_are_the_crosses(arguments, randomize):
    both = [DCNv2(**{**SMALL, "mlp_units": (), "structure": structure}) for structure in ("parallel", "stacked")]
    outputs = []
    for layer in both:
        layer(*arguments)
        randomize(layer)
        outputs.append(np.array(layer(*arguments)))
    assert outputs[0].shape == (4, WIDTH)
    np.testing.assert_array_equal(*outputs)


def test_crosses_multiply_one_feature_more_per_layer(arguments):
    """Along a ray through the input, L layers without biases are a polynomial of degree L + 1."""
    features, _, scenario = arguments
    layer = DCNv2(num_layers=2, mlp_units=())

    def along(t):
        scaled = {group: [t * vector for vector in vectors] for group, vectors in features.items()}
        return np.array(layer(scaled, {}, scenario), "float64")

    values = np.stack([along(np.float32(t)) for t in range(6)])
    third, fourth = np.diff(values, n=3, axis=0), np.diff(values, n=4, axis=0)
    assert np.abs(third).max() > 1
    np.testing.assert_allclose(fourth, 0, atol=1e-3)


def test_small_has_the_sizes_of_the_benchmark():
    # 39 fields of width 40.
    d = 39 * 40
    widths = Widths({"user": (40,) * 39, "item": (), "context": ()}, {})
    parts = {part.name: part.parameters for part in DCNv2(**presets("dcnv2")["small"]).count(widths)}
    assert parts == {"cross layers": 3 * (d * d + d), "MLP": d * 500 + 500 + 2 * (500 * 500 + 500)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": -1}, "`num_layers` must be at least 0, received -1"),
        ({"rank": 0}, "`rank` must be at least 1, received 0"),
        ({"num_experts": 0}, "`num_experts` must be at least 1, received 0"),
        ({"cross": "vector"}, "`cross` must be full, low_rank or mixture, received 'vector'"),
        ({"structure": "beside"}, "`structure` must be parallel or stacked, received 'beside'"),
        ({"mlp_units": (0,)}, r"`mlp_units` must all be at least 1, received \(0,\)"),
        ({"dropout": -0.1}, "`dropout` must be at least 0, received -0.1"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DCNv2(**{**SMALL, **options})
