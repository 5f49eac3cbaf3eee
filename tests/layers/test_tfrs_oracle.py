"""TensorFlow Recommenders' dot interaction and cross layers, with the same weights, give what ours give."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from mixrank.layers.mixing import Cross
from mixrank.layers.models.dlrm import DotInteraction

pytestmark = pytest.mark.slow

BATCH, VECTORS, DIM, RANK = 3, 5, 4, 2
# Legacy Keras must be chosen before TensorFlow is imported, so the oracle answers from a process of its own.
ORACLE = """
import sys
import numpy as np
import tensorflow as tf
from tensorflow_recommenders.layers.feature_interaction import Cross, DotInteraction

given = dict(np.load(sys.argv[1]))
vectors = [tf.constant(v) for v in given["tokens"].transpose(1, 0, 2)]
answers = {"dot": DotInteraction()(vectors)}
for rank in (0, given["down"].shape[1]):
    layer = Cross(projection_dim=rank or None)
    layer(given["x0"], given["x"])
    weights = [given["down"], given["up"]] if rank else [given["full"]]
    layer.set_weights([*weights, given["bias"]])
    answers[f"cross_{rank}"] = layer(given["x0"], given["x"])
np.savez(sys.argv[2], **{name: answer.numpy() for name, answer in answers.items()})
"""


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"tokens": (BATCH, VECTORS, DIM), "x0": (BATCH, DIM), "x": (BATCH, DIM)}
    shapes |= {"full": (DIM, DIM), "down": (DIM, RANK), "up": (RANK, DIM), "bias": (DIM,)}
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def oracle(given, tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("oracle")
    np.savez(folder / "given.npz", **given)
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(folder / "given.npz"), str(folder / "answers.npz")],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "answers.npz"))


def test_dot_products_are_those_of_tensorflow_recommenders(given, oracle):
    expected = oracle["dot"]
    assert expected.shape == (BATCH, VECTORS * (VECTORS - 1) // 2)
    found = DotInteraction()(given["tokens"])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [None, RANK])
def test_crosses_are_those_of_tensorflow_recommenders(given, oracle, rank):
    layer = Cross(rank=rank)
    layer(given["x0"], given["x"])
    if rank is None:
        layer.cross.set_weights([given["full"], given["bias"]])
    else:
        layer.project.set_weights([given["down"]])
        layer.cross.set_weights([given["up"], given["bias"]])
    found = layer(given["x0"], given["x"])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), oracle[f"cross_{rank or 0}"], rtol=1e-5, atol=1e-6)
