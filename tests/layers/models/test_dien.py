"""DIEN: both GRUs, the attention between them, the auxiliary loss, and the request computed once."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.models.dien import DIEN, AttentionalGRU, NextEventLoss

SMALL = {"dim": 5, "mlp_units": (8, 6)}
RNG = np.random.default_rng(6)
X, WEIGHTS = RNG.normal(size=(3, 6, 4)).astype("float32"), RNG.uniform(size=(3, 6)).astype("float32")
# Oldest first, as the layers get them.
VALID = np.array([[False, False, True, True], [True] * 4, [False] * 4, [False, False, False, True]])


def _logistic(x):
    return 1 / (1 + np.exp(-x))


def _gru(x, weights, w, path):
    """States of one row, event by event."""
    kernels, biases = (np.split(w[f"{path}/input_gates/{part}"], 3, axis=-1) for part in ("kernel", "bias"))
    recurrent = np.split(w[f"{path}/loop/cell/recurrent_kernel"], 3, axis=-1)
    h, states = np.zeros(recurrent[0].shape[0]), []
    for event, a in zip(x, weights, strict=True):
        u, r = (_logistic(event @ kernels[i] + h @ recurrent[i] + biases[i]) for i in range(2))
        candidate = np.tanh(event @ kernels[2] + r * (h @ recurrent[2]) + biases[2])
        h = (1 - a * u) * h + a * u * candidate
        states.append(h)
    return np.array(states)


def _numpy_dien(w, features, histories):
    candidate = np.concatenate(features["item"], axis=1)
    rows = [np.concatenate([v for group in ("user", "item", "context") for v in features[group]], axis=1)]
    for key, history in histories.items():
        found = np.zeros((len(candidate), 5))
        for row, mask in enumerate(history["mask"]):
            # The newest event comes first; padding does not exist.
            events = history["items"][row, mask][::-1].astype("float64")
            if len(events):
                h = _gru(events, np.ones(len(events)), w, f"extract_{key}")
                scores = np.exp(h @ (candidate[row] @ w[f"attend_{key}/kernel"]))
                found[row] = _gru(h, scores / scores.sum(), w, f"evolve_{key}")[-1]
        rows.append(found)
    x = np.concatenate(rows, axis=1)
    for i in range(2):
        x = np.maximum(x @ w[f"mlp/dense_{i}/kernel"] + w[f"mlp/dense_{i}/bias"], 0)
    return x


def test_the_representation_follows_the_equations(arguments, check_backbone, arrays):
    layer = check_backbone(DIEN, SMALL, arguments, unused=("supervise",))
    expected = _numpy_dien(arrays(layer), *arguments[:2])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"auxiliary_weight": 0.0}, {"dropout": 0.3, "head_units": (4,)}, {"dim": 1}], ids=str
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(DIEN, {**SMALL, **options}, arguments, unused=("supervise",))


@pytest.mark.parametrize("sequences", [True, False])
def test_weights_scale_the_update_gate(sequences, check_layer, arrays):
    layer = check_layer(
        AttentionalGRU, {"units": 5, "sequences": sequences}, X, WEIGHTS, parameters=4 * 15 + 15 + 5 * 15
    )
    w = {f"layer/{path}": value for path, value in arrays(layer).items()}
    expected = np.stack([_gru(x, a, w, "layer") for x, a in zip(X, WEIGHTS, strict=True)])
    np.testing.assert_allclose(layer(X, WEIGHTS), expected if sequences else expected[:, -1], atol=1e-5)


def test_weights_of_one_give_the_gru_of_keras(randomize):
    layer, known = AttentionalGRU(units=5, sequences=True), keras.layers.GRU(5, return_sequences=True)
    layer(X, WEIGHTS), known(X)
    randomize(layer)
    (kernel, bias), recurrent = layer.input_gates.get_weights(), np.array(layer.loop.cell.recurrent_kernel)
    # Its gate z keeps the state, where u renews it.
    signs = np.repeat([-1.0, 1.0, 1.0], 5)
    known.set_weights([kernel * signs, recurrent * signs, np.stack([bias * signs, np.zeros(15)])])
    np.testing.assert_allclose(layer(X, np.ones((3, 6), "float32")), known(X), atol=1e-5)


def test_a_weight_of_zero_leaves_the_state_as_it_is(randomize):
    layer = AttentionalGRU(units=5)
    layer(X, WEIGHTS)
    randomize(layer)
    weights = np.where(np.arange(6) < 2, WEIGHTS, 0)
    np.testing.assert_allclose(layer(X, weights), layer(X[:, :2], WEIGHTS[:, :2]), atol=1e-6)


@pytest.mark.slow
def test_small_steps_add_up_in_bfloat16_as_they_do_in_float32(float32_afterwards, randomize):
    # Of one sign, so that the state grows; a state of bfloat16 would be off by .009.
    x, weights = np.abs(RNG.normal(size=(2, 100, 4))).astype("float32"), np.full((2, 100), 0.01, "float32")
    exact = AttentionalGRU(units=5)
    exact(x, weights)
    randomize(exact)
    keras.config.set_dtype_policy("mixed_bfloat16")
    low = AttentionalGRU(units=5)
    low(x, weights)
    low.set_weights(exact.get_weights())
    np.testing.assert_allclose(np.array(low(x, weights), "float32"), exact(x, weights), atol=0.003)


@pytest.mark.slow
def test_a_candidate_pays_for_attention_evolution_and_mlp_alone(arguments, matrix_product_flops):
    features, histories, scenario = arguments
    layer = DIEN(**SMALL)
    layer(*arguments)

    def of_candidates(items):
        of_request = {group: [x[:2] for x in features[group]] for group in ("user", "context")}
        read = {key: {name: x[:2] for name, x in each.items()} for key, each in histories.items()}
        rows = items["request_of"]
        return layer({**of_request, "item": [items["a"], items["b"]]}, read, scenario[:2], request_of=rows)

    items = {"a": features["item"][0], "b": features["item"][1], "request_of": np.array([0, 1, 1, 0])}
    each = [2 * (7 * 5 + length * 5 + length * 3 * 5 * 5) for length in (7, 3)]
    mlp = 2 * ((14 + 2 * 5) * 8 + 8 * 6)
    assert matrix_product_flops(of_candidates, items) == sum(each) + mlp


def test_the_auxiliary_loss_is_that_of_the_pairs_of_events(randomize):
    states, events = RNG.normal(size=(4, 4, 3)), RNG.normal(size=(4, 4, 5))
    negatives = np.array([[0, 0, 5], [2, 3, 7], [4, 4, 4], [6, 6, 6]])
    layer = NextEventLoss()
    layer(states.astype("float32"), events.astype("float32"), VALID)
    randomize(layer)
    kernel, bias = (w.astype("float64") for w in layer.get_weights())
    known = events @ kernel + bias
    total = 0.0
    pairs = [(0, 2), (1, 0), (1, 1), (1, 2)]
    for row, t in pairs:
        other = negatives[row, t]
        total -= np.log(_logistic(states[row, t] @ known[row, t + 1]))
        # The last draw of row 1, place 7, is the very event.
        if (row, t) != (1, 2):
            total -= np.log(1 - _logistic(states[row, t] @ known[other // 4, other % 4]))
    found = layer.loss(states.astype("float32"), events.astype("float32"), VALID, negatives.astype("int32"))
    np.testing.assert_allclose(found, total / len(pairs), rtol=1e-5)


def test_negatives_are_the_events_of_the_batch_equally_often():
    valid = np.concatenate([VALID] * 2)
    layer = NextEventLoss()
    layer.build((None, 4, 3), (None, 4, 5), (None, 4))
    drawn = np.concatenate([np.array(layer.draw(valid)).ravel() for _ in range(100)])
    places, times = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(places, np.flatnonzero(valid))
    # 2,400 draws of 14 places: four standard deviations are 50 of 171.
    assert np.abs(times - len(drawn) / len(places)).max() < 51


@pytest.mark.parametrize("valid", [np.zeros((3, 4), bool), np.arange(4) == np.full((3, 1), 3)], ids=["none", "single"])
def test_rows_without_two_events_have_no_auxiliary_loss(valid, gradients):
    states, events = RNG.normal(size=(3, 4, 3)).astype("float32"), RNG.normal(size=(3, 4, 5)).astype("float32")
    layer = NextEventLoss()
    assert float(layer(states, events, valid)) == 0
    for gradient in gradients(layer, layer.trainable_variables, states, events, valid):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(("weight", "losses"), [(0.5, 2), (0.0, 0)])
def test_the_auxiliary_loss_is_added_in_training_alone(weight, losses, arguments):
    layer = DIEN(**SMALL, auxiliary_weight=weight)
    layer(*arguments)
    assert layer.losses == []
    layer(*arguments, training=True)
    assert len(layer.losses) == losses
    # Scores know little yet: about log 2 for the next event, and again for the other one.
    for loss in layer.losses:
        assert 0.5 < float(loss) / weight < 4


def test_a_history_of_one_event_has_no_next_one(arguments):
    features, histories, scenario = arguments
    histories = {**histories, "within": {name: x[:, :1] for name, x in histories["within"].items()}}
    layer = DIEN(**SMALL)
    layer(features, histories, scenario, training=True)
    assert len(layer.losses) == 1
    assert sum(part.parameters for part in layer.parts()) == layer.count_params()


def test_a_spec_without_an_item_is_refused():
    message = 'DIEN reads features of group "item", which the spec does not declare; declare at least one'
    with pytest.raises(ValueError, match=message):
        DIEN(**SMALL).check_widths(Widths({"user": (5,), "item": (), "context": ()}, {"before": (7, 6)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlp_units": ()}, r"`mlp_units` must be at least 1 long, received \(\)"),
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"auxiliary_weight": -1.0}, "`auxiliary_weight` must be at least 0, received -1.0"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DIEN(**{**SMALL, **options})
