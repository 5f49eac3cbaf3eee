"""The curve of a round: losses between points, validations at even distances."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from mixrank.components.training.resumable_training import POINTS, Rounds, validations_within


class Line(keras.Sequential):
    @property
    def state(self):
        return {str(place): each for place, each in enumerate([*self.variables, *self.optimizer.variables])}


def fit(tmp_path, **options):
    """Two rounds of 30 steps of 2 rows on a model of one weight; the loss of every step, and the log."""
    losses = []
    keras.utils.set_random_seed(0)
    model = Line([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    x = np.linspace(-1, 1, 120, dtype="float32")[:, None]
    # What Keras gives is the mean since the round began.
    means = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))
    rounds = Rounds(
        directory=tmp_path / "states",
        log=tmp_path / "log.jsonl",
        steps_per_round=30,
        steps_per_pass=60,
        batch_size=2,
        total_rounds=2,
        **options,
    )
    rows = np.random.default_rng(0).permutation(x)
    model.fit(rows, 3 * rows + 1, batch_size=2, steps_per_epoch=30, epochs=2, callbacks=[means, rounds], verbose=0)
    return losses, [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


def test_points_of_a_curve_hold_the_mean_loss_since_the_last_point(tmp_path):
    means, log = fit(tmp_path)
    for number, entry in enumerate(log):
        mean = np.array(means[30 * number :][:30])
        sums = np.arange(1, 31) * mean
        steps = np.diff(sums, prepend=0)
        samples = [point["samples"] for point in entry["curve"]]
        assert len(samples) == POINTS
        assert samples[-1] == entry["samples"] == 60 * (number + 1)
        ends = [sample // 2 - 30 * number for sample in samples]
        expected = [steps[a:b].mean() for a, b in zip([0, *ends], ends, strict=False)]
        np.testing.assert_allclose([point["loss"] for point in entry["curve"]], expected, rtol=1e-3, atol=1e-6)
        assert {len(point["valid"]) for point in entry["curve"]} == {0}


def test_a_round_is_validated_at_even_distances_and_at_its_end(tmp_path):
    calls = iter(range(100))
    _, log = fit(tmp_path, validate=lambda: {"loss": float(next(calls))}, validations_within=2)
    found = [(p["samples"], p["valid"]["loss"]) for entry in log for p in entry["curve"] if p["valid"]]
    # Of 20 points, the 7th, the 13th and the last: behind 10, 20 and 30 steps of 2 rows.
    assert found == [(20, 0), (40, 1), (60, 2), (80, 3), (100, 4), (120, 5)]
    assert {len(entry["curve"]) for entry in log} == {POINTS}
    assert [entry["valid"]["loss"] for entry in log] == [2, 5]


@pytest.mark.parametrize(("trained", "validated", "number"), [(80_000, 10_000, 2), (500, 10_000, 0), (10**9, 1, 19)])
def test_validations_within_a_round_take_a_tenth_of_its_time(trained, validated, number):
    assert validations_within(trained, validated) == number
