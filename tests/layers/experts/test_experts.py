"""Dense and scenario experts: two ways to compute them, gates, bonus, routing, and what they cost."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mixrank.layers.experts import ScenarioSparseMoE, SharedDenseMoE, count_dense_moe, count_scenario_moe
from mixrank.layers.experts.sparse import Experts, choose_dispatch, dispatch_here, group


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _chosen(tokens, batch, active, experts, seed=1):
    rng = np.random.default_rng(seed)
    return np.array([[rng.permutation(experts)[:active] for _ in range(batch)] for _ in range(tokens)], "int32")


# 70 rows of 3 experts fill blocks of 64.
@pytest.mark.parametrize("batch", [1, 40, 70])
@pytest.mark.parametrize(("experts", "active", "block"), [(5, 2, 4), (9, 1, 8), (3, 3, None)])
def test_both_forms_give_the_same_outputs_and_gradients(batch, experts, active, block, randomize, gradients):
    x, gates = _normal(2, batch, 4), _normal(2, batch, active, seed=2)
    chosen = _chosen(2, batch, active, experts)
    dense, grouped = (
        Experts(experts=experts, hidden_dim=3, dispatch=d, block=block, name="same") for d in ("dense", "grouped")
    )
    for layer in (dense, grouped):
        layer(x, gates, chosen)
    randomize(dense)
    grouped.set_weights(dense.get_weights())
    np.testing.assert_allclose(grouped(x, gates, chosen), dense(x, gates, chosen), atol=1e-5)
    pair = [gradients(layer, layer.trainable_variables, x, gates, chosen) for layer in (dense, grouped)]
    for left, right in zip(*pair, strict=True):
        np.testing.assert_allclose(right, left, atol=1e-4)


@pytest.mark.slow
def test_the_grouped_form_compiles_to_xla_and_takes_a_batch_of_unknown_size(randomize):
    layer = Experts(experts=6, hidden_dim=3, dispatch="grouped", block=4)
    inputs = [keras.Input((3,)), keras.Input((), dtype="int32")]
    x, chosen = keras.ops.expand_dims(inputs[0], 0), inputs[1][None, :, None]
    model = keras.Model(inputs, layer(x, keras.ops.sigmoid(x[..., :1]), chosen)[0])
    randomize(model)
    model.compile(jit_compile=True)
    rows, choice = _normal(11, 3), np.random.default_rng(3).integers(0, 6, 11).astype("int32")
    np.testing.assert_allclose(model.predict([rows, choice], verbose=0), model([rows, choice]), atol=1e-5)


def test_every_pair_gets_a_slot_of_its_own_in_a_block_of_its_expert():
    chosen = _chosen(3, 13, 2, 5)
    source, filled, slot, owner = (np.array(x) for x in group(chosen, 5, 4))
    assert source.shape[1] == 4 * owner.shape[1] == (26 + 5 * 3) // 4 * 4
    for token in range(3):
        assert len(set(slot[token])) == 26 == filled[token].sum()
        np.testing.assert_array_equal(source[token][slot[token]], np.repeat(np.arange(13), 2))
        np.testing.assert_array_equal(owner[token][slot[token] // 4], chosen[token].ravel())


def test_auto_groups_many_large_experts():
    assert [choose_dispatch("auto", n, 2, 3000) for n in (2, 9, 10, 15)] == ["dense", "dense", "grouped", "grouped"]
    assert choose_dispatch("auto", 15, 2, 2999) == "dense"
    assert choose_dispatch("grouped", 2, 2, 1) == "grouped" and choose_dispatch("dense", 99, 1, 9999) == "dense"


def test_auto_means_dense_on_an_accelerator(monkeypatch):
    assert dispatch_here() == "auto"
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "gpu:0"])
    assert dispatch_here() == "dense"


@pytest.mark.parametrize(
    "options",
    [
        {"experts": 3, "shared": 2, "split": 2, "hidden_dim": 10},
        {"experts": 0, "shared": 2, "hidden_dim": 5},
        {"experts": 3, "shared": 1, "hidden_dim": 10, "share_across_tokens": True},
    ],
    ids=str,
)
def test_dense_experts_pass_the_harness_with_the_paper_s_count(options, check_layer):
    tokens, d, h = 1 if options.get("share_across_tokens") else 5, 4, options["hidden_dim"]
    ks, m, e = options["shared"], options.get("split", 1), options["experts"]
    gates = (d + 1) * (ks + m * e)
    parameters = tokens * (ks * (2 * d * h + h + d) + m * e * (2 * d * h // m + h // m + d) + gates)
    layer = check_layer(SharedDenseMoE, options, _normal(3, 5, d), parameters=parameters)
    wanted = {"split": 1, "share_across_tokens": False, **options}
    assert count_dense_moe("", tokens=5, dim=d, **wanted).parameters == layer.count_params()


def test_cutting_experts_keeps_flops_and_kernels():
    whole, cut = (
        count_dense_moe("", tokens=5, dim=4, experts=3, shared=1, split=m, hidden_dim=10, share_across_tokens=False)
        for m in (1, 2)
    )
    # What differs are three more gates and output biases per token.
    assert cut.parameters - whole.parameters == 5 * 3 * (4 + 1 + 4)
    assert cut.flops - whole.flops == 2 * 5 * 3 * (4 + 4)


def test_gates_do_not_take_from_each_other():
    layer, x = SharedDenseMoE(experts=2, shared=0, hidden_dim=3), _normal(2, 5, 4)
    layer(x)
    bias = np.array(layer.router.bias)
    bias[..., 0] = -50
    layer.router.bias.assign(bias)
    closed = np.array(layer(x))
    bank = layer.banks["fine"]
    kernel = np.array(bank.contract).reshape(5, 2, 3, 4)
    kernel[:, 0] *= 2
    bank.contract.assign(kernel.reshape(10, 3, 4))
    np.testing.assert_allclose(layer(x), closed, atol=1e-6)
    bias[..., 0] = 0
    layer.router.bias.assign(bias)
    assert np.abs(np.array(layer(x)) - closed).max() > 1e-2


SIZES = {"scenarios": 6, "active": 2, "shared": 1, "hidden_dim": 7}


def _routed(layer, x, vector, scenario):
    found = []
    layer.on_routing = lambda chosen, ids: found.append(np.array(chosen))
    layer(x, vector, scenario)
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"share_across_tokens": True}, {"scenario_in_gate": False, "shared": 0}])
@pytest.mark.parametrize("dispatch", ["dense", "grouped"])
def test_scenario_experts_pass_the_harness(options, dispatch, check_layer):
    # All experts are chosen: in bfloat16 a near tie of two would fall the other way.
    x, vector, scenario = _normal(9, 5, 4), _normal(9, 3, seed=1), np.arange(9) % 8
    options = {**SIZES, "active": 6, **options, "dispatch": dispatch}
    wanted = {"scenario_in_gate": True, "share_across_tokens": False, **options}
    counted = count_scenario_moe("", tokens=5, dim=4, vector=3, **wanted)
    check_layer(ScenarioSparseMoE, options, x, vector, scenario, parameters=counted.parameters)


def test_exactly_k_experts_are_used_and_the_own_one_with_a_hard_bonus_always():
    x, vector, scenario = _normal(64, 5, 4), _normal(64, 3, seed=1), np.arange(64) % 6 + 1
    for options, low, high in (
        ({"bonus": 0.0, "hard_bonus": True}, 1, 1),
        ({"bonus": 0.0, "hard_bonus": False}, 0.15, 0.55),
        ({"bonus": 4.0, "hard_bonus": False}, 0.95, 1),
    ):
        layer = ScenarioSparseMoE(**SIZES, **options)
        chosen = _routed(layer, x, vector, scenario)
        assert chosen.shape == (64, 5, 2) and np.all(chosen[..., 0] != chosen[..., 1])
        own = (chosen == (scenario - 1)[:, None, None]).any(axis=-1).mean()
        assert low <= own <= high, (options, own)


@pytest.mark.parametrize(("gamma", "expected"), [(0, 1 / 3), (2, 0.91), (4, 0.999)])
def test_the_bonus_keeps_the_own_expert_as_often_as_normal_logits_predict(gamma, expected):
    """6 experts, K = 2, logits N(0, 1) from a router that hands them through."""
    layer = ScenarioSparseMoE(
        scenarios=6, active=2, shared=0, hidden_dim=2, bonus=gamma, hard_bonus=False, scenario_in_gate=False
    )
    x, scenario = _normal(2000, 1, 6), np.arange(2000) % 6 + 1
    vector = np.zeros((2000, 1), "float32")
    layer(x[:1], vector[:1], scenario[:1])
    layer.routers[0][0].kernel.assign(np.eye(6)[None])
    own = (_routed(layer, x, vector, scenario) == (scenario - 1)[:, None, None]).any(axis=-1).mean()
    assert own == pytest.approx(expected, abs=0.03)


def test_missing_and_other_scenarios_have_no_own_expert():
    x, vector = np.repeat(_normal(1, 5, 4), 3, axis=0), np.zeros((3, 3), "float32")
    layer = ScenarioSparseMoE(**SIZES)
    chosen = _routed(layer, x, vector, np.array([0, 7, 100]))
    np.testing.assert_array_equal(chosen[0], chosen[1])
    np.testing.assert_array_equal(chosen[0], chosen[2])
    np.testing.assert_array_equal(
        np.array(layer(x, vector, np.array([0, 7, 1])))[0], layer(x, vector, np.array([0, 7, 1]))[1]
    )


@pytest.mark.parametrize("dispatch", ["dense", "grouped"])
def test_one_active_hard_expert_alone_is_trained(dispatch, gradients):
    layer = ScenarioSparseMoE(**{**SIZES, "active": 1}, dispatch=dispatch)
    arguments = _normal(4, 5, 4), _normal(4, 3, seed=1), np.full(4, 3)
    layer(*arguments)
    expand = layer.experts[0].expand
    (gradient,) = gradients(layer, [expand], *arguments)
    moved = np.abs(gradient).reshape(5, 6, -1).sum(axis=2) > 0
    np.testing.assert_array_equal(moved, np.broadcast_to(np.arange(6) == 2, (5, 6)))


def test_grouped_flops_are_those_of_the_active_experts():
    sizes = {"tokens": 5, "dim": 4, "vector": 3, "shared": 0, "hidden_dim": 7}
    rest = {"scenario_in_gate": False, "share_across_tokens": False}
    routers = 2 * 5 * 4 * 15
    sparse, dense = (
        count_scenario_moe("", **sizes, **rest, scenarios=15, active=2, dispatch=d).flops - routers
        for d in ("grouped", "dense")
    )
    assert sparse == 2 * 5 * 2 * (2 * 4 * 7) and dense == 2 * 5 * 15 * (2 * 4 * 7 + 4)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Experts, {"experts": 0, "hidden_dim": 3}, "`experts` must be at least 1, received 0"),
        (Experts, {"experts": 1, "hidden_dim": 3, "dispatch": "sparse"}, "`dispatch` must be auto, dense or grouped"),
        (SharedDenseMoE, {"experts": 0, "shared": 0, "hidden_dim": 3}, "`experts` and `shared` must not both be 0"),
        (SharedDenseMoE, {"experts": 1, "hidden_dim": 3, "split": 2}, "`split` must divide `hidden_dim` 3, received 2"),
        (
            ScenarioSparseMoE,
            {"scenarios": 3, "hidden_dim": 3, "shared": -1},
            "`shared` must be at least 0, received -1",
        ),
    ],
)
def test_wrong_values_are_named(make, options, message):
    with pytest.raises(ValueError) as error:
        make(**options)
    assert message in str(error.value)
