"""AutoDis against its formula, number by number."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.tokens import AutoDis

NUMBERS = np.array([[-2.0], [0.0], [0.5], [3.0]], "float32")
GONE = np.array([[0.0], [1.0], [0.0], [0.0]], "float32")


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("missing", [False, True])
def test_a_number_is_the_mean_of_meta_embeddings_as_the_formula_says(missing, temperature, check_layer, arrays):
    x = np.concatenate([GONE, NUMBERS], axis=1) if missing else NUMBERS
    options = {"dim": 3, "buckets": 5, "temperature": temperature, "skip": 0.4}
    layer = check_layer(AutoDis, options, x, parameters=5 + 25 + 15 + 3 * missing)
    (part,) = layer.parts()
    assert part.parameters == layer.count_params() and part.flops == 2 * (25 + 15)
    w = {name: each.astype("float64") for name, each in arrays(layer).items()}
    expected = []
    for gone, (number,) in zip(GONE[:, 0], NUMBERS, strict=True):
        h = number * w["scale"]
        h = np.where(h > 0, h, 0.2 * h)
        z = np.exp((h @ w["kernel"] + 0.4 * h) / temperature)
        expected.append(w["missing"] if missing and gone else z / z.sum() @ w["meta_embeddings"])
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-6)


def test_a_low_temperature_leaves_one_meta_embedding():
    layer = AutoDis(dim=2, buckets=4, temperature=1e-4)
    found = np.array(layer(np.array([[2.0]], "float32")))[0]
    assert np.abs(np.array(layer.meta) - found).max(axis=1).min() < 1e-6


def test_numbers_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"`x` of spent must be \(batch, 1\) or \(batch, 2\), received \(4, 3\)"):
        AutoDis(dim=2, name="spent")(np.zeros((4, 3), "float32"))
