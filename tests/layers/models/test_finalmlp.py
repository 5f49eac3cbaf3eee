"""FinalMLP: the bilinear fusion, gates and both streams."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.models.finalmlp import BilinearFusion, FinalMLP

SMALL = {"first_units": (7, 4), "second_units": (6,), "gate_units": (3,), "fusion_heads": 2}
RNG = np.random.default_rng(3)
A, B = (RNG.normal(size=(3, n)).astype("float32") for n in (4, 6))


def _fuse(kernel, first, second):
    """Piece by piece; kernel (heads, width 1 / heads, width 2 / heads)."""
    heads = len(kernel)
    pieces = zip(np.split(first, heads, axis=1), np.split(second, heads, axis=1), kernel, strict=True)
    return np.concatenate([first, second, *((a @ w) * b for a, b, w in pieces)], axis=1)


def test_the_fusion_follows_its_equations(check_layer, arrays):
    layer = check_layer(BilinearFusion, {"heads": 2}, A, B, parameters=2 * 2 * 3)
    np.testing.assert_allclose(layer(A, B), _fuse(arrays(layer)["bilinear/kernel"], A, B), atol=1e-5)


@pytest.mark.parametrize("gates", [True, False])
def test_the_representation_follows_the_equations(gates, arguments, check_backbone, arrays, mean_fields):
    layer = check_backbone(FinalMLP, {**SMALL, "gates": gates}, arguments)
    w, features = arrays(layer), arguments[0]
    x = np.concatenate(mean_fields(*arguments[:2]), axis=1)
    read = [np.concatenate([*features["user"], *features["context"]], axis=1), np.concatenate(features["item"], axis=1)]
    streams = []
    for i, depth in enumerate((2, 1)):
        out = x
        if gates:
            path = f"gate_hidden_{i}/dense_0"
            hidden = np.maximum(read[i] @ w[f"{path}/kernel"] + w[f"{path}/bias"], 0)
            out = x * 2 / (1 + np.exp(-(hidden @ w[f"gate_{i}/kernel"] + w[f"gate_{i}/bias"])))
        for j in range(depth):
            out = np.maximum(out @ w[f"stream_{i}/dense_{j}/kernel"] + w[f"stream_{i}/dense_{j}/bias"], 0)
        streams.append(out)
    expected = _fuse(w["fusion/bilinear/kernel"], *streams)
    np.testing.assert_allclose(layer(*arguments), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"gate_units": ()}, {"fusion_heads": 1}, {"pooling": "target"}, {"dropout": 0.3, "head_units": (4,)}],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(FinalMLP, {**SMALL, **options}, arguments)


def test_a_side_without_features_has_no_gate(arguments):
    features, histories, scenario = arguments
    layer = FinalMLP(**SMALL)
    layer({**features, "item": []}, histories, scenario)
    assert [gate is not None for gate in layer.gated] == [True, False]
    assert sum(part.parameters for part in layer.parts()) == layer.count_params()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_units": ()}, r"`first_units` must be at least 1 long, received \(\)"),
        ({"fusion_heads": 3}, "`fusion_heads` must divide the last of `first_units`, 4, received 3"),
        ({"dropout": -0.1}, "`dropout` must be at least 0, received -0.1"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FinalMLP(**{**SMALL, **options})
