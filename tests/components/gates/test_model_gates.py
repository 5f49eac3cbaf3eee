"""Verdicts on scores: by how much, how sure, and why."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.components.gates import GateSettings, judge_model
from mixrank.components.gates.model_gates import LEAST_USERS, ratio_interval
from mixrank.components.metrics import auc, find_metric

USERS, ROWS = 200, 2000


@pytest.fixture(scope="module")
def world():
    """Labels drawn with known probabilities, the users of the rows, and the probabilities."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, USERS, ROWS)
    truth = 1 / (1 + np.exp(-rng.normal(-0.5, 1.2, ROWS)))
    labels = (rng.random(ROWS) < truth).astype(np.int64)
    return labels, truth, users


def verdicts(world, score, *, base=None, pushed=None, rows=slice(None), **gates):
    labels, truth, users = (array[rows] for array in world)
    base = np.full(len(labels), labels.mean()) if base is None else base
    results = judge_model(
        {"click": labels},
        {"click": truth if score is None else score[rows]},
        users,
        GateSettings(**gates),
        losses={"click": find_metric("log_loss")},
        baseline={"click": base},
        pushed={} if pushed is None else {"click": pushed[rows]},
    )
    return {result.kind: result for result in results}


def test_a_good_model_passes_every_gate_for_sure(world):
    found = verdicts(world, None, pushed=0.8 * world[1] + 0.2 * world[0].mean())
    assert set(found) == {"below_baseline", "worse_than_pushed", "miscalibrated"}
    assert all(result.passed and not result.by_chance for result in found.values())


def test_a_model_below_its_baseline_is_refused_with_figure_and_line(world):
    noise = np.clip(world[1] + np.random.default_rng(1).normal(0, 0.4, ROWS), 0.01, 0.99)
    result = verdicts(world, noise)["below_baseline"]
    assert (result.passed, result.by_chance) == (False, False)
    assert "above the additive baseline's (2000 rows of 200 users: 95 % interval 0." in result.said
    assert result.finding.message.endswith('if it is meant: gates: {allow: ["below_baseline:click"]}')
    assert verdicts(world, noise, above_baseline=5.0)["below_baseline"].passed
    assert "below_baseline" not in verdicts(world, noise, above_baseline=None)


def test_a_verdict_that_other_users_could_have_turned_says_so(world):
    rng = np.random.default_rng(4)
    own, base = (np.clip(world[1] + rng.normal(0, 0.2, ROWS), 0.01, 0.99) for _ in range(2))
    rows = slice(0, 100)
    better, worse = verdicts(world, own, base=base[rows], rows=rows), verdicts(world, base, base=own[rows], rows=rows)
    for results in (better, worse):
        result = results["below_baseline"]
        assert result.by_chance
        assert result.said.endswith("; other users could have turned this verdict: judge on more rows")
    assert better["below_baseline"].passed is not worse["below_baseline"].passed
    few = np.isin(world[2], range(LEAST_USERS - 1))
    result = verdicts(world, None, rows=few)["below_baseline"]
    assert result.by_chance and f"of {LEAST_USERS - 1} users: too few for an interval" in result.said


def test_only_a_model_that_is_surely_worse_than_the_pushed_one_is_refused(world):
    worse = np.clip(world[1] + np.random.default_rng(1).normal(0, 0.3, ROWS), 0.01, 0.99)
    refused = verdicts(world, worse, pushed=world[1])["worse_than_pushed"]
    assert (refused.passed, refused.by_chance) == (False, False)
    assert "above the last pushed model's" in refused.said
    itself = verdicts(world, world[1].astype(np.float32), pushed=world[1] - 1e-8)["worse_than_pushed"]
    assert itself.passed and not itself.by_chance
    hardly = np.clip(world[1] + np.random.default_rng(2).normal(0, 0.002, ROWS), 0.001, 0.999)
    unsure = verdicts(world, hardly, pushed=world[1])["worse_than_pushed"]
    assert (unsure.passed, unsure.by_chance) == (True, True)
    assert "worse_than_pushed" not in verdicts(world, worse, pushed=world[1], above_pushed=None)


