"""Popularity on earlier days against a count over every pair of rows."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank import schemas as s
from mixrank.components.examples import local_days
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.popularity import (
    ALL,
    count,
    daily_counts,
    merge,
    popularity_of,
    shared_and_own,
)

HOUR = 3_600_000
ZONE = "Asia/Shanghai"
RULES = {
    "rate": s.Popularity(of="author", label="click", smoothing=3.0, timezone=ZONE),
    "seen": s.Popularity(of="author", timezone=ZONE, starts_at=4),
    "tag_rate": s.Popularity(of="tag", label="click", smoothing=3.0),
    "on_page": s.Popularity(of=("page", "tag"), label="click", smoothing=2.0, half_life=1.5),
    "author_on_page": s.Popularity(of=("author", "page"), half_life=0.5),
}
AUTHORS = [None, 7, 8, 9]
TAGS = [None, ("a",), ("b", "a"), ("c", "c")]
row = st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 120), st.integers(0, 3), st.integers(1, 2))
rows = st.lists(row, min_size=1, max_size=25)


def log_of(part):
    author, click, hour, tag, page = (np.array(values, dtype=np.int64) for values in zip(*part, strict=True))
    columns = {
        "author": Coded(author, AUTHORS),
        "click": Coded(click + 1, [None, 0, 1]),
        "tag": Coded(tag, TAGS),
        "page": Coded(page, [None, "home", "cart"]),
    }
    return columns, hour * HOUR


def values(rule, row):
    """What is counted of a row, as sets of texts."""
    author, _, _, tag, page = row
    parts = {
        "author": {AUTHORS[author]} - {None},
        "tag": set(TAGS[tag] or ()),
        "page": {("", "home", "cart")[page]},
    }
    return set(itertools.product(*(parts[name] for name in rule.parts)))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=3))
def test_popularity_counts_every_row_of_an_earlier_day_and_no_other(shards):
    logs = [log_of(part) for part in shards]
    counts = daily_counts(RULES, merge(count(RULES, columns, time) for columns, time in logs))
    everything = [row for part in shards for row in part]
    for part, (columns, time) in zip(shards, logs, strict=True):
        for name, rule in RULES.items():
            found = popularity_of(rule, counts[name], columns, time).tolist()
            for own, value in zip(part, found, strict=True):
                expected = popularity(rule, own, everything)
                assert value is None if expected is None else value == pytest.approx(expected, abs=1e-9)


def popularity(rule, own, everything):
    """By the formula, over every pair of rows."""
    day, mine = _day(rule, own[2]), values(rule, own)
    if not mine:
        return None
    totals, counts = np.zeros(2), np.zeros(2)
    for other in everything:
        if (then := _day(rule, other[2])) < day:
            weight = 0.5 ** ((int((day - then) / np.timedelta64(1, "D")) - 1) / rule.half_life) if rule.half_life else 1
            totals += weight * np.array([other[1], 1])
            counts += weight * np.array([other[1], 1]) * len(mine & values(rule, other))
    if rule.label is None:
        return counts[1]
    r = (totals[0] + 1) / (totals[1] + 2)
    p = (counts[0] + rule.smoothing * r) / (counts[1] + rule.smoothing)
    return np.log(p / (1 - p)) - np.log(r / (1 - r))


def _day(rule, hour):
    return local_days(np.array([hour * HOUR]), rule.timezone, rule.starts_at)[0]


def test_a_new_value_is_as_popular_as_the_average():
    columns, time = log_of([(1, 1, 0, 1, 1), (1, 0, 1, 1, 1), (2, 1, 100, 1, 1)])
    counts = daily_counts(RULES, merge([count(RULES, columns, time)]))["rate"]
    assert popularity_of(RULES["rate"], counts, columns, time).tolist() == [0, 0, 0]


def test_counts_hold_every_value_and_day_once():
    columns, time = log_of([(1, 1, 0, 2, 1), (1, 0, 1, 1, 1), (0, 1, 1, 0, 1), (2, 1, 100, 3, 2)])
    table = merge([count(RULES, columns, time), count(RULES, columns, time)])
    found = table[table.column == "rate"][["value", "day", "positives", "rows"]].to_numpy().tolist()
    assert found == [[ALL, 0, 4, 6], [ALL, 4, 2, 2], ["7", 0, 2, 4], ["8", 4, 2, 2]]
    assert set(table[table.column == "on_page"].value) == {ALL, '["home", "a"]', '["home", "b"]', '["cart", "c"]'}
    assert not pd.isna(table).any().any()


def test_values_with_the_user_stay_in_the_shard():
    spec = dataset({}).spec
    rules = {"own": s.Popularity(of=("user", "item")), "all": s.Popularity(of="item")}
    columns = {"user": Coded(np.array([1, 1]), [None, 5]), "item": Coded(np.array([1, 2]), [None, 7, 8])}
    shared, own = shared_and_own(spec, rules, count(rules, columns, np.array([0, HOUR])))
    assert shared[["column", "value", "rows"]].to_numpy().tolist() == [
        ["own", ALL, 2],
        ["all", ALL, 2],
        ["all", "7", 1],
        ["all", "8", 1],
    ]
    assert own[["value", "rows"]].to_numpy().tolist() == [['["5", "7"]', 1], ['["5", "8"]', 1]]


def dataset(popularity):
    spec = s.FeatureSpec(
        name="toy",
        user=s.Key("user"),
        item=s.Key("item"),
        time=s.EventTime("at"),
        scenario=s.Scenario("place", values=(0, 1)),
        labels=(s.Label("click"),),
        features=(
            s.Categorical("item", group="item"),
            s.Categorical("town", group="user"),
            s.MultiCategorical("tags", group="item"),
            s.MultiCategorical("marks", group="item"),
            s.Numeric("item_clicks", group="item"),
            s.Numeric("age", group="user"),
        ),
    )
    return s.Dataset(spec=spec, source=s.LogSource(log=s.Table(files=("log.parquet",)), popularity=popularity))


@pytest.mark.parametrize(
    ("popularity", "message"),
    [
        ({"item_click": s.Popularity(of="item")}, "fills 'item_click', .*did you mean `item_clicks`"),
        ({"age": s.Popularity(of="item")}, "is of 'item': its Numeric must be of group item, not user"),
        ({"item_clicks": s.Popularity(of="town")}, "is of 'town': its Numeric must be of group user or context"),
        ({"age": s.Popularity(of=("town", "plase"))}, "is of 'plase', which must be .*did you mean `place`"),
        ({"item_clicks": s.Popularity(of=("tags", "marks"))}, "of `tags` and `marks`: only one may have several"),
        ({"item_clicks": s.Popularity(of="item", label="clik")}, "counts 'clik', .*did you mean `click`"),
    ],
)
def test_a_declaration_that_cannot_be_filled_is_refused(popularity, message):
    with pytest.raises(ValueError, match=message):
        dataset(popularity)
    assert dataset({"item_clicks": s.Popularity(of=("user", "place", "tags"), label="click")})
    assert dataset({"age": s.Popularity(of=("user", "place"), label="click")})
