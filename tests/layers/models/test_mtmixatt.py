"""MTmixAtt: its equations in NumPy, its switches, its sizes, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixrank.layers import registry
from mixrank.layers.backbone import Widths
from mixrank.layers.models.mtmixatt import MTmixAtt
from mixrank.layers.ranking import build_ranker, dense_parameters, field_names, load, widths
from mixrank.schemas.datasets.kuairand import SPEC as KUAIRAND

SCENARIOS = ("home", "search", "cart", "help")
SMALL = {
    "num_tokens": 3,
    "features_per_token": 2,
    "dim": 12,
    "num_layers": 2,
    "mixing_heads": 4,
    "base_experts": 3,
    "shared_experts": 1,
    "split": 2,
    "expert_dim": 10,
    "active_experts": 2,
    "scenario_shared_experts": 2,
    "head_units": (6,),
    "scenarios": SCENARIOS,
}
# Missing, two declared ones, and one that is not declared.
IDS = np.array([2, 4, 0, 5])


@pytest.fixture
def batch(arguments):
    features, histories, _ = arguments
    return features, histories, IDS


def _built(arguments, randomize, **options):
    layer = MTmixAtt(**{**SMALL, **options}, name="mtmixatt")
    layer(*arguments)
    randomize(layer, scale=0.4)
    return layer


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _gelu(x):
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x])


def _norm(x, gain, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * gain + bias


def _expert(w, path, which, u):
    hidden = _gelu(u @ w[f"{path}/expand"][which] + w[f"{path}/expand_bias"][which, 0])
    return hidden @ w[f"{path}/contract"][which] + w[f"{path}/contract_bias"][which, 0]


def _fields(w, features, histories, b):
    vectors = [vector[b] for group in ("user", "item", "context") for vector in features[group]]
    for window in ("before", "within"):
        items, mask = histories[window]["items"][b], histories[window]["mask"][b]
        vectors.append(items[mask].mean(axis=0) if mask.any() else np.zeros(items.shape[1]))
    # (2); every width of this batch occurs once
    return np.stack(
        [v @ w[f"align/width_{len(v)}_0/kernel"][0] + w[f"align/width_{len(v)}_0/bias"][0, 0] for v in vectors]
    )


def _auto_token(w, fields, keep):
    tokens = []
    for row in w["auto_token/logits"]:
        kept = np.sort(np.argsort(-row)[:keep])
        weights = np.exp(row[kept]) / np.exp(row[kept]).sum()
        tokens.append(np.concatenate([weight * fields[i] for weight, i in zip(weights, kept, strict=True)]))
    return np.stack(tokens)


def _experts(w, u, t, vector, own, o):
    """Equations (11) to (14) for token t with value u."""
    gates = _sigmoid(u @ w["dense_experts/router/kernel"][t] + w["dense_experts/router/bias"][t, 0])
    y = np.zeros_like(u)
    for i in range(o["shared_experts"]):
        y += gates[i] * _expert(w, "dense_experts/shared", t * o["shared_experts"] + i, u)
    fine = o["base_experts"] * o["split"]
    for j in range(fine):
        y += gates[o["shared_experts"] + j] * _expert(w, "dense_experts/fine", t * fine + j, u)

    path = "scenario_experts"
    gates = _sigmoid(u @ w[f"{path}/shared/router/kernel"][t] + w[f"{path}/shared/router/bias"][t, 0])
    for i in range(o["scenario_shared_experts"]):
        y += gates[i] * _expert(w, f"{path}/shared/shared", t * o["scenario_shared_experts"] + i, u)
    c = len(o["scenarios"])
    z = u @ w[f"{path}/router/kernel"][t] + w[f"{path}/router/bias"][t, 0]
    z = z + vector @ w[f"{path}/scenario_router/kernel"][t]
    if own is not None:
        z[own] += o["bonus"]
    order = [i for i in np.argsort(-z) if i != own]
    kept = ([own] if own is not None else []) + order
    for i in kept[: o["active_experts"]]:
        y += _sigmoid(z[i]) * _expert(w, f"{path}/experts", t * c + i, u)
    return y


def _numpy_mtmixatt(w, features, histories, scenario, o):
    rows = []
    for b in range(len(scenario)):
        x = _auto_token(w, _fields(w, features, histories, b), o["features_per_token"])
        own = scenario[b] - 1 if 1 <= scenario[b] <= len(o["scenarios"]) else None
        piece = o["dim"] // o["mixing_heads"]
        for layer in range(o["num_layers"]):
            block = {k.split("/", 1)[1]: v for k, v in w.items() if k.startswith(f"block_{layer}/")}
            mixed = np.zeros_like(x)
            for h in range(o["mixing_heads"]):
                part = slice(h * piece, (h + 1) * piece)
                mixed[:, part] = block["mixing/kernel"][h] @ x[:, part]
            u = _norm(x + mixed, block["mixing_norm/gamma"], block["mixing_norm/beta"])
            vector = features["context"][0][b]
            y = u + np.stack([_experts(block, u[t], t, vector, own, o) for t in range(len(u))])
            x = _norm(y, block["expert_norm/gamma"], block["expert_norm/beta"]) + x
        rows.append(x.mean(axis=0))
    return np.stack(rows)


@pytest.mark.parametrize("dispatch", ["dense", "grouped"])
def test_the_representation_follows_the_equations(dispatch, batch, randomize, arrays):
    layer = _built(batch, randomize)
    for block in layer.blocks:
        block.sparse.experts[0].dispatch = dispatch
    expected = _numpy_mtmixatt(arrays(layer), *batch, {**SMALL, "bonus": 4.0})
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(*batch), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "target"},
        {"grouping": "random", "mixing": "zeros", "norm": "post"},
        {"grouping": "manual", "groups": ((0, 5), (1, 4), (3, 2)), "mixing": "identity", "norm": "pre"},
        {"mixing": "transpose", "norm": "pre_l", "compose": "sequential", "gate_input": "token"},
        {"mixing": "ones", "share_across_tokens": True},
        {"base_experts": 0, "shared_experts": 0, "hard_bonus": False},
        {"scenario_experts": False, "split": 1},
        {"scenario_shared_experts": 0},
        {"scenarios": ()},
        {"num_layers": 0},
    ],
    ids=str,
)
def test_every_switch_counts_its_weights_and_trains_them(options, batch, check_backbone):
    if not options.get("scenarios", True):
        batch = (*batch[:2], np.array([0, 1, 1, 0]))
    # With all six fields in every token none is left out by a random grouping.
    covering = {} if "groups" in options else {"features_per_token": 6}
    check_backbone(MTmixAtt, {**SMALL, "num_layers": 1, **covering, **options}, batch)


def test_the_request_path_equals_the_expanded_rows(batch, randomize):
    features, histories, _ = batch
    layer = _built(batch, randomize)
    rows = np.array([3, 1, 3, 0])
    expanded = {g: v if g == "item" else [x[rows] for x in v] for g, v in features.items()}
    of_rows = {w: {k: x[rows] for k, x in h.items()} for w, h in histories.items()}
    np.testing.assert_allclose(
        layer(features, histories, IDS, request_of=rows), layer(expanded, of_rows, IDS[rows]), atol=1e-5
    )


def test_four_norms_differ_as_written(batch, randomize, arrays):
    """Without experts a block is U = LN(X + Mix(X)) and LN(U), or their pre-norm forms; checked for one block."""
    bare = {"base_experts": 0, "shared_experts": 0, "scenario_experts": False, "num_layers": 1, "mixing": "identity"}
    found = {}
    for name, options in {
        "pre": {"norm": "pre"},
        "pre_l": {"norm": "pre_l"},
        "post": {"norm": "post"},
        "post_r": {},
    }.items():
        layer = MTmixAtt(**{**SMALL, **bare, **options})
        layer(*batch)
        found[name] = np.array(layer(*batch)), np.array(layer.tokens(*batch[:2]), "float64"), layer

    def norm(x):
        return _norm(x, 1.0, 0.0)

    for name, (output, x, layer) in found.items():
        mixed = np.array(layer.blocks[0].mixing(x.astype("float32")), "float64")
        np.testing.assert_allclose(mixed, x, atol=1e-6)
        u = norm(x + x)
        expected = {
            "pre": x + norm(x),
            "pre_l": norm(x + norm(x)),
            "post": norm(u),
            "post_r": norm(u) + x,
        }[name]
        np.testing.assert_allclose(output, expected.mean(axis=1), atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_manual_groups_may_be_named_and_freezing_survives_a_file(spec, sizes, make_rows, tmp_path):
    names = field_names(spec)
    assert names == ("person", "age", "clip", "tag", "seconds", "had", "place", "country", "past", "today")
    params = {"num_tokens": 2, "features_per_token": 3, "dim": 6, "mixing_heads": 2}
    params |= {"expert_dim": 4, "grouping": "manual", "groups": (("clip", "today"), (6, "age", "past"))}
    model = build_ranker(spec, sizes, model="mtmixatt", params=params)
    backbone = model.get_layer("mtmixatt")
    assert backbone.auto_token.groups == ((2, 9), (6, 1, 8))
    rows = make_rows(model)
    before = model(rows)
    backbone.freeze()
    model.save(tmp_path / "frozen.keras")
    loaded = load(tmp_path / "frozen.keras")
    assert loaded.get_layer("mtmixatt").auto_token.frozen == backbone.auto_token.frozen
    for task, logit in before.items():
        np.testing.assert_allclose(model(rows)[task], logit, atol=1e-6)
        np.testing.assert_allclose(loaded(rows)[task], logit, atol=1e-6)
    told = backbone.insights(model, [rows])
    found = told["grouping"]
    assert told["routing"]["experts"] == ["3", "7"] and sum(told["routing"]["rows"]) == 4
    assert found["never_selected"] == ["person", "tag", "seconds", "had", "country"]
    assert np.shape(found["weights"]) == (2, 10) and found["fields"] == list(names)
    np.testing.assert_allclose(np.sum(found["weights"], axis=1), 1, atol=1e-5)
    wrong = {**params, "groups": (("clp", "today"), ("age",))}
    with pytest.raises(ValueError, match="'clp', which is not a field of the log; did you mean `clip`"):
        build_ranker(spec, sizes, model="mtmixatt", params=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 13}, "`features_per_token` must divide `dim` 13, received 2"),
        ({"dim": 10}, "`mixing_heads` must divide `dim` 10, received 4"),
        ({"num_tokens": 0}, "`num_tokens` must be at least 1, received 0"),
        ({"expert_dim": 5}, "`split` must divide `expert_dim` 5, received 2"),
        ({"active_experts": 0}, "`active_experts` must be at least 1, received 0"),
        ({"grouping": "manual"}, "`groups` belong to `grouping` = \"manual\", received 'manual' and 0 groups"),
        ({"grouping": "manual", "groups": ((1,),)}, "each of the 3 tokens, received 1 groups"),
        ({"grouping": "manual", "groups": ((1,), (2, 2), (0,))}, "1 to 2 different fields, received (2, 2)"),
    ],
)
def test_what_cannot_be_built_is_named(options, message):
    with pytest.raises(ValueError) as error:
        MTmixAtt(**{**SMALL, **options})
    assert message in str(error.value)


def test_too_few_fields_name_the_parameter(batch):
    with pytest.raises(ValueError, match="`features_per_token` must be at most the number of fields 6, received 12"):
        MTmixAtt(**{**SMALL, "features_per_token": 12})(*batch)


def test_a_configuration_may_write_groups_and_pairs_as_lists():
    values = registry.check("mtmixatt", {"groups": [["a", 1], [2]], "esmm": [["buy", "click"]]})
    assert values["groups"] == (("a", 1), (2,)) and values["esmm"] == (("buy", "click"),)


def test_the_published_sizes_are_met_for_five_scenarios():
    arguments = (widths(KUAIRAND), ("ctr", "ctcvr"), (1, 2, 3, 4, 5))
    small, large = (
        dense_parameters("mtmixatt", registry.check("mtmixatt", preset=preset), *arguments)
        for preset in ("small", "large")
    )
    assert small == pytest.approx(15e6, rel=0.005) and large == pytest.approx(1e9, rel=0.005)


def test_the_kernels_alone_are_those_of_the_papers_arithmetic():
    """L n_g E 2 d^2 with three experts of hidden width d and nothing else is the 11.99 M of the 15M model."""
    layer = MTmixAtt(
        dim=204,
        num_layers=4,
        base_experts=3,
        shared_experts=0,
        split=1,
        expert_dim=204,
        scenario_experts=False,
    )
    parts = {
        part.name: part.parameters for part in layer.count(Widths({"user": (8,), "item": (8,), "context": (8,)}, {}))
    }
    biases_and_gates = 4 * 12 * 3 * (204 + 204 + 204 + 1)
    assert parts["blocks: dense experts"] - biases_and_gates == pytest.approx(11.99e6, rel=0.001)
    assert parts["blocks: mixing"] == pytest.approx(6.9e3, rel=0.01)
