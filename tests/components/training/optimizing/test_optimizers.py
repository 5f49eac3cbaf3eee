"""Optimizers from settings."""

from __future__ import annotations

import keras
import pytest

from mixrank.components.training import Optimizer, TableOptimizer
from mixrank.components.training.optimizing import build_optimizer, build_table_optimizer, named_variables


def test_a_refused_option_is_named():
    with pytest.raises(ValueError, match="optimizer `adam` refuses its options {'momentun': 0.9}"):
        build_optimizer(Optimizer(options={"momentun": 0.9}))
    with pytest.raises(ValueError, match="there is no optimizer `adan`; did you mean `adam`"):
        Optimizer(name="adan")
    with pytest.raises(ValueError, match="no optimizer of embedding tables `adam`; did you mean `lazy_adam`"):
        TableOptimizer(name="adam")


@pytest.mark.parametrize("option", ["use_ema", "loss_scale_factor", "gradient_accumulation_steps"])
def test_an_option_that_would_do_nothing_is_refused(option):
    with pytest.raises(ValueError, match=f"option `{option}` of an optimizer is refused: "):
        Optimizer(options={option: 2})


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"schedule": "cosine"}, {0: 0.2, 4: 0.1, 8: 0.0}),
        ({"schedule": "cosine", "warmup": 0.5}, {0: 0.0, 2: 0.1, 4: 0.2, 6: 0.1, 8: 0.0}),
        ({"warmup": 0.25}, {0: 0.0, 1: 0.1, 2: 0.2, 8: 0.2}),
        ({}, {0: 0.2, 8: 0.2}),
    ],
)
def test_the_rate_follows_its_schedule(settings, rates):
    optimizer = build_optimizer(Optimizer(learning_rate=0.2, **settings), steps=8)
    of_tables = TableOptimizer(**{"schedule": "constant", "learning_rate": 0.2} | settings)
    for step, rate in rates.items():
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate, abs=1e-6)
        assert float(build_table_optimizer(of_tables, steps=8).rate(step)) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize("settings", [{"schedule": "cosine", "warmup": 0.5}, {"warmup": 0.25}], ids=str)
def test_a_schedule_counts_the_steps_of_its_own_training(settings):
    first, later = (build_optimizer(Optimizer(**settings), steps=8, first_step=step) for step in (0, 100))
    of_tables = build_table_optimizer(TableOptimizer(**settings), steps=8, first_step=100)
    begun = build_table_optimizer(TableOptimizer(**settings), steps=8)
    for step in range(9):
        first.iterations.assign(step)
        later.iterations.assign(100 + step)
        assert float(later.learning_rate) == pytest.approx(float(first.learning_rate), abs=1e-9)
        assert float(of_tables.rate(100 + step)) == pytest.approx(float(begun.rate(step)), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "slots"),
    [
        ("adam", {}, {"momentum", "velocity"}),
        ("adam", {"amsgrad": True}, {"momentum", "velocity", "velocity_hat"}),
        ("adamw", {}, {"momentum", "velocity"}),
        ("adagrad", {}, {"accumulator"}),
        ("rmsprop", {"momentum": 0.9}, {"velocity", "momentum"}),
        ("rmsprop", {"centered": True}, {"velocity", "average_gradient"}),
        ("sgd", {}, set()),
        ("sgd", {"momentum": 0.9}, {"momentum"}),
        ("lamb", {}, {"momentum", "velocity"}),
        ("lion", {}, {"momentum"}),
    ],
)
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_slots_are_named_by_kind_and_place_whatever_the_weights_are_called(name, options, slots, schedule):
    # A name that begins another, and two weights of one name.
    weights = [keras.Variable([float(place)] * (2 + place), name=each) for place, each in enumerate(("w", "w_b", "w"))]
    optimizer = build_optimizer(Optimizer(name=name, options=options, schedule=schedule))
    optimizer.build(weights)
    found = named_variables(optimizer, weights)
    assert set(found) == {"iteration"} | {f"{slot}/{place}" for slot in slots for place in range(3)}
    assert found["iteration"] is optimizer.iterations
    for key, variable in found.items():
        if key != "iteration":
            assert variable.shape == weights[int(key[-1])].shape