@pytest.mark.parametrize(("factor", "bound", "passed"), [(1.5, 1.25, False), (0.5, 1.25, False), (1.5, 2.0, True)])
def test_predictions_far_from_the_mean_label_are_refused(world, factor, bound, passed):
    result = verdicts(world, np.clip(factor * world[1], 0, 1), calibration=bound)["miscalibrated"]
    assert (result.passed, result.by_chance) == (passed, False)
    assert f"{1 / bound:.3g} to {bound:.3g} is allowed" in result.said


def test_a_prediction_that_is_no_number_is_refused(world):
    broken = world[1].copy()
    broken[3:5] = np.nan, np.inf
    found = verdicts(world, broken)
    assert set(found) == {"not_finite"}
    assert found["not_finite"].said == "task `click`: 2 of 2000 predictions are not finite numbers"


def test_a_task_of_one_class_is_not_judged(world):
    none = (np.zeros(ROWS, np.int64), *world[1:])
    assert verdicts(none, None, base=np.full(ROWS, 0.01)) == {}


def test_rows_that_do_not_count_for_a_task_are_not_judged(world):
    labels, truth, users = world
    counted = np.arange(ROWS) % 3 > 0
    unknown = np.where(counted, labels.astype(float), np.nan)
    base, wild = np.full(ROWS, 0.4), np.where(counted, truth, 0.999)
    found = judge_model(
        {"click": unknown}, {"click": wild}, users, GateSettings(), losses={"click": find_metric("log_loss")},
        baseline={"click": base}, pushed={"click": truth},
    )  # fmt: skip
    rest = (array[counted] for array in (labels, truth, users))
    alone = verdicts(tuple(rest), None, base=base[counted], pushed=truth[counted])
    assert {result.kind: result for result in found} == alone


def test_a_row_of_weight_0_is_not_judged_and_one_of_weight_2_counts_twice(world):
    labels, truth, users = world
    weights = np.arange(ROWS) % 3
    base, wild = np.full(ROWS, 0.4), np.where(weights > 0, truth, 0.999)
    (found, *_) = judge_model(
        {"click": labels}, {"click": wild}, users, GateSettings(), losses={"click": find_metric("log_loss")},
        baseline={"click": base}, pushed={}, weights={"click": weights},
    )  # fmt: skip
    twice = np.repeat(np.arange(ROWS), weights)
    (expected, *_) = verdicts((labels[twice], truth[twice], users[twice]), None, base=base[twice]).values()
    assert found.said.partition(" (")[0] == expected.said.partition(" (")[0]
    assert found.said.partition("interval")[2] == expected.said.partition("interval")[2]


def test_a_task_of_numbers_is_judged_by_its_own_loss():
    rng = np.random.default_rng(3)
    mean = rng.gamma(2.0, 1.0, ROWS)
    labels, users = rng.poisson(mean), rng.integers(0, USERS, ROWS)
    base = np.full(ROWS, labels.mean())

    def judged(scores, baseline):
        given = {"losses": {"seen": find_metric("poisson_loss")}, "pushed": {}, "baseline": {"seen": baseline}}
        results = judge_model({"seen": labels}, {"seen": scores}, users, GateSettings(), **given)
        return {result.kind: result for result in results}

    good, bad = judged(mean, base), judged(base, mean)
    assert good["below_baseline"].passed and not good["below_baseline"].by_chance and good["miscalibrated"].passed
    assert not bad["below_baseline"].passed and "Poisson loss" in bad["below_baseline"].said
    assert not judged(2 * mean, base)["miscalibrated"].passed


def test_the_interval_is_that_of_resampled_users(world):
    labels, truth, users = world
    found = ratio_interval(truth, labels, users, 0.95)
    rng = np.random.default_rng(3)
    sums = np.stack([np.bincount(users, values, USERS) for values in (truth, labels)])
    drawn = rng.multinomial(USERS, np.full(USERS, 1 / USERS), 20_000)
    ratios = (drawn @ sums[0]) / (drawn @ sums[1])
    assert found.value == pytest.approx(truth.sum() / labels.sum())
    np.testing.assert_allclose(found[1:], np.quantile(ratios, [0.025, 0.975]), atol=0.006)
    assert auc(labels, truth) > 0.7
