"""DIN: histories that the candidate weighs."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.models.din import DIN


def _numpy_din(w, features, histories):
    candidate = np.concatenate(features["item"], axis=1)
    found = [np.concatenate([v for group in ("user", "item", "context") for v in features[group]], axis=1)]
    for window in ("before", "within"):
        path = f"pool_{window}"
        items, mask = histories[window]["items"].astype("float64"), histories[window]["mask"]
        q = candidate @ w[f"{path}/query/kernel"] + w[f"{path}/query/bias"]
        pooled = np.zeros_like(q)
        for row in range(len(q)):
            for t in np.flatnonzero(mask[row]):
                e = items[row, t]
                x = np.concatenate([q[row], e, q[row] * e])
                x = np.maximum(x @ w[f"{path}/hidden_0/kernel"] + w[f"{path}/hidden_0/bias"], 0)
                pooled[row] += (x @ w[f"{path}/weight/kernel"] + w[f"{path}/weight/bias"]) * e
        found.append(pooled)
    x = np.concatenate(found, axis=1)
    for i in range(2):
        x = np.maximum(x @ w[f"mlp/dense_{i}/kernel"] + w[f"mlp/dense_{i}/bias"], 0)
    return x


def test_the_representation_follows_the_equations(arguments, check_backbone, arrays):
    layer = check_backbone(DIN, {"mlp_units": (8, 5)}, arguments)
    expected = _numpy_din(arrays(layer), *arguments[:2])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"pooling": "mean"}, {"dropout": 0.3, "head_units": (4,)}], ids=str)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(DIN, {"mlp_units": (8, 5), **options}, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlp_units": ()}, r"`mlp_units` must be at least 1 long, received \(\)"),
        ({"pooling": "max"}, "`pooling` must be mean or target, received 'max'"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DIN(**options)
