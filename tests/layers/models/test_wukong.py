"""WuKong: its equations, the cheaper order of products, and its options."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.mixing import FactorizationBlock, TokenProjection
from mixrank.layers.models.wukong import Wukong

SMALL = {
    "dim": 4,
    "num_layers": 3,
    "num_fm": 3,
    "num_linear": 2,
    "rank": 7,
    "mlp_units": (8, 9),
    "head_units": (6,),
}


def _norm(x, gain, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * gain + bias


def _mlp(w, hidden, output, x):
    for index in range(2):
        x = np.maximum(x @ w[f"{hidden}/dense_{index}/kernel"] + w[f"{hidden}/dense_{index}/bias"], 0)
    return x @ w[f"{output}/kernel"] + w[f"{output}/bias"]


def _numpy_layer(w, x):
    n, d = x.shape
    fm = {name.split("/", 1)[1]: value for name, value in w.items() if name.startswith("factorization/")}
    if "project/project/kernel" in fm:
        y = fm["project/project/kernel"]
    else:
        compressed = fm["compress/project/kernel"].T @ x
        y = _mlp(fm, "attend_hidden", "attend_output", compressed.reshape(-1)).reshape(n, -1)
    # All pairwise products, as the equation has them.
    products = (x @ x.T) @ y
    found = _mlp(fm, "hidden", "expand", _norm(products.reshape(-1), fm["norm/gamma"], fm["norm/beta"]))
    linear = w["linear/project/kernel"].T @ x
    residual = w["residual/project/kernel"].T @ x if "residual/project/kernel" in w else x
    return _norm(np.concatenate([found.reshape(-1, d), linear]) + residual, w["norm/gamma"], w["norm/beta"])


@pytest.mark.parametrize("options", [{}, {"attentive": True}], ids=str)
def test_the_representation_follows_the_equations(options, arguments, randomize):
    layer = Wukong(**{**SMALL, **options})
    layer(*arguments)
    randomize(layer, scale=0.4)
    w = {v.path.removeprefix(f"{layer.name}/"): np.array(v, "float64") for v in layer.weights}
    tokens = np.array(layer.tokenizer(layer.fields(*arguments[:2])), "float64")
    rows = []
    for x in tokens:
        for index in range(3):
            x = _numpy_layer(
                {name.split("/", 1)[1]: value for name, value in w.items() if name.startswith(f"layer_{index}/")}, x
            )
        rows.append(x.reshape(-1))
    assert np.std(rows) > 0.1
    np.testing.assert_allclose(layer(*arguments), np.stack(rows), atol=1e-5)
    # 6 fields become 5 tokens in the first layer; the others need no projection.
    assert [layer.residual is None for layer in layer.layers] == [False, True, True]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 3 * 2 + 2 * 6 + 6 * 7 + 7 + 7 * 20 + 20),
        ({"units": ()}, 3 * 2 + 2 * 6 + 6 * 20 + 20),
        ({"attentive": True}, 3 * 2 + (8 * 7 + 7 + 7 * 6 + 6) + 2 * 6 + 6 * 7 + 7 + 7 * 20 + 20),
    ],
    ids=str,
)
def test_the_factorization_block_is_a_well_behaved_layer(options, parameters, check_layer):
    x = np.random.default_rng(3).normal(size=(6, 3, 4)).astype("float32")
    check_layer(FactorizationBlock, {"tokens": 5, "rank": 2, "units": (7,), **options}, x, parameters=parameters)


def test_the_cheap_order_of_products_gives_all_pairwise_products(randomize):
    x = np.random.default_rng(3).normal(size=(6, 3, 4)).astype("float32")
    layer = FactorizationBlock(tokens=5, rank=2)
    layer(x)
    randomize(layer)
    y = np.array(layer.project.project.kernel)
    pairs = np.einsum("bnd,bmd->bnm", x, x)
    np.testing.assert_allclose(layer.interactions(x), np.einsum("bnm,mk->bnk", pairs, y), atol=1e-5)


def test_linear_compression_mixes_tokens_and_no_channels(check_layer):
    x = np.random.default_rng(3).normal(size=(2, 3, 4)).astype("float32")
    layer = check_layer(TokenProjection, {"tokens": 5}, x, parameters=3 * 5)
    np.testing.assert_allclose(layer(x), np.einsum("bnd,nm->bmd", x, np.array(layer.project.kernel)), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 1},
        {"num_fm": 4},
        {"mlp_units": ()},
        {"attentive": True},
        {"pooling": "target"},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_learns_and_comes_back_from_its_config(options, arguments, check_backbone):
    check_backbone(Wukong, {**SMALL, **options}, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, received 0"),
        ({"rank": 0}, "`rank` must be at least 1, received 0"),
        ({"mlp_units": (8, 0)}, r"`mlp_units` must all be at least 1, received \(8, 0\)"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Wukong(**{**SMALL, **options})
