"""Every kind of heads against its equations in NumPy, row by row, task by task and expert by expert."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers.base import Part
from mixrank.layers.heads import ExpertBank, GateUnit, HoMEHeads, MMoEHeads, PEPNetHeads, PLEHeads

RNG = np.random.default_rng(3)
X = RNG.normal(size=(4, 7)).astype("float32")
SCENARIO = np.zeros(4, "int64")
TASKS = ("click", "like", "view")
FIELDS = {
    name: RNG.normal(size=(4, width)).astype("float32") for name, width in {"page": 2, "user": 3, "clip": 5}.items()
}


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def relu(z):
    return np.maximum(z, 0)


def tower(w, task, h):
    """The MLP of a task on one row."""
    index = 0
    while f"{task}/hidden_{index}/kernel" in w:
        h = relu(h @ w[f"{task}/hidden_{index}/kernel"] + w[f"{task}/hidden_{index}/bias"])
        index += 1
    return (h @ w[f"{task}/logit/kernel"] + w[f"{task}/logit/bias"])[0]


def expert(w, bank, e, x):
    """One ReLU expert on one row."""
    index = 0
    while f"{bank}/dense_{index}/kernel" in w:
        x = relu(x @ w[f"{bank}/dense_{index}/kernel"][e] + w[f"{bank}/dense_{index}/bias"][e, 0])
        index += 1
    return x


def normalised(w, bank, e, x):
    """One expert of HoME on one row."""
    down, up = w[f"{bank}/gate_down/kernel"][e], w[f"{bank}/gate_up/kernel"][e]
    h = x * 2 * sigmoid(x @ down @ up)
    h = relu(h @ w[f"{bank}/dense_0/kernel"][e] + w[f"{bank}/dense_0/bias"][e, 0])
    h = h @ w[f"{bank}/dense_1/kernel"][e] + w[f"{bank}/dense_1/bias"][e, 0]
    z = (h - h.mean()) / np.sqrt(h.var() + 1e-5) * w[f"{bank}/scale"][e, 0] + w[f"{bank}/shift"][e, 0]
    return z * sigmoid(z)


@pytest.fixture
def built(randomize, arrays):
    """A layer with random weights, and those weights by their paths."""

    def build(layer, *inputs):
        layer(*inputs)
        randomize(layer)
        return layer, arrays(layer)

    return build


def _check(layer, inputs, by_hand, fields=None):
    got = layer(*inputs)
    assert list(got) == list(TASKS)
    for task in TASKS:
        expected = [by_hand(task, row) for row in range(len(X))]
        np.testing.assert_allclose(got[task], expected, rtol=1e-4, atol=1e-4)
    assert layer.parts() == layer.count(7, {name: x.shape[1] for name, x in (fields or {}).items()})
    assert sum(part.parameters for part in layer.parts()) == layer.count_params()


def test_mmoe_weighs_shared_experts_by_a_gate_per_task(built):
    layer, w = built(MMoEHeads(tasks=TASKS, experts=3, expert_units=(6, 5), units=(4,), name="heads"), X, SCENARIO)

    def by_hand(task, row):
        x = X[row].astype("float64")
        g = softmax(x @ w["gates/kernel"][TASKS.index(task)])
        return tower(w, task, sum(g[e] * expert(w, "experts", e, x) for e in range(3)))

    _check(layer, (X, SCENARIO), by_hand)
    assert layer.parts() == [
        Part("heads: experts", 3 * (7 * 6 + 6 + 6 * 5 + 5), 2 * 3 * (7 * 6 + 6 * 5)),
        Part("heads: gates", 3 * 7 * 3, 2 * 3 * (7 * 3 + 3 * 5)),
        Part("heads", 3 * (5 * 4 + 4 + 4 + 1), 2 * 3 * (5 * 4 + 4)),
    ]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_extracts_level_by_level_what_is_shared_and_what_is_a_tasks_own(built, levels):
    options = {"task_experts": 2, "shared_experts": 1, "expert_units": (6,), "levels": levels, "units": (4,)}
    layer, w = built(PLEHeads(tasks=TASKS, **options, name="heads"), X, SCENARIO)

    def by_hand(task, row):
        read = {owner: X[row].astype("float64") for owner in (*TASKS, "shared")}
        for level in range(levels):
            of = {owner: f"experts_{level}_{'shared' if owner == 'shared' else f'of_{owner}'}" for owner in read}
            found = {
                owner: [expert(w, of[owner], e, x) for e in range(1 if owner == "shared" else 2)]
                for owner, x in read.items()
            }
            mixed = {}
            for owner, x in read.items():
                seen = found if owner == "shared" else (owner, "shared")
                experts = [each for other in seen for each in found[other]]
                if owner == "shared" and level == levels - 1:
                    continue
                g = softmax(x @ w[f"gate_{level}_{'shared' if owner == 'shared' else f'of_{owner}'}/kernel"])
                assert len(g) == len(experts) == (7 if owner == "shared" else 3)
                mixed[owner] = sum(weight * each for weight, each in zip(g, experts, strict=True))
            read = mixed
        return tower(w, task, read[task])

    _check(layer, (X, SCENARIO), by_hand)


def test_home_masks_by_groups_gates_features_and_adds_self_gates(built):
    options = {
        "groups": (("click", "like"),),
        "shared_experts": 2,
        "group_experts": 1,
        "task_experts": 2,
        "expert_units": (6, 5),
        "feature_rank": 3,
        "units": (4,),
    }
    layer, w = built(HoMEHeads(tasks=TASKS, **options, name="heads"), X, SCENARIO)
    group_of = {"click": "first", "like": "first", "view": "second"}
    # Names of layers count the owners: shared, both groups, then the tasks.
    number = {"shared": 0, "first": 1, "second": 2, "click": 3, "like": 4, "view": 5}
    experts = {"shared": 2, "first": 1, "second": 1, "click": 2, "like": 2, "view": 2}

    def outputs(level, owner, x):
        return [normalised(w, f"experts_{level}_{number[owner]}", e, x) for e in range(experts[owner])]

    def gated(level, owner, x, own, read, weighed):
        g = softmax(read @ w[f"gate_{level}_{number[owner]}/kernel"])
        alone = x @ w[f"self_gate_{level}_{number[owner]}/kernel"]
        alone = softmax(alone) if len(alone) > 1 else sigmoid(alone)
        z = sum(weight * each for weight, each in zip(g, weighed, strict=True))
        return z + sum(weight * each for weight, each in zip(alone, own, strict=True))

    def by_hand(task, row):
        x, group = X[row].astype("float64"), group_of[task]
        below = {owner: outputs(0, owner, x) for owner in ("shared", "first", "second")}
        everything = [*below["shared"], *below["first"], *below["second"]]
        z_shared = gated(0, "shared", x, below["shared"], x, everything)
        z_group = gated(0, group, x, below[group], x, [*below["shared"], *below[group]])
        own = outputs(1, task, z_group)
        weighed = [*outputs(1, "shared", z_shared), *outputs(1, group, z_group), *own]
        return tower(w, task, gated(1, task, z_group, own, np.concatenate([z_group, z_shared]), weighed))

    _check(layer, (X, SCENARIO), by_hand)


def test_a_task_of_another_group_does_not_reach_the_experts_of_a_group(built):
    options = {"groups": (("click", "like"),), "expert_units": (5,), "feature_rank": 2}
    layer, _ = built(HoMEHeads(tasks=TASKS, **options, name="heads"), X, SCENARIO)
    with tf.GradientTape() as tape:
        logit = tf.reduce_sum(layer(X, SCENARIO)["view"])
    found = dict(
        zip((v.path for v in layer.trainable_variables), tape.gradient(logit, layer.trainable_variables), strict=True)
    )
    # Of the abstraction layer, click and like have group 1, whose experts the shared gate weighs as well; of the task
    # layer, 1 is their group, 3 and 4 are they.
    hidden = ("/gate_0_1/", "self_gate_0_1/", "experts_1_1/", "experts_1_3/", "experts_1_4/", "gate_1_3/", "gate_1_4/")
    for path, gradient in found.items():
        assert (gradient is None) == any(part in path for part in (*hidden, "/click/", "/like/")), path


def test_home_has_experts_of_one_scale_whatever_their_weights():
    bank = ExpertBank(experts=3, units=(64,), activation="swish", name="bank")
    bank(X)
    bank.dense[0].kernel.assign(bank.dense[0].kernel * np.array([0.01, 1, 100], "float32")[:, None, None])
    spread = np.array(bank(X)[0]).std(axis=(0, 2))
    assert spread.max() / spread.min() < 1.2


def test_pepnet_gates_the_representation_and_every_layer_of_the_towers(built):
    options = {"domain": ("page",), "personal": ("user", "clip"), "gate_dim": 6, "units": (4, 3)}
    layer, w = built(PEPNetHeads(tasks=TASKS, **options, name="heads"), X, SCENARIO, FIELDS)

    def gate(unit, *vectors):
        hidden = relu(np.concatenate(vectors) @ w[f"{unit}/hidden_kernel"] + w[f"{unit}/hidden_bias"])
        return 2 * sigmoid(hidden @ w[f"{unit}/gate/kernel"] + w[f"{unit}/gate/bias"])

    def by_hand(task, row):
        x, (page, user, clip) = X[row].astype("float64"), (FIELDS[name][row] for name in ("page", "user", "clip"))
        o = h = gate("epnet", page, x) * x
        for index in range(3):
            delta = gate(f"ppnet_{index}", user, clip, o).reshape(3, -1)[TASKS.index(task)]
            kernel, bias = (w[f"towers_{index}/{name}"][TASKS.index(task)] for name in ("kernel", "bias"))
            h = (delta * h) @ kernel + bias[0]
            h = h if index == 2 else relu(h)
        return h[0]

    _check(layer, (X, SCENARIO, FIELDS), by_hand, FIELDS)


def test_pepnets_gates_read_the_representation_without_changing_it(built):
    layer, _ = built(
        PEPNetHeads(tasks=("click",), domain=("page",), personal=("user",), units=(), name="heads"), X, SCENARIO, FIELDS
    )
    x = tf.Variable(X)
    with tf.GradientTape() as tape:
        logit = tf.reduce_sum(layer(x, SCENARIO, FIELDS)["click"])
    delta = layer.epnet([FIELDS["page"], X])
    second = layer.ppnet[0]([FIELDS["user"], delta * X])
    # With both gates held fixed, the logit is linear in x.
    expected = np.array(delta) * np.array(second) * np.array(layer.towers[0].kernel)[0, :, 0]
    np.testing.assert_allclose(tape.gradient(logit, x), expected, rtol=1e-5, atol=1e-6)


def test_a_fresh_gate_is_near_one_and_may_close_or_double():
    gate = GateUnit(units=5, hidden_dim=8)
    assert np.abs(np.array(gate([0 * X])) - 1).max() < 1e-6
    kernel, bias, out, _ = gate.get_weights()
    gate.set_weights([kernel, bias, out, np.array([-50, 50, 0, -50, 50], "float32")])
    np.testing.assert_allclose(np.array(gate([0 * X]))[0], [0, 2, 1, 0, 2], atol=1e-6)


def test_what_one_row_shares_is_multiplied_once(matrix_product_flops):
    gate = GateUnit(units=3, hidden_dim=4)
    shared, own = X[:1], FIELDS["clip"]
    expected = np.array(gate([np.repeat(shared, 4, axis=0), own]))
    np.testing.assert_allclose(gate([shared, own]), expected, atol=1e-6)
    assert gate.compute_output_shape([(1, 7), (None, 5)]) == (None, 3)
    products = [
        op.outputs[0].shape
        for op in tf.function(gate)
        .get_concrete_function([tf.constant(shared), tf.constant(own)])
        .graph.get_operations()
        if op.type == "MatMul"
    ]
    assert [tuple(shape) for shape in products] == [(1, 4), (4, 4), (4, 3)]


@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_a_bank_of_experts_comes_back_from_its_config(activation, randomize):
    bank = ExpertBank(experts=2, units=(6, 5), activation=activation, rank=3, name="bank")
    bank(X)
    randomize(bank)
    again = ExpertBank.from_config(bank.get_config())
    again(X)
    again.set_weights(bank.get_weights())
    np.testing.assert_array_equal(again(X)[0], bank(X)[0])
    assert bank.compute_output_shape((None, 7)) == ((None, 2, 5), (2, None, 7))


def test_experts_do_not_start_equal():
    bank = ExpertBank(experts=3, units=(5,))
    bank(X)
    assert len({float(kernel[0, 0]) for kernel in keras.ops.convert_to_numpy(bank.dense[0].kernel)}) == 3
