"""RankMixer: its equations, its ablations, ReLU routing with two routers, and its sizes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers.backbone import Widths
from mixrank.layers.models.rankmixer import RankMixer, ReluMoE
from mixrank.layers.ranking import build_ranker
from mixrank.layers.registry import presets

ROOT = Path(__file__).parents[3]
SMALL = {"dim": 12, "num_tokens": 4, "num_layers": 2, "hidden_dim": 7, "attention_heads": 3, "head_units": (6,)}
EXPERTS = {"num_experts": 3, "hidden_dim": 5, "active_share": 0.4}


def _weights(layer):
    return {v.path.removeprefix(f"{layer.name}/"): np.array(v, "float64") for v in layer.weights}


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def _norm(x, gain, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * gain + bias


def _token_network(w, s, i):
    """Equations (6)-(9), or (10) with as many experts as the router has outputs."""
    if "ffn/expand/kernel" in w:
        v = _gelu(s @ w["ffn/expand/kernel"][i] + w["ffn/expand/bias"][i, 0])
        return v @ w["ffn/contract/kernel"][i] + w["ffn/contract/bias"][i, 0]
    gates = np.maximum(s @ w["experts/router/kernel"][i] + w["experts/router/bias"][i, 0], 0)
    expand, expand_bias = w["experts/expand/kernel"][i], w["experts/expand/bias"][i, 0]
    contract, contract_bias = w["experts/contract/kernel"][i], w["experts/offset/kernel"][i]
    hidden, total = expand.shape[1] // len(gates), 0
    for j, gate in enumerate(gates):
        one = slice(j * hidden, (j + 1) * hidden)
        expert = _gelu(s @ expand[:, one] + expand_bias[one]) @ contract[one] + contract_bias[j]
        total = total + gate * expert
    return total


def _numpy_rankmixer(w, features, histories, *, dim, num_tokens, num_layers):
    """The representation by the paper's equations, row by row and token by token."""
    rows = []
    for b in range(4):
        fields = [vector[b] for group in ("user", "item", "context") for vector in features[group]]
        for window in ("before", "within"):
            items, mask = histories[window]["items"][b], histories[window]["mask"][b]
            fields.append(items[mask].mean(axis=0) if mask.any() else np.zeros(items.shape[1]))
        e = np.concatenate(fields)
        # (2); 29 numbers in 4 pieces of 8, the last one short.
        e = np.concatenate([e, np.zeros(-len(e) % num_tokens)]).reshape(num_tokens, -1)
        x = np.stack([e[i] @ w["tokenizer/project/kernel"][i] + w["tokenizer/project/bias"][i, 0] for i in range(4)])
        piece = dim // num_tokens
        for layer in range(num_layers):
            block = {name.split("/", 1)[1]: value for name, value in w.items() if name.startswith(f"block_{layer}/")}
            # (3)-(5)
            mixed = np.stack([np.concatenate([t[h * piece : (h + 1) * piece] for t in x]) for h in range(num_tokens)])
            # (1)
            s = _norm(mixed + x, block["mixing_norm/gamma"], block["mixing_norm/beta"])
            v = np.stack([_token_network(block, s[i], i) for i in range(num_tokens)])
            x = _norm(v + s, block["ffn_norm/gamma"], block["ffn_norm/beta"])
        rows.append(x.mean(axis=0))
    return np.stack(rows)


@pytest.mark.parametrize("options", [{}, EXPERTS], ids=["dense", "experts"])
def test_the_representation_follows_the_equations(options, arguments, randomize):
    layer = RankMixer(**{**SMALL, **options})
    layer(*arguments)
    randomize(layer, scale=0.4)
    expected = _numpy_rankmixer(_weights(layer), *arguments[:2], dim=12, num_tokens=4, num_layers=2)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 0},
        {"num_tokens": 5, "dim": 15},
        {"mixing": "none"},
        {"mixing": "attention"},
        {"ffn": "shared"},
        {"skip": False},
        {"norm": False},
        {"dropout": 0.2},
        {"pooling": "target"},
        {**EXPERTS, "dual_router": False},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_learns_and_comes_back_from_its_config(options, arguments, check_backbone):
    check_backbone(RankMixer, {**SMALL, **options}, arguments)


def test_outside_training_the_training_router_is_idle(arguments, check_backbone):
    check_backbone(RankMixer, {**SMALL, **EXPERTS}, arguments, unused=("training_router",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"num_tokens": 0}, "`num_tokens` must be at least 1, received 0"),
        ({"num_experts": -1}, "`num_experts` must be at least 0, received -1"),
        ({"num_tokens": 5}, "divisible by the number of tokens 5, received 12; the nearest widths are 10 and 15"),
        ({"mixing": "attention", "attention_heads": 5}, "`heads` must divide the token width 12, received 5"),
        ({"mixing": "swap"}, "`mixing` must be tokens, attention or none, received 'swap'"),
        ({**EXPERTS, "ffn": "shared"}, '`ffn` must be "per_token" with experts'),
        ({**EXPERTS, "active_share": 0.0}, "`active_share` must be above 0, received 0.0"),
        ({"dropout": 1.0}, "`dropout` must be below 1, received 1.0"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message, arguments):
    with pytest.raises(ValueError, match=message):
        RankMixer(**{**SMALL, **options})(*arguments)


