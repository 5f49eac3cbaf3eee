import doctest

import numpy as np
import pytest

from mixrank.components.baselines import target_statistics
from mixrank.components.baselines.target_statistics import TargetStatistics


def reference(values, days, labels, smoothing, value_lists, at):
    """Rate and rows of one row by looking at every training row; `at` is its day, None for later than all."""
    earlier = [i for i in range(len(days)) if at is None or days[i] < at]
    rates, rows = [], []
    for value in [v for v in value_lists if v != 0]:
        # A value that stands twice in a row's list counts twice.
        own = [i for i in earlier for v in np.atleast_1d(values[i]) if v == value]
        rows.append(len(own))
        if earlier:
            prior = labels[earlier].mean(axis=0)
            positives = sum((labels[i] for i in own), np.zeros(labels.shape[1]))
            rates.append((positives + smoothing * prior) / (len(own) + smoothing))
        else:
            rates.append(np.full(labels.shape[1], np.nan))
    if not rows:
        return np.full(labels.shape[1], np.nan), 0.0
    return np.mean(rates, axis=0), np.mean(rows)


@pytest.mark.parametrize("shape", [(90,), (90, 3)])
def test_statistics_are_those_of_a_loop_over_all_earlier_rows(shape):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 7, shape)
    # Days with gaps, in no order.
    days = rng.choice([3, 4, 8, 20], 90)
    labels = (rng.random((90, 2)) < (0.3, 0.6)).astype(int)
    statistics = TargetStatistics(smoothing=2.5).fit(values, days, labels)
    asked = np.concatenate([values, rng.integers(0, 9, (40, *shape[1:]))])
    asked_days = np.concatenate([days, rng.integers(1, 25, 40)])
    for when in (asked_days, None):
        rates, rows = statistics.transform(asked, when)
        for i in range(len(asked)):
            at = None if when is None else when[i]
            rate, count = reference(values, days, labels, 2.5, np.atleast_1d(asked[i]), at)
            np.testing.assert_allclose(rates[i], rate, atol=1e-12)
            assert rows[i] == pytest.approx(count)


def test_a_label_changes_no_row_of_its_day_or_an_earlier_one():
    rng = np.random.default_rng(2)
    values, days, labels = rng.integers(1, 4, 60), rng.integers(0, 5, 60), rng.integers(0, 2, (60, 1))
    before = TargetStatistics().fit(values, days, labels).transform(values, days)[0]
    for row in range(60):
        changed = labels.copy()
        changed[row] = 1 - changed[row]
        after = TargetStatistics().fit(values, days, changed).transform(values, days)[0]
        known = days <= days[row]
        np.testing.assert_array_equal(before[known], after[known])
        later = (days > days[row]) & (values == values[row])
        assert (before[later] != after[later]).all()


def test_a_value_that_was_not_seen_has_the_overall_rate_and_a_missing_one_none():
    statistics = TargetStatistics().fit([5, 5, 0, 6], [1, 1, 1, 2], [[1], [0], [0], [1]])
    # Below, between and above the values of training; value 6 was not seen before day 2.
    rates, rows = statistics.transform([-3, 4, 9, 6, 0], [2] * 5)
    np.testing.assert_allclose(rates[:, 0], [1 / 3] * 4 + [np.nan])
    assert rows.tolist() == [0] * 5
    rates, rows = statistics.transform([5], [1])
    assert np.isnan(rates).all() and rows.tolist() == [0]


def test_pairs_of_large_codes_do_not_overflow():
    large = np.array([(2**31 - 1 << 31) + 7, (2**31 - 1 << 31) + 8, 5])
    statistics = TargetStatistics(smoothing=1.0).fit(np.tile(large, 2), [0, 0, 0, 1, 1, 1], [[1], [0], [0]] * 2)
    assert statistics.transform(large)[0][:, 0] == pytest.approx([(2 + 1 / 3) / 3, (1 / 3) / 3, (1 / 3) / 3])


def test_a_column_without_values_has_no_statistics():
    rates, rows = TargetStatistics().fit([0, 0], [1, 2], [[1], [0]]).transform([0, 3])
    np.testing.assert_array_equal(rates, [[np.nan], [0.5]])
    assert rows.tolist() == [0, 0]
    assert TargetStatistics().fit(np.zeros((2, 0), int), [1, 2], [[1], [0]]).transform(np.zeros((1, 0), int))[1] == [0]


@pytest.mark.parametrize(
    ("values", "days", "labels", "message"),
    [
        ([1, 2], [0, 0], [[1], [0], [1]], r"must have 3 rows, received shapes \(2, 1\) and \(2,\)"),
        ([1, 2], [0, 0], [1, 0], r"`labels` must be \(rows, tasks\) with at least one row, received shape \(2,\)"),
        ([], [], np.zeros((0, 1)), r"with at least one row, received shape \(0, 1\)"),
        ([1, 2], [0, 0], [[1], [np.nan]], "`labels` must be finite, received nan"),
        ([1.5, 2], [0, 0], [[1], [0]], r"`values` must be integers of one or two axes, received float64"),
    ],
)
def test_fit_names_what_is_wrong(values, days, labels, message):
    with pytest.raises(ValueError, match=message):
        TargetStatistics().fit(values, days, labels)


def test_transform_and_smoothing_name_what_is_wrong():
    with pytest.raises(ValueError, match="`smoothing` must be > 0, received 0"):
        TargetStatistics(smoothing=0)
    with pytest.raises(ValueError, match="`fit` must be called before `transform`"):
        TargetStatistics().transform([1])
    with pytest.raises(ValueError, match=r"`days` must have 2 rows, received shape \(1,\)"):
        TargetStatistics().fit([1, 1], [0, 1], [[1], [0]]).transform([1, 1], [2])


def test_the_example_of_the_docstring():
    assert doctest.testmod(target_statistics).failed == 0
