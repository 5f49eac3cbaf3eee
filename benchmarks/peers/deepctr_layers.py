"""What layers of DeepCTR give with weights that follow from a formula; `tests/layers/test_peers_outputs.py` holds them.

    .peers/deepctr/bin/python benchmarks/peers/deepctr_layers.py

in the environment that `run.py` builds. Array number `at` of a shape is `.5 sin(.7 i + at)` over its elements i. Where
DeepCTR and mixrank hold a matrix in different orientations, the layer here gets the transpose.
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
from deepctr.layers.core import DNN
from deepctr.layers.interaction import CIN, FM, CrossNet, CrossNetMix, InteractingLayer
from deepctr.layers.sequence import AttentionSequencePoolingLayer


def array(at: int, *shape: int) -> np.ndarray:
    return (0.5 * np.sin(0.7 * np.arange(np.prod(shape)) + at)).astype("float32").reshape(shape)


def crosses() -> np.ndarray:
    """Two full crosses."""
    x, layer = array(1, 3, 4), CrossNet(layer_num=2, parameterization="matrix")
    layer(x)
    layer.set_weights([array(2, 4, 4).T, array(3, 4, 4).T, array(4, 4, 1), array(5, 4, 1)])
    return layer(x)


def mixture() -> np.ndarray:
    """One cross of two experts of rank 3."""
    x, layer = array(1, 3, 4), CrossNetMix(low_rank=3, num_experts=2, layer_num=1)
    layer(x)
    up, down, inner, bias, gates = array(2, 2, 3, 4), array(3, 2, 4, 3), array(4, 2, 3, 3), array(5, 4), array(6, 4, 2)
    layer.U_list[0].assign(up.transpose(0, 2, 1))
    layer.V_list[0].assign(down)
    layer.C_list[0].assign(inner.transpose(0, 2, 1))
    layer.bias[0].assign(bias[:, None])
    for dense, gate in zip(layer.gating, gates.T, strict=True):
        dense.set_weights([gate[:, None]])
    return layer(x)


def machine() -> np.ndarray:
    """A factorization machine of four vectors."""
    return FM()(array(1, 3, 4, 5))


def compressed() -> np.ndarray:
    """Two compressed interactions, of three vectors and then of two, without activations; sums over the width."""
    x, layer = array(1, 3, 4, 5), CIN(layer_size=(3, 2), activation="linear", split_half=False)
    layer(x)
    # Pairs are numbered by the field first, where mixrank has the vector of the layer before first.
    filters = [array(2, 16, 3), array(3, 12, 2)]
    filters = [f.reshape(-1, 4, f.shape[1]).transpose(1, 0, 2).reshape(1, *f.shape) for f in filters]
    layer.set_weights([filters[0], np.zeros(3), filters[1], np.zeros(2)])
    return layer(x)


def interacting() -> np.ndarray:
    """Self-attention among three fields with two heads of width 2."""
    x, layer = array(1, 2, 3, 4), InteractingLayer(att_embedding_size=2, head_num=2)
    layer(x)
    layer.set_weights([array(at, 4, 4) for at in (2, 3, 1, 7)])
    return layer(x)


def attention() -> np.ndarray:
    """Target attention to histories of 0, 1 and 4 of four events; its net also reads query minus event."""
    layer = AttentionSequencePoolingLayer(att_hidden_units=(6,), att_activation="relu")
    given = [array(1, 3, 1, 2), array(2, 3, 4, 2), np.array([[0], [1], [4]])]
    layer(given)
    unit = layer.local_att
    unit.dnn.set_weights([array(3, 8, 6), array(4, 6)])
    unit.kernel.assign(array(5, 6, 1))
    unit.bias.assign(array(6, 1))
    return layer(given)[:, 0]


def mlp() -> np.ndarray:
    """Layers of width 5 and 3."""
    x, layer = array(1, 3, 4), DNN((5, 3))
    layer(x)
    layer.set_weights([array(2, 4, 5), array(3, 5, 3), array(4, 5), array(1, 3)])
    return layer(x)


if __name__ == "__main__":
    for case in (crosses, mixture, machine, compressed, interacting, attention, mlp):
        print(f'"{case.__name__}": {json.dumps(np.array(case(), "float64").round(6).tolist())},')
