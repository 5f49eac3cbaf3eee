"""Tests and slopes against SciPy's ingredients, textbook numbers and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mixrank.pipeline.comparing.significance import holm, paired_t_test, slope, t_test


def test_welch_by_hand():
    one, other = [0.71, 0.72, 0.74, 0.73], [0.70, 0.69, 0.71, 0.65]
    v1, v2 = np.var(one, ddof=1) / 4, np.var(other, ddof=1) / 4
    t = (np.mean(one) - np.mean(other)) / math.sqrt(v1 + v2)
    degrees = (v1 + v2) ** 2 / (v1**2 / 3 + v2**2 / 3)
    assert t_test(one, other) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-12)
    assert t_test(other, one) == t_test(one, other)


def test_pairs_by_hand():
    one, other = {0: 0.71, 1: 0.72, 2: 0.74, 3: 0.73}, {3: 0.72, 0: 0.69, 1: 0.71, 2: 0.72, 9: 0.1}
    differences = [0.02, 0.01, 0.02, 0.01]
    t = np.mean(differences) / (np.std(differences, ddof=1) / 2)
    assert paired_t_test(one, other) == pytest.approx(2 * stats.t.sf(t, 3), rel=1e-9)
    assert paired_t_test(other, one) == pytest.approx(paired_t_test(one, other))


def test_what_moves_both_models_of_a_pair_is_no_spread():
    luck, gain = np.random.default_rng(0).normal(size=4), np.array([0.011, 0.009, 0.010, 0.012])
    one, other = luck, luck - gain
    assert t_test(one, other) > 0.5
    assert paired_t_test(dict(enumerate(one)), dict(enumerate(other))) < 0.01


def test_pairs_without_spread_have_no_p_value():
    assert math.isnan(paired_t_test({0: 1.0}, {0: 2.0}))
    assert math.isnan(paired_t_test({0: 1.0, 1: 2.0}, {2: 1.0, 3: 2.0}))
    assert math.isnan(paired_t_test({0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5}))


def test_a_test_without_spread_has_no_p_value():
    assert math.isnan(t_test([1.0], [1.0, 2.0]))
    assert math.isnan(t_test([1.0, 1.0], [2.0, 2.0]))


@pytest.mark.slow
def test_equal_models_are_told_apart_as_often_as_promised():
    rng = np.random.default_rng(0)
    p = [t_test(*rng.normal(size=(2, 4))) for _ in range(2000)]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.06


def test_holm_step_by_step():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([0.01, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.04)


def test_the_slope_is_per_tenfold_and_its_interval_holds_the_truth():
    assert slope([10, 100, 1000], [0.1, 0.3, 0.5]).value == pytest.approx(0.2)
    rng = np.random.default_rng(1)
    sizes = [10.0**k for k in range(2, 6) for _ in range(4)]
    inside = 0
    for _ in range(500):
        found = slope(sizes, 0.02 * np.log10(sizes) + rng.normal(0, 0.01, len(sizes)))
        inside += found.low < 0.02 < found.high
    assert 0.92 < inside / 500 < 0.98
    with pytest.raises(ValueError, match="three trainings of two sizes"):
        slope([10, 10, 10], [1, 2, 3])