def test_a_token_network_changes_its_own_token_only(arguments, randomize):
    layer = RankMixer(**{**SMALL, "num_layers": 1})
    layer(*arguments)
    randomize(layer)
    (block,) = layer.blocks
    x = np.random.default_rng(2).normal(size=(3, 4, 12)).astype("float32")
    before = np.array(block(x))
    kernel = np.array(block.ffn.contract.kernel)
    kernel[2] += 1
    block.ffn.contract.kernel.assign(kernel)
    assert np.flatnonzero(np.abs(np.array(block(x)) - before).max(axis=(0, 2))).tolist() == [2]


def test_the_expert_layer_is_a_well_behaved_layer(check_layer):
    x = np.random.default_rng(3).normal(size=(6, 3, 4)).astype("float32")
    options = {"num_experts": 2, "hidden_dim": 5, "dual_router": False}
    # Router, both products and their biases, and two numbers that are kept, not learned.
    check_layer(ReluMoE, options, x, parameters=3 * (4 * 2 + 2 + 2 * (4 * 5 + 5 + 5 * 4 + 4)) + 2)


@pytest.fixture
def experts(randomize):
    """A layer of 3 tokens, width 4, with random weights, and 6 rows."""
    layer = ReluMoE(num_experts=2, hidden_dim=5, active_share=0.5, penalty=0.1, max_penalty=1.0)
    x = np.random.default_rng(3).normal(size=(6, 3, 4)).astype("float32")
    layer(x)
    randomize(layer)
    layer.penalty_weight.assign(0.1)
    return layer, x


def test_closed_routers_give_exactly_zero(experts):
    layer, x = experts
    layer.router.kernel.assign(layer.router.kernel * 0)
    layer.router.bias.assign(layer.router.bias * 0 - 1)
    np.testing.assert_array_equal(layer(x), np.zeros_like(x))
    np.testing.assert_array_equal(layer.gates(x), np.zeros((6, 3, 2)))


def test_rows_alternate_between_the_routers_in_training_only(experts):
    layer, x = experts
    inference = np.array(layer(x))
    trained = np.array(layer(x, training=True))
    layer.router.set_weights(layer.training_router.get_weights())
    by_training_router = np.array(layer(x))
    np.testing.assert_allclose(trained[1::2], inference[1::2], atol=1e-6)
    np.testing.assert_allclose(trained[::2], by_training_router[::2], atol=1e-6)
    assert np.abs(trained[::2] - inference[::2]).max(axis=(1, 2)).min() > 1e-3


def test_the_penalty_sums_the_gates_of_the_inference_router_and_reaches_no_other(experts):
    layer, x = experts
    with tf.GradientTape() as tape:
        layer(x, training=True)
        (loss,) = layer.losses
    expected = 0.1 * np.array(layer.gates(x))[1::2].sum(axis=(1, 2)).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    variables = layer.trainable_variables
    found = zip(variables, tape.gradient(loss, variables), strict=True)
    reached = {variable.path.split("/", 1)[1] for variable, gradient in found if gradient is not None}
    assert reached == {"router/kernel", "router/bias"}
    layer(x)
    assert not layer.losses


def test_through_two_blocks_the_penalty_reaches_no_training_router(arguments, randomize):
    layer = RankMixer(**{**SMALL, **EXPERTS})
    layer(*arguments)
    randomize(layer)
    for block in layer.blocks:
        block.ffn.penalty_weight.assign(1.0)
    with tf.GradientTape() as tape:
        layer(*arguments, training=True)
        loss = sum(layer.losses)
    variables = layer.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        moved = gradient is not None and np.any(gradient)
        assert not (moved and "training_router" in variable.path)
        assert moved or "experts/router" not in variable.path


@pytest.mark.parametrize(("open_gates", "factor"), [(True, 1.2), (False, 1 / 1.2)])
def test_the_penalty_grows_with_too_many_open_gates_and_shrinks_with_too_few(open_gates, factor, experts):
    layer, x = experts
    layer.router.bias.assign(layer.router.bias * 0 + (100 if open_gates else -100))
    layer(x, training=True)
    assert float(layer.active_ratio) == open_gates
    np.testing.assert_allclose(layer.penalty_weight, 0.1 * factor, rtol=1e-6)
    layer(x)
    np.testing.assert_allclose(layer.penalty_weight, 0.1 * factor, rtol=1e-6)


def test_a_batch_of_one_row_leaves_the_penalty_alone(experts):
    layer, x = experts
    layer.active_ratio.assign(0.25)
    layer(x[:1], training=True)
    assert float(layer.active_ratio) == 0.25
    np.testing.assert_allclose([layer.penalty_weight, layer.losses[0]], [0.1, 0])


