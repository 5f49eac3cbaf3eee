"""Layers with weights that follow from a formula give what DeepCTR's layers give with the same weights.

`benchmarks/peers/deepctr_layers.py` prints `DEEPCTR`, from DeepCTR 0.9.4.
"""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops

from mixrank.layers.mixing import MLP, Cross, CrossMixture
from mixrank.layers.models.autoint import InteractingLayer
from mixrank.layers.models.deepfm import FactorizationMachine
from mixrank.layers.models.xdeepfm import CompressedInteraction
from mixrank.layers.tokens import TargetAttention

DEEPCTR = {
    "crosses": [
        [0.111572, 0.118908, 0.193173, 0.022982],
        [-0.040294, -0.131685, -0.331622, -0.252233],
        [0.005111, 0.048235, 0.30226, 0.428129],
    ],
    "mixture": [
        [0.218446, 0.357805, 0.356298, 0.028326],
        [-0.159701, -0.355015, -0.467959, -0.255075],
        [0.080842, 0.308058, 0.524136, 0.453013],
    ],
    "machine": [[-1.212834], [-1.024324], [-1.174815]],
    "compressed": [
        [-0.599684, -0.302755, 0.136565, 0.028323, -0.000291],
        [-0.302377, -0.066954, 0.199958, -0.134791, -0.181844],
        [-0.580391, -0.33772, 0.063786, -0.061157, -0.040891],
    ],
    "interacting": [
        [[0.070932, 0.111365, 0.099571, 0.040632], [0.0, 0.0, 0.0, 0.000562], [0.046739, 0.004702, 0.0, 0.0]],
        [[0.002859, 0.106127, 0.156979, 0.136184], [0.007625, 0.0, 0.0, 0.0], [0.042784, 0.190606, 0.245953, 0.188076]],
    ],
    "attention": [[0.0, 0.0], [0.084568, 0.078824], [0.305311, 0.1494]],
    "mlp": [[0.352627, 0.46252, 0.354883], [0.285111, 0.429498, 0.371885], [0.303291, 0.43839, 0.367307]],
}


def array(at: int, *shape: int) -> np.ndarray:
    """`.5 sin(.7 i + at)` over the elements i."""
    return (0.5 * np.sin(0.7 * np.arange(np.prod(shape)) + at)).astype("float32").reshape(shape)


def _with(layer, weights, *inputs):
    """The layer with its weights, by their paths below it."""
    layer(*inputs)
    known = {v.path.removeprefix(f"{layer.name}/"): v for v in layer.weights}
    assert set(known) == set(weights)
    for path, value in weights.items():
        known[path].assign(value)
    return layer


def crosses():
    x0 = x = array(1, 3, 4)
    for at in (2, 3):
        x = _with(Cross(), {"cross/kernel": array(at, 4, 4), "cross/bias": array(at + 2, 4)}, x0, x)(x0, x)
    return x


def mixture():
    x = array(1, 3, 4)
    weights = {
        "up/kernel": array(2, 2, 3, 4),
        "down/kernel": array(3, 2, 4, 3),
        "inner/kernel": array(4, 2, 3, 3),
        "bias": array(5, 4),
        "gate/kernel": array(6, 4, 2),
    }
    return _with(CrossMixture(rank=3, experts=2), weights, x, x)(x, x)


def machine():
    return ops.sum(FactorizationMachine()(array(1, 3, 4, 5)), axis=-1, keepdims=True)


def compressed():
    x0 = x = array(1, 3, 4, 5)
    sums = []
    for at, shape in ((2, (16, 3)), (3, (12, 2))):
        layer = _with(CompressedInteraction(units=shape[1]), {"mix/kernel": array(at, *shape)}, x, x0)
        x = layer(x, x0)
        sums.append(ops.sum(x, axis=-1))
    return ops.concatenate(sums, axis=-1)


def interacting():
    x = array(1, 2, 3, 4)
    weights = dict(zip(("query", "key", "value", "shortcut"), (2, 3, 1, 7), strict=True))
    weights = {f"{name}/kernel": array(at, 4, 4) for name, at in weights.items()}
    return _with(InteractingLayer(dim=4, heads=2), weights, x)(x)


def attention():
    query, items, kernel = array(1, 3, 2), array(2, 3, 4, 2), array(3, 8, 6)
    valid = np.arange(4) < np.array([[0], [1], [4]])
    # What DeepCTR's net takes from query minus event is in ours a part of what it takes from each.
    of_query, of_item, of_difference, of_product = np.split(kernel, 4)
    weights = {
        "query/kernel": np.eye(2),
        "query/bias": np.zeros(2),
        "hidden_0/kernel": np.concatenate([of_query + of_difference, of_item - of_difference, of_product]),
        "hidden_0/bias": array(4, 6),
        "weight/kernel": array(5, 6, 1),
        "weight/bias": array(6, 1),
    }
    return _with(TargetAttention(units=(6,)), weights, items, valid, query)(items, valid, query)


def mlp():
    x, kernels, biases = array(1, 3, 4), (array(2, 4, 5), array(3, 5, 3)), (array(4, 5), array(1, 3))
    weights = {f"dense_{i}/kernel": kernel for i, kernel in enumerate(kernels)}
    weights |= {f"dense_{i}/bias": bias for i, bias in enumerate(biases)}
    return _with(MLP(units=(5, 3)), weights, x)(x)


@pytest.mark.parametrize(
    "case", [crosses, mixture, machine, compressed, interacting, attention, mlp], ids=lambda case: case.__name__
)
def test_equal_weights_give_what_deepctr_gives(case):
    expected = np.array(DEEPCTR[case.__name__])
    assert np.mean(np.abs(expected) > 1e-3) >= 0.5
    np.testing.assert_allclose(case(), expected, atol=2e-6)


def test_every_stored_output_is_compared():
    assert set(DEEPCTR) == {"crosses", "mixture", "machine", "compressed", "interacting", "attention", "mlp"}
