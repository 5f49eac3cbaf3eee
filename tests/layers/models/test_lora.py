"""Adapters per scenario and products of probabilities in the heads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers.models.mtmixatt import ScenarioAdapter
from mixrank.layers.models.mtmixatt.scenario_heads import ScenarioHeads
from mixrank.layers.task_kinds import product_logit

HEADS = {"tasks": ("click", "buy"), "units": (5, 7), "scenarios": 4}


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_an_adapter_passes_the_harness(check_layer):
    check_layer(
        ScenarioAdapter,
        {"units": 3, "scenarios": 4},
        _normal(6, 5),
        np.array([0, 1, 2, 3, 4, 5]),
        parameters=3 * (5 * 4 + 4 * 3 + 3),
    )


def test_every_row_of_a_mixed_batch_gets_its_own_adapter(randomize):
    layer, x, ids = ScenarioAdapter(units=3, scenarios=4), _normal(7, 5), np.array([0, 1, 2, 3, 4, 5, 3])
    layer(x, ids)
    randomize(layer)
    down, up, bias = (np.array(weights) for weights in (layer.down, layer.up, layer.bias))
    place = {2: 0, 3: 1, 4: 2}
    expected = [
        x[i] @ down[place[c]] @ up[place[c]] + bias[place[c]] if c in place else np.zeros(3) for i, c in enumerate(ids)
    ]
    np.testing.assert_allclose(layer(x, ids), expected, atol=1e-5)


def test_the_rank_follows_the_width_of_the_input():
    layer = ScenarioAdapter(units=3, scenarios=2, ratio=16)
    layer(_normal(2, 160), np.array([1, 2]))
    assert layer.down.shape == (1, 160, 10)


@pytest.mark.parametrize("adapter", ["dense", "logit"])
def test_all_scenarios_start_equal_and_a_step_on_one_moves_that_one_alone(adapter):
    layer, ids = ScenarioHeads(**HEADS, adapter=adapter), np.arange(6)
    x = np.repeat(_normal(1, 6), 6, axis=0)
    start = {task: np.array(logit) for task, logit in layer(x, ids).items()}
    for logit in start.values():
        np.testing.assert_allclose(logit, logit[0], atol=1e-6)
    before = {v.path: np.array(v) for v in layer.trainable_variables}
    rows, third = _normal(8, 6, seed=1), np.full(8, 3)
    for step in range(2):
        with tf.GradientTape() as tape:
            loss = sum(tf.reduce_sum(logit**2) for logit in layer(rows, third).values())
        for variable, gradient in zip(
            layer.trainable_variables, tape.gradient(loss, layer.trainable_variables), strict=True
        ):
            gradient = np.array(tf.convert_to_tensor(gradient))
            # B = 0 hides A from the first step.
            assert np.any(gradient) == ("down" not in variable.path or step > 0), (variable.path, step)
            variable.assign(variable - 0.01 * gradient)
    for variable in layer.trainable_variables:
        moved = np.any(np.array(variable) != before[variable.path], axis=tuple(range(1, len(variable.shape))))
        if "adapter" in variable.path:
            # Main is the first; of the adapters of 2, 3, 4 that of 3 is the second.
            assert moved.tolist() == [False, True, False], variable.path
        else:
            assert np.any(moved), variable.path
    after = layer(x, ids)["click"]
    assert len({round(float(v), 6) for v in after}) == 2


def test_heads_follow_the_formula(randomize, arrays):
    layer, x, ids = ScenarioHeads(**HEADS, esmm=(("buy", "click"),)), _normal(6, 6), np.arange(6)
    layer(x, ids)
    randomize(layer)
    w = arrays(layer)
    for i, c in enumerate(ids):
        logits = {}
        for task in ("click", "buy"):
            h = x[i].astype("float64")
            for name in ("hidden_0", "hidden_1", "logit"):
                path = f"{task}_{name}"
                y = h @ w[f"{path}/kernel"] + w[f"{path}/bias"]
                if c in (2, 3, 4):
                    down, up, bias = (w[f"{path}_adapter/{part}"][c - 2] for part in ("down", "up", "bias"))
                    y = y + h @ down @ up + bias
                h = y if name == "logit" else np.maximum(y, 0)
            logits[task] = h[0]
        p = 1 / (1 + math.exp(-logits["click"])) / (1 + math.exp(-logits["buy"]))
        found = layer(x, ids)
        assert float(found["click"][i]) == pytest.approx(logits["click"], abs=1e-4)
        assert float(found["buy"][i]) == pytest.approx(math.log(p / (1 - p)), abs=1e-4)


def test_the_product_of_probabilities_is_stable_in_logits(gradients):
    a = np.array([0, 3, -3, 200, -200, 200, 15, 90], "float32")
    b = np.array([0, -1, 2, 200, -200, -200, 16, 1], "float32")
    # 200 and 200: p = 1 - 2 exp(-200), so its logit is 200 - log 2.
    expected = [math.log(1 / 3), math.nan, math.nan, 200 - math.log(2), -400, -200, math.nan, 1]
    for i, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        if math.isnan(expected[i]):
            p = 1 / (1 + math.exp(-x)) / (1 + math.exp(-y))
            expected[i] = math.log(p) - math.log1p(-p)
    np.testing.assert_allclose(product_logit(a, b), expected, rtol=1e-5)
    variable = tf.Variable(a)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(product_logit(variable, b))
    assert np.all(np.isfinite(tape.gradient(loss, variable)))


def test_a_chain_of_products_multiplies_all(randomize):
    pairs = (("c", "b"), ("b", "a"))
    layer = ScenarioHeads(tasks=("c", "b", "a"), scenarios=1, esmm=pairs)
    plain = ScenarioHeads(tasks=("c", "b", "a"), scenarios=1)
    x, ids = _normal(3, 6), np.array([1, 1, 0])
    for each in (layer, plain):
        each(x, ids)
    randomize(layer)
    plain.set_weights(layer.get_weights())
    p = {task: 1 / (1 + np.exp(-np.array(logit, "float64"))) for task, logit in plain(x, ids).items()}
    found = 1 / (1 + np.exp(-np.array(layer(x, ids)["c"], "float64")))
    np.testing.assert_allclose(found, p["a"] * p["b"] * p["c"], rtol=1e-5)


@pytest.mark.parametrize(
    ("adapter", "scenarios"), [("dense", 4), ("dense", 1), ("logit", 4), ("none", 4), ("dense", 0)]
)
def test_heads_count_what_they_hold(adapter, scenarios):
    layer = ScenarioHeads(**{**HEADS, "scenarios": scenarios}, adapter=adapter)
    layer(_normal(3, 6), np.array([0, 1, 1]))
    assert sum(part.parameters for part in layer.count(6)) == layer.count_params()


@pytest.mark.parametrize(
    ("esmm", "message"),
    [
        ((("buy", "clik"),), "`esmm` names 'clik', which is not a task of the log; did you mean `click`?"),
        ((("buy", "click"), ("buy", "click")), "must give 'buy' one parent"),
        ((("buy", "click"), ("click", "buy")), "must not go in a circle"),
        ((("buy", "buy"),), "must not go in a circle"),
    ],
)
def test_impossible_products_are_named(esmm, message):
    with pytest.raises(ValueError) as error:
        ScenarioHeads(**HEADS, esmm=esmm)
    assert message in str(error.value)