def test_the_penalty_stays_below_its_maximum(experts):
    layer, x = experts
    layer.router.bias.assign(layer.router.bias * 0 + 100)
    layer.max_penalty = 0.11
    layer(x, training=True)
    np.testing.assert_allclose(layer.penalty_weight, 0.11)


TOY = {"dim": 12, "num_tokens": 4, "head_units": (), "num_experts": 6, "hidden_dim": 8, "active_share": 0.2}


def _train(model, rows, tasks):
    labels = {task: (rows["clip"] % 2).astype("float32")[:, None] for task in tasks}
    loss = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in tasks}
    model.compile(keras.optimizers.Adam(0.02), loss=loss, jit_compile=False)
    # A step that makes variables is traced a second time.
    model.optimizer.build(model.trainable_variables)
    return model.fit(rows, labels, batch_size=32, verbose=0).history["loss"][0]


@pytest.mark.slow
def test_training_in_bfloat16_opens_the_share_of_experts_that_was_asked_for(spec, sizes, make_rows, float32_afterwards):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build_ranker(spec, sizes, model="rankmixer", params=TOY)
    for block in model.get_layer("rankmixer").blocks:
        block.ffn.penalty_weight.assign(1e-2)
    first = [np.array(block.ffn.router.kernel) for block in model.get_layer("rankmixer").blocks]
    loss = _train(model, make_rows(model, batch=32 * 250), spec.tasks)
    # Two tasks, and the penalty; always saying one half would cost 1.39. At the start half of the gates are open.
    assert loss < 1.0
    backbone = model.get_layer("rankmixer")
    ratios = backbone.insights(None, ())["active_ratio"]
    assert len(ratios) == 2 and all(0.05 < ratio < 0.35 for ratio in ratios)
    for block, kernel in zip(backbone.blocks, first, strict=True):
        assert block.ffn.penalty_weight.dtype == "float32" and float(block.ffn.penalty_weight) != 1e-2
        assert np.any(np.array(block.ffn.router.kernel) != kernel)
        assert np.any(np.array(block.ffn.training_router.kernel) != kernel)


@pytest.mark.slow
def test_two_replicas_keep_one_penalty_and_train():
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before, after, penalties = json.loads(done.stdout.splitlines()[-1])
    assert after < 0.8 * before
    # 60 steps of 1.2, up or down, from one start.
    assert len(penalties) == 2 and penalties[0] == penalties[1] != 1e-2


def _two_replicas() -> None:
    """Trains one layer on two CPU devices; prints the first loss, the last loss and lambda on every replica."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64 * 60, 3, 4)).astype("float32")
    y = np.abs(x).sum(axis=(1, 2), keepdims=True)[:, 0]
    with strategy.scope():
        inputs = keras.Input((3, 4))
        layer = ReluMoE(num_experts=4, hidden_dim=8, penalty=1e-2)
        outputs = keras.layers.Dense(1)(keras.layers.Flatten()(layer(inputs)))
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.Adam(0.02), loss="mse", jit_compile=False)
    before = model.evaluate(x, y, batch_size=64, verbose=0)
    model.fit(x, y, batch_size=64, verbose=0)
    after = model.evaluate(x, y, batch_size=64, verbose=0)
    penalties = [float(value) for value in strategy.experimental_local_results(layer.penalty_weight.value)]
    print(json.dumps([before, after, penalties]))


def test_the_share_of_open_experts_is_told_per_block(arguments, randomize):
    layer = RankMixer(**{**SMALL, **EXPERTS})
    layer(*arguments)
    randomize(layer)
    layer(*arguments, training=True)
    # The second and fourth row belong to the router of inference.
    x = layer.tokenizer(np.concatenate(layer.fields(*arguments[:2]), axis=1))
    gates = []
    for block in layer.blocks:
        mixed = block.mixing_norm(block.mixing(x) + x)
        gates.append(np.array(block.ffn.gates(mixed))[1::2])
        x = block(x)
    expected = [np.mean(gate > 0) for gate in gates]
    assert all(0 < ratio < 1 for ratio in expected)
    np.testing.assert_allclose(layer.insights(None, ())["active_ratio"], expected, rtol=1e-6)
    assert RankMixer(**SMALL).insights(None, ()) == {}


def test_a_penalty_above_its_maximum_is_refused():
    with pytest.raises(ValueError, match="`penalty` must be above 0 and at most `max_penalty`=0.1, received 0.0"):
        ReluMoE(num_experts=2, hidden_dim=5, penalty=0.0)


def test_a_preset_has_the_published_size():
    # Published are the blocks' width, tokens and layers, and the total; the features here are 1000 wide.
    widths = Widths(vectors={"user": (1000,), "item": (), "context": ()}, histories={})
    for preset, published in (("small", 107e6), ("large", 1.1e9)):
        parts = {part.name: part.parameters for part in RankMixer(**presets("rankmixer")[preset]).count(widths)}
        assert sum(parts.values()) == pytest.approx(published, rel=0.01)


if __name__ == "__main__":
    _two_replicas()
