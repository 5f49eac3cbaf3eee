"""Histories and splits are cut where every part gets rows."""

from __future__ import annotations

import numpy as np

from mixrank.pipeline.starting.periods import cut_histories, divide, quiet_hour
from mixrank.schemas import CalendarDay, Sliding, SplitByDay, SplitByHash, SplitByUserTail

DAY, START = 86_400_000, 1_704_067_200_000
FIRST = START // DAY


def daily(days=10, users=30, per_day=4):
    """Every user comes on every day, at hours 8, 9, ..."""
    user, day, hour = (
        each.ravel() for each in np.meshgrid(np.arange(users), np.arange(days), np.arange(per_day), indexing="ij")
    )
    return user, START + day * DAY + (8 + hour) * 3_600_000.0


def test_histories_end_at_the_day_where_users_come_daily():
    found = cut_histories(*daily(), "UTC")
    assert found.window == CalendarDay(timezone="UTC")
    # 9 of 10 days follow another, and 3 of 4 rows another of the day.
    assert (found.before[0], found.within[0]) == (0.9, 0.75)
    assert (found.before[1], found.within[1]) == (50, 5)


def test_events_of_the_same_moment_are_in_no_history():
    user, ms = np.zeros(4, int), np.full(4, START, float)
    assert cut_histories(user, ms, "UTC") is None


def test_histories_end_at_a_sitting_where_users_come_once():
    user = np.repeat(np.arange(50), 40)
    ms = START + user * DAY + np.tile(np.arange(40) * 60_000.0, 50)
    assert cut_histories(user, ms, "UTC").window == Sliding(seconds=600)


def test_a_history_that_would_be_empty_is_none():
    user, ms = daily(per_day=1)
    found = cut_histories(user, ms, "UTC")
    assert found.within is None
    assert found.before is not None
    assert cut_histories(np.arange(100), START + np.arange(100.0), "UTC") is None


def split_of(user, ms, label=None, sub_day=True):
    label = np.arange(len(ms)) % 2 if label is None else label
    return divide(user, (ms // DAY).astype(int), [label], "UTC", sub_day)


def test_a_log_of_days_is_split_by_day_with_rows_in_every_part():
    found = split_of(*daily())
    assert isinstance(found.split, SplitByDay)
    assert found.split.splits == {
        "train": ("2024-01-01", "2024-01-08"),
        "valid": ("2024-01-09", "2024-01-09"),
        "eval": ("2024-01-10", "2024-01-10"),
    }
    assert found.validates


def test_three_days_are_enough_for_a_split_and_two_are_not():
    user, ms = daily(days=3)
    assert list(split_of(user, ms).split.splits) == ["train", "valid", "eval"]
    assert isinstance(split_of(*daily(days=2)).split, SplitByUserTail)


def test_days_without_both_classes_are_not_judged_on():
    user, ms = daily()
    # Nothing was clicked on the last day.
    label = (np.arange(len(ms)) % 2) * (ms < START + 9 * DAY)
    assert isinstance(split_of(user, ms, label).split, SplitByUserTail)


def test_users_who_do_not_come_back_are_split_by_their_own_rows():
    user = np.repeat(np.arange(100), 40)
    ms = START + (user // 10) * DAY + np.tile(np.arange(40) * 60_000.0, 100)
    found = split_of(user, ms)
    assert isinstance(found.split, SplitByUserTail)
    assert "hardly come back" in found.why


def test_without_times_of_day_users_are_dealt_by_hash():
    user = np.repeat(np.arange(100), 40)
    assert isinstance(split_of(user, START + (user // 10) * DAY * 1.0, sub_day=False).split, SplitByHash)


def test_a_log_without_users_is_split_by_day_or_by_chance():
    _, ms = daily()
    assert isinstance(split_of(None, ms).split, SplitByDay)
    found = split_of(None, ms[ms < START + DAY])
    assert isinstance(found.split, SplitByHash)
    assert "rows" in found.why


def test_the_quiet_hour_is_named_if_there_is_one():
    hours = np.repeat(np.arange(24), [2 if hour == 20 else 100 for hour in range(24)])
    assert quiet_hour(START + hours * 3_600_000.0) == 20
    assert quiet_hour(START + np.arange(24) * 3_600_000.0) is None
