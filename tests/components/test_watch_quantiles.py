"""Quantiles of watch times by duration: tables from counted cells, and the rank of a time in them."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.components.watch_quantiles import CountCells, rank
from mixrank.schemas import GROUPS_OF_DURATION, QUANTILES

MISSING_GROUP = GROUPS_OF_DURATION


def counted(duration, watched, parts=1):
    count = CountCells()
    whole = count.create_accumulator()
    for part in np.array_split(np.arange(len(duration)), parts):
        batch = (np.asarray(duration, "float32")[part], np.asarray(watched, "float32")[part])
        whole = count.merge_accumulators([whole, count.add_input(count.create_accumulator(), batch)])
    return count.extract_output(whole)


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(2)
    duration = rng.lognormal(4, 1, 40_000)
    return duration, duration * rng.beta(1, 2, 40_000) * (rng.random(40_000) < 0.7)


def test_tables_are_the_quantiles_of_groups_of_about_equal_size(log):
    duration, watched = log
    edges, tables = counted(duration, watched)
    assert edges.shape == (GROUPS_OF_DURATION - 1,) and tables.shape == (GROUPS_OF_DURATION + 1, QUANTILES + 1)
    assert np.all(np.diff(edges) > 0) and np.all(np.diff(tables, axis=1) >= 0)
    group = np.searchsorted(edges, duration.astype("float32"), side="right")
    sizes = np.bincount(group, minlength=GROUPS_OF_DURATION)
    assert sizes.min() > 0.4 * sizes.mean() and sizes.max() < 2 * sizes.mean()
    for number in range(GROUPS_OF_DURATION):
        exact = np.quantile(watched[group == number], np.linspace(0, 1, QUANTILES + 1))
        # The last one is the end of the cell of the longest time.
        np.testing.assert_allclose(tables[number, :-1], exact[:-1], rtol=0.05, atol=0.5)


def test_batches_of_any_cut_make_the_same_tables(log):
    duration, watched = (column[:500] for column in log)
    for one, other in zip(counted(duration, watched), counted(duration, watched, parts=7), strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_without_a_duration_have_a_table_of_their_own():
    duration = np.r_[np.full(50, 10.0), np.full(50, np.nan), np.full(50, 20.0)]
    watched = np.r_[np.full(50, 5.0), np.full(50, 1000.0), np.full(50, np.nan)]
    edges, tables = counted(duration, watched)
    np.testing.assert_allclose(tables[MISSING_GROUP], 1000, rtol=0.03)
    np.testing.assert_allclose(tables[np.searchsorted(edges, 10.0, side="right")], 5, rtol=0.03)
    # What has no rows has those of all.
    assert tables[GROUPS_OF_DURATION - 1, 0] < 6 and tables[GROUPS_OF_DURATION - 1, -1] > 900


def test_a_log_without_times_has_tables_of_zeros():
    edges, tables = counted([1.0, 2.0], [np.nan, np.nan])
    assert not tables.any() and not np.isnan(edges).any()


def test_a_rank_is_the_share_of_lower_times_and_half_of_equal_ones():
    table = np.r_[np.zeros(11), np.linspace(1, 40, 40)].astype("float32")[None]
    y = np.array([0.0, 1.0, 20.5, 40.0, 99.0, np.nan], "float32")
    found = rank(y, np.repeat(table, 6, axis=0)).numpy()
    # Ten of fifty intervals are 0, and between 0 and 1 lies one more.
    np.testing.assert_allclose(found, [0.1, 11 / 50, 30.5 / 50, 1, 1, np.nan], atol=1e-5)


def test_a_rank_of_a_time_and_the_time_of_that_rank_are_one():
    from mixrank.layers.task_kinds import at_rank

    table = np.sort(np.random.default_rng(0).lognormal(2, 1, (20, QUANTILES + 1)), axis=1).astype("float32")
    y = np.array([row[3] + 0.4 * (row[40] - row[3]) for row in table], "float32")
    np.testing.assert_allclose(at_rank(rank(y, table), table), y, rtol=1e-4)
