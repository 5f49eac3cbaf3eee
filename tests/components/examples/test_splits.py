import json

import numpy as np
import pytest

from mixrank.components.examples.splits import assign, stable_hash, with_days
from mixrank.schemas.datasets import load
from mixrank.schemas.tables import SplitByDay, SplitByHash, SplitByUserTail

DAY = 86_400_000


def test_days_are_those_of_the_time_zone_and_both_ends_count():
    split = SplitByDay(
        timezone="Asia/Shanghai", splits={"train": ("1970-01-02", "1970-01-03"), "eval": ("1970-01-05", "1970-01-05")}
    )
    # Midnight of 1970-01-02 in Shanghai.
    first = DAY - 8 * 3_600_000
    time = np.array([first - 1, first, first + 2 * DAY - 1, first + 2 * DAY, first + 3 * DAY, first + 4 * DAY])
    assert assign(split, np.zeros(6, dtype=int), ["u"], time).tolist() == [-1, 0, 0, -1, 2, -1]


@pytest.mark.parametrize(("rows", "expected"), [(1, [1, 0, 0]), (3, [2, 1, 0]), (10, [8, 1, 1]), (25, [20, 3, 2])])
def test_the_tail_of_each_user_is_rounded_to_the_nearest_row(rows, expected):
    split = assign(SplitByUserTail(), np.zeros(rows, dtype=int), ["u"], np.arange(rows))
    assert np.bincount(split, minlength=3).tolist() == expected
    assert split.tolist() == sorted(split.tolist())


def test_rows_of_one_time_stay_together_in_the_earlier_split():
    user, time = np.zeros(10, dtype=int), np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 7])
    assert assign(SplitByUserTail(), user, ["u"], time).tolist() == [0] * 10
    time = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8])
    assert assign(SplitByUserTail(), user, ["u"], time).tolist() == [0] * 8 + [1, 1]


def test_every_user_has_a_tail_of_its_own():
    user = np.repeat([0, 1], [5, 10])
    split = assign(SplitByUserTail(valid=0.0, eval=0.2), user, ["u", "v"], np.tile(np.arange(5), 3).cumsum())
    assert split.tolist() == [0, 0, 0, 0, 2] + [0] * 8 + [2, 2]


def test_a_user_is_dealt_whole_and_shares_are_kept():
    users = list(range(5000))
    split = assign(SplitByHash(valid=0.1, eval=0.3), np.repeat(users, 2), users, np.zeros(10_000, dtype=int))
    assert (split[::2] == split[1::2]).all()
    assert np.allclose(np.bincount(split) / 10_000, [0.6, 0.1, 0.3], atol=0.03)


def test_the_hash_is_the_same_everywhere_and_reads_numbers_as_text():
    assert stable_hash(7, "shard") == stable_hash("7", "shard") == 0xA1808A6CFD8DDAE6
    assert stable_hash(7, "shard") != stable_hash(7, "split")


DAYS = {
    "train": ["2022-04-22", "2022-05-03"],
    "valid": ["2022-05-04", "2022-05-04"],
    "eval": ["2022-05-05", "2022-05-06"],
}


def test_a_run_may_choose_other_days():
    moved = with_days(load("kuairand"), json.dumps(DAYS))
    assert {name: list(days) for name, days in moved.source.split.splits.items()} == DAYS
    assert moved.spec == load("kuairand").spec


@pytest.mark.parametrize(
    ("name", "days", "message"),
    [
        ("movielens", DAYS, "movielens is not split by day, but by_user_tail"),
        ("kuairand", {**DAYS, "test": DAYS["eval"]}, r"must give days to \['eval', 'train', 'valid'\]"),
        ("kuairand", {"train": DAYS["train"]}, r"must give days to \['eval', 'train', 'valid'\]"),
        ("kuairand", 7, "must be JSON, split to .first day, last day., received '7'"),
        ("kuairand", {**DAYS, "valid": DAYS["train"]}, "splits `train` and `valid` overlap"),
        ("kuairand", {**DAYS, "valid": ["4 May", "4 May"]}, "days of split `valid` must be written as 2022-04-25"),
    ],
)
def test_wrong_days_are_refused(name, days, message):
    with pytest.raises(ValueError, match=message):
        with_days(load(name), json.dumps(days))
