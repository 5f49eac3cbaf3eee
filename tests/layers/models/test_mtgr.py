"""MTGR: its equations over one sequence, what sees what, and the request computed once."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.models.mtgr import MTGR, GroupLayerNorm
from mixrank.layers.models.mtgr.silu_attention import SiluAttentionBlock, visible_keys

SMALL = {"dim": 8, "num_layers": 3, "attention_heads": 2, "token_units": (5,), "head_units": (6,)}
# Fields of user and context, long-term and real-time items, the candidate; as in the fixture `arguments`.
GROUPS = ("fields",) * 2 + ("before",) * 7 + ("within",) * 3 + ("candidate",)


def _norm(x, gain, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * gain + bias


def _silu(x):
    return x / (1 + np.exp(-x))


def _sees(i, j, dynamic):
    """Whether token i sees token j, word by word."""
    if GROUPS[j] == "candidate":
        return i == j
    if GROUPS[j] == "within" and dynamic and GROUPS[i] != "candidate":
        # Newest first: what comes later in the list is older.
        return GROUPS[i] == "within" and j >= i
    return True


def _group_norm(w, prefix, x, grouped):
    if not grouped:
        return _norm(x, w[f"{prefix}norm/gamma"], w[f"{prefix}norm/beta"])
    names, rows = ("fields", "before", "within"), []
    for group, token in zip(GROUPS, x, strict=True):
        if group == "candidate":
            gain, bias = w[f"candidate_{prefix}norm/gamma"], w[f"candidate_{prefix}norm/beta"]
        elif f"context_{prefix}norm/gain" in w:
            gain, bias = (w[f"context_{prefix}norm/{name}"][names.index(group)] for name in ("gain", "bias"))
        else:
            # The last block has no norm for what nobody reads.
            gain, bias = np.nan, np.nan
        rows.append(_norm(token, gain, bias))
    return np.stack(rows)


def _numpy_block(w, x, valid, *, heads, grouped, dynamic):
    """One block on the whole sequence of a row, with the full mask, token by token."""
    normed = _group_norm(w, "", x, grouped)
    query, gate = np.split(_silu(normed @ w["query_gate/kernel"] + w["query_gate/bias"]), 2, axis=1)
    key, value = np.split(_silu(normed @ w["key_value/kernel"] + w["key_value/bias"]), 2, axis=1)
    found = np.zeros_like(x)
    for head in np.split(np.arange(x.shape[1]), heads):
        for i in range(len(x)):
            for j in range(len(x)):
                if valid[j] and _sees(i, j, dynamic):
                    found[i, head] += _silu(query[i, head] @ key[j, head]) / len(x) * value[j, head]
    return _group_norm(w, "output_", found * gate, grouped) @ w["output/kernel"] + w["output/bias"] + x


def _numpy_mtgr(w, features, histories, scenario, *, grouped, dynamic):
    def token(name, x):
        hidden = np.maximum(x @ w[f"hidden_{name}/dense_0/kernel"] + w[f"hidden_{name}/dense_0/bias"], 0)
        return hidden @ w[f"align_{name}/kernel"] + w[f"align_{name}/bias"]

    rows = []
    for b in range(4):
        items = [histories[name]["items"][b] for name in ("before", "within")]
        candidate = np.concatenate([vector[b] for vector in features["item"]])
        x = np.concatenate(
            [
                w["fields"][b],
                token("before", items[0]),
                token("within", items[1]),
                token("candidate", candidate)[None],
            ]
        )
        valid = np.concatenate([[True] * 2, histories["before"]["mask"][b], histories["within"]["mask"][b], [True]])
        for index in range(3):
            block = {name.split("/", 1)[1]: value for name, value in w.items() if name.startswith(f"block_{index}/")}
            x = _numpy_block(block, x, valid, heads=2, grouped=grouped, dynamic=dynamic)
        rows.append(_norm(x[-1], w["norm/gamma"], w["norm/beta"]))
    return np.stack(rows)


@pytest.mark.parametrize(
    "options", [{}, {"group_norm": False}, {"dynamic_mask": False}], ids=["paper", "one norm", "no mask"]
)
def test_the_representation_follows_the_equations(options, arguments, randomize):
    layer = MTGR(**{**SMALL, **options})
    layer(*arguments)
    randomize(layer, scale=0.5)
    w = {v.path.removeprefix(f"{layer.name}/"): np.array(v, "float64") for v in layer.weights}
    features = arguments[0]
    w["fields"] = np.array(layer.user_tokens([*features["user"], *features["context"]]), "float64")
    expected = _numpy_mtgr(
        w, *arguments, grouped=options.get("group_norm", True), dynamic=options.get("dynamic_mask", True)
    )
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, atol=2e-5)


def test_the_mask_of_a_request_by_hand():
    expected = [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1],
        [1, 1, 0, 1, 1],
        [1, 1, 0, 0, 1],
    ]
    np.testing.assert_array_equal(visible_keys((1, 1, 3), (False, False, True)), expected)
    assert visible_keys((1, 1, 3), (False, False, False)).all()


def _moved(layer, arguments, change):
    """Mask of the context tokens, row by row, that change after the first block."""
    context, valid, candidates = arguments
    block = layer.blocks[0]
    before, _ = block(context, valid, candidates)
    after, _ = block(context + change, valid, candidates)
    return np.abs(np.array(after) - np.array(before)).max(axis=(0, 2)) > 1e-7


def test_an_old_real_time_item_reaches_newer_ones_and_nothing_else(arguments, randomize):
    layer = MTGR(**SMALL)
    layer(*arguments)
    randomize(layer)
    rng = np.random.default_rng(1)
    context, candidates = rng.normal(size=(1, 12, 8)).astype("float32"), rng.normal(size=(1, 8)).astype("float32")
    inputs = (context, np.ones((1, 12), bool), candidates)
    change = np.zeros_like(context)
    # The second of three real-time items: the newest sees it, the oldest does not.
    change[0, 10] = rng.normal(size=8)
    assert np.flatnonzero(_moved(layer, inputs, change)).tolist() == [9, 10]
    change = np.zeros_like(context)
    change[0, 3] = rng.normal(size=8)
    assert _moved(layer, inputs, change).all()


def test_candidates_of_one_request_never_see_each_other(arguments, randomize):
    layer = MTGR(**SMALL)
    layer(*arguments)
    randomize(layer)
    features, histories, scenario = arguments
    features = {group: [v if group == "item" else v[2:3] for v in vectors] for group, vectors in features.items()}
    histories = {window: {key: x[2:3] for key, x in each.items()} for window, each in histories.items()}
    rows = np.zeros(4, "int32")
    before = np.array(layer(features, histories, scenario[2:3], request_of=rows))
    other = {**features, "item": [v + np.array([[0], [0], [1], [0]], "float32") for v in features["item"]]}
    change = np.abs(np.array(layer(other, histories, scenario[2:3], request_of=rows)) - before).max(axis=1)
    assert change[2] > 1e-3
    np.testing.assert_allclose(change[[0, 1, 3]], 0, atol=1e-6)


@pytest.mark.parametrize("requests", [1, 3])
def test_one_request_and_several_give_the_same_as_a_request_per_candidate(requests, arguments, randomize):
    layer = MTGR(**SMALL)
    layer(*arguments)
    randomize(layer)
    features, histories, scenario = arguments
    # With three requests the second has no candidate; the first has no history.
    rows = np.array([0, 0, 0, 0] if requests == 1 else [2, 0, 2, 0])
    pick = slice(0, requests) if requests > 1 else slice(3, 4)
    short = {group: [v if group == "item" else v[pick] for v in vectors] for group, vectors in features.items()}
    past = {window: {key: x[pick] for key, x in each.items()} for window, each in histories.items()}
    found = layer(short, past, scenario[pick], request_of=rows)
    expanded = {g: [v if g == "item" else v[rows] for v in vectors] for g, vectors in short.items()}
    past = {window: {key: x[rows] for key, x in each.items()} for window, each in past.items()}
    np.testing.assert_allclose(found, layer(expanded, past, scenario[pick][rows]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 1}, {"token_units": ()}, {"group_norm": False}, {"dynamic_mask": False}],
    ids=str,
)
def test_every_option_counts_its_parameters_learns_and_comes_back_from_its_config(options, arguments, check_backbone):
    check_backbone(MTGR, {**SMALL, **options}, arguments)


def test_a_norm_per_group_is_a_well_behaved_layer(check_layer):
    x = np.random.default_rng(3).normal(size=(2, 5, 4)).astype("float32")
    layer = check_layer(GroupLayerNorm, {"sizes": (2, 3)}, x, parameters=2 * 2 * 4)
    gain, bias = np.array(layer.gain), np.array(layer.bias)
    expected = np.concatenate([_norm(x[:, :2], gain[0], bias[0]), _norm(x[:, 2:], gain[1], bias[1])], axis=1)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, received 0"),
        ({"attention_heads": 3}, "`attention_heads` must divide `dim` 8, received 3"),
        ({"token_units": (0,)}, r"`token_units` must all be at least 1, received \(0,\)"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MTGR(**{**SMALL, **options})


def test_groups_and_norms_that_do_not_fit_are_refused():
    x = np.ones((2, 5, 4), "float32")
    with pytest.raises(ValueError, match=r"`sizes` must add up to the number of tokens 5, received \(2, 2\)"):
        GroupLayerNorm(sizes=(2, 2))(x)
    with pytest.raises(ValueError, match="`ordered` must have 2 values, one per group"):
        SiluAttentionBlock(heads=2, sizes=(2, 3), ordered=(True,))
    with pytest.raises(ValueError, match="`heads` must divide the token width 4, received 3"):
        SiluAttentionBlock(heads=3, sizes=(5,), ordered=(False,))(x, np.ones((2, 5), bool), x[:, 0])


def test_an_item_without_features_says_what_to_declare(arguments):
    features, histories, scenario = arguments
    with pytest.raises(ValueError, match='MTGR reads features of group "item".*; declare at least one'):
        MTGR(**SMALL)({**features, "item": []}, histories, scenario)
