"""Distances between splits, by hand."""

from __future__ import annotations

import math

import pytest

from mixrank.pipeline.checking.split_drift import jensen_shannon, l_infinity


def test_the_l_infinity_distance_is_the_largest_change_of_a_share():
    assert l_infinity({"a": 6, "b": 2}, {"a": 1, "b": 1, "c": 2}) == 0.5


def test_the_jensen_shannon_divergence_of_equal_shares_is_0_and_of_disjoint_ones_1():
    assert jensen_shannon({1.0: 3, 5.0: 1}, {1.0: 6, 5.0: 2}) == pytest.approx(0)
    assert jensen_shannon({0.0: 3, 1.0: 1}, {7.0: 5, 9.0: 1}) == pytest.approx(1)
    assert jensen_shannon({1.0: 3}, {2.0: 5}) == pytest.approx(1)
    assert jensen_shannon({1.0: 3}, {1.0: 5}) == pytest.approx(0)


def test_the_jensen_shannon_divergence_of_two_buckets_is_as_by_hand():
    # Shares 1/2, 1/2 and 1/4, 3/4 in the first and last of ten buckets.
    p, q = (0.5, 0.5), (0.25, 0.75)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    expected = sum(x * math.log2(x / m) / 2 for side in (p, q) for x, m in zip(side, middle, strict=True))
    assert jensen_shannon({0.0: 1, 1.0: 1}, {0.0: 1, 1.0: 3}) == pytest.approx(expected)
