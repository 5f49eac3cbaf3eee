"""Optimizers from settings."""

from __future__ import annotations

import pytest

from mixrank.components.training import Optimizer, TableOptimizer
from mixrank.components.training.optimizing import build_optimizer, build_table_optimizer


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
