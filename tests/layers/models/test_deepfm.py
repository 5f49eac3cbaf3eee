"""DeepFM: the factorization machine, and the three sides together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.models.deepfm import DeepFM, FactorizationMachine

SMALL = {"dim": 3, "mlp_units": (8, 5)}
X = np.random.default_rng(3).normal(size=(2, 4, 3)).astype("float32")


def test_the_machine_is_the_sum_over_all_pairs(check_layer):
    layer = check_layer(FactorizationMachine, {}, X, parameters=0)
    expected = [sum(a * b for a, b in itertools.combinations(row.astype("float64"), 2)) for row in X]
    np.testing.assert_allclose(layer(X), expected, atol=1e-5)


def tokens_of(w, fields, name="project"):
    """Every field by its own linear map; fields of one width share a stack of kernels."""
    used: dict[int, int] = {}
    found = []
    for x in fields:
        index = used[x.shape[1]] = used.get(x.shape[1], -1) + 1
        path = f"{name}/width_{x.shape[1]}_0"
        found.append(x @ w[f"{path}/kernel"][index] + w[f"{path}/bias"][index, 0])
    return np.stack(found, axis=1)


@pytest.mark.parametrize("units", [(8, 5), ()])
def test_the_representation_follows_the_equations(units, arguments, check_backbone, arrays, mean_fields):
    layer = check_backbone(DeepFM, {**SMALL, "mlp_units": units}, arguments)
    w, fields = arrays(layer), mean_fields(*arguments[:2])
    v = tokens_of(w, fields)
    second = [sum(float(a @ b) for a, b in itertools.combinations(row, 2)) for row in v]
    parts = [*fields, np.array(second)[:, None]]
    if units:
        deep = v.reshape(4, -1)
        for i in range(2):
            deep = np.maximum(deep @ w[f"mlp/dense_{i}/kernel"] + w[f"mlp/dense_{i}/bias"], 0)
        parts.append(deep)
    np.testing.assert_allclose(layer(*arguments), np.concatenate(parts, axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"pooling": "target"}, {"dropout": 0.3, "head_units": (4,)}], ids=str)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(DeepFM, {**SMALL, **options}, arguments)


def test_the_defaults_are_those_of_the_paper():
    parts = {p.name: p.parameters for p in DeepFM().count(Widths({"user": (10,) * 39, "item": (), "context": ()}, {}))}
    assert parts == {"projection": 39 * 110, "MLP": 390 * 400 + 400 + 2 * (400 * 400 + 400)}


def test_one_field_has_no_pairs(arguments):
    features, _, scenario = arguments
    with pytest.raises(ValueError, match="deepfm multiplies pairs of fields, but the spec gives 1; declare more"):
        DeepFM(**SMALL)({"user": features["user"], "item": [], "context": []}, {}, scenario)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"mlp_units": (0,)}, r"`mlp_units` must all be at least 1, received \(0,\)"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DeepFM(**{**SMALL, **options})
