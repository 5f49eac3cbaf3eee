"""DLRM: its equations, its switches, and specs with and without numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.models.dlrm import DLRM

SMALL = {"dim": 3, "bottom_units": (7, 5), "top_units": (8, 6)}


@pytest.fixture
def with_numbers(arguments):
    """The arguments with three numbers, in two groups, between the vectors."""
    features, histories, scenario = arguments
    a, b, c = np.random.default_rng(9).normal(size=(3, 4, 1)).astype("float32")
    user, item = [a, *features["user"], b], [features["item"][0], c, *features["item"][1:]]
    return {**features, "user": user, "item": item}, histories, scenario


def _mlp(w, name, x):
    for i in range(sum(path.startswith(f"{name}/") for path in w) // 2):
        x = np.maximum(x @ w[f"{name}/dense_{i}/kernel"] + w[f"{name}/dense_{i}/bias"], 0)
    return x


def _numpy_dlrm(w, fields):
    """The representation, pair by pair. `w` holds the projections of fields of one width stacked in their order."""
    numbers = [x for x in fields if x.shape[1] == 1]
    used: dict[int, int] = {}
    vectors = [_mlp(w, "bottom", np.concatenate(numbers, axis=1))] if numbers else []
    for x in fields:
        width = x.shape[1]
        if width > 1:
            index = used[width] = used.get(width, -1) + 1
            name = f"project/width_{width}_0"
            vectors.append(x @ w[f"{name}/kernel"][index] + w[f"{name}/bias"][index, 0])
    pairs = [(vectors[i] * vectors[j]).sum(axis=1) for i in range(len(vectors)) for j in range(i)]
    z0 = vectors[:1] if numbers else []
    return _mlp(w, "top", np.concatenate([*z0, np.stack(pairs, axis=1)], axis=1))


@pytest.mark.parametrize("numbers", [True, False])
def test_the_representation_follows_the_equations(
    numbers, arguments, with_numbers, check_backbone, arrays, mean_fields
):
    features, histories, scenario = with_numbers if numbers else arguments
    # Two fields of one width share a stacked projection, and a number of width 1 must not join them.
    features = {**features, "context": [*features["context"], features["user"][numbers] * 2]}
    layer = check_backbone(DLRM, SMALL, (features, histories, scenario))
    expected = _numpy_dlrm(arrays(layer), mean_fields(features, histories))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(features, histories, scenario), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bottom_units": ()},
        {"top_units": ()},
        {"pooling": "target"},
        {"dropout": 0.3, "head_units": (4,)},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, with_numbers, check_backbone):
    # A ReLU of width 3 that happens to be off for the whole batch would hide a gradient.
    check_backbone(DLRM, {**SMALL, "dim": 9, **options}, with_numbers)


def test_every_pair_of_vectors_meets_once():
    widths = Widths({"user": (5, 1), "item": (4, 3), "context": (2, 1)}, {"before": (7, 6), "within": (3, 9)})
    # z_0, four features and two histories.
    assert DLRM(**{**SMALL, "top_units": ()}).width(widths) == 3 + 7 * 6 // 2


def test_a_spec_without_numbers_has_no_bottom_mlp(arguments):
    layer = DLRM(**SMALL)
    layer(*arguments)
    assert not any("bottom" in v.path for v in layer.weights)
    assert "bottom MLP" not in [part.name for part in layer.parts()]


def test_dropout_acts_in_training_only(with_numbers):
    layer = DLRM(**{**SMALL, "top_units": (50,), "dropout": 0.5})
    plain = np.array(layer(*with_numbers))
    np.testing.assert_array_equal(layer(*with_numbers), plain)
    assert np.abs(np.array(layer(*with_numbers, training=True)) - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"bottom_units": (5, 0)}, r"`bottom_units` must all be at least 1, received \(5, 0\)"),
        ({"top_units": (-1,)}, r"`top_units` must all be at least 1, received \(-1,\)"),
        ({"dropout": 1.0}, "`dropout` must be below 1, received 1.0"),
        ({"pooling": "max"}, "`pooling` must be mean or target, received 'max'"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DLRM(**{**SMALL, **options})


@pytest.mark.parametrize(("user", "vectors", "numbers"), [(1, 0, 1), (4, 1, 0)])
def test_a_single_vector_is_refused(user, vectors, numbers):
    features = {"user": [np.ones((2, user), "float32")], "item": [], "context": []}
    message = f"pairs of vectors, but the spec gives {vectors} wider than 1 and {numbers} numbers; declare more"
    with pytest.raises(ValueError, match=message):
        DLRM(**SMALL)(features, {}, np.array([1, 1]))
