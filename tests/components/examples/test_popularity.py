"""Popularity on earlier days against a count over every pair of rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank import schemas as s
from mixrank.components.examples import local_days
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.popularity import ALL, count, daily_counts, merge, popularity_of

HOUR = 3_600_000
RULES = {
    "rate": s.Popularity(of="author", label="click", smoothing=3.0, timezone="Asia/Shanghai"),
    "seen": s.Popularity(of="author", timezone="Asia/Shanghai", starts_at=4),
}
AUTHORS = [None, 7, 8, 9]
rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 120)), min_size=1, max_size=25)


def log_of(part):
    author, click, hour = (np.array(values, dtype=np.int64) for values in zip(*part, strict=True))
    columns = {"author": Coded(author, AUTHORS), "click": Coded(click + 1, [None, 0, 1])}
    return columns, hour * HOUR


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=3))
def test_popularity_counts_every_row_of_an_earlier_day_and_no_other(shards):
    logs = [log_of(part) for part in shards]
    counts = daily_counts(merge(count(RULES, columns, time) for columns, time in logs))
    everything = [row for part in shards for row in part]
    for columns, time in logs:
        for name, rule in RULES.items():
            found = popularity_of(rule, counts[name], columns["author"], time).tolist()
            for position, (code, _, hour) in enumerate(zip(columns["author"].codes, time, time // HOUR, strict=True)):
                day = _day(rule, hour)
                earlier = [row for row in everything if _day(rule, row[2]) < day]
                own = [row for row in earlier if row[0] == code]
                if code == 0:
                    assert found[position] is None
                elif rule.label is None:
                    assert found[position] == len(own)
                else:
                    r = (sum(row[1] for row in earlier) + 1) / (len(earlier) + 2)
                    p = (sum(row[1] for row in own) + 3 * r) / (len(own) + 3)
                    assert found[position] == pytest.approx(np.log(p / (1 - p)) - np.log(r / (1 - r)), abs=1e-9)


def _day(rule, hour):
    return local_days(np.array([hour * HOUR]), rule.timezone, rule.starts_at)[0]


def test_a_new_value_is_as_popular_as_the_average():
    columns, time = log_of([(1, 1, 0), (1, 0, 1), (2, 1, 100)])
    counts = daily_counts(merge([count(RULES, columns, time)]))
    assert popularity_of(RULES["rate"], counts["rate"], columns["author"], time).tolist() == [0, 0, 0]


def test_counts_hold_every_value_and_day_once():
    columns, time = log_of([(1, 1, 0), (1, 0, 1), (0, 1, 1), (2, 1, 100)])
    table = merge([count(RULES, columns, time), count(RULES, columns, time)])
    found = table[table.column == "rate"][["value", "day", "positives", "rows"]].to_numpy().tolist()
    assert found == [[ALL, 0, 4, 6], [ALL, 4, 2, 2], ["7", 0, 2, 4], ["8", 4, 2, 2]]
    assert not pd.isna(table).any().any()


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
            s.Numeric("item_clicks", group="item"),
            s.Numeric("age", group="user"),
        ),
    )
    return s.Dataset(spec=spec, source=s.LogSource(log=s.Table(files=("log.parquet",)), popularity=popularity))


@pytest.mark.parametrize(
    ("popularity", "message"),
    [
        ({"item_click": s.Popularity(of="item")}, "fills 'item_click', .*did you mean `item_clicks`"),
        ({"age": s.Popularity(of="item")}, "fills 'age', which must be a Numeric of group item"),
        ({"item_clicks": s.Popularity(of="town")}, "is of 'town', which must be a Categorical of group item"),
        ({"item_clicks": s.Popularity(of="item", label="clik")}, "counts 'clik', .*did you mean `click`"),
    ],
)
def test_a_declaration_that_cannot_be_filled_is_refused(popularity, message):
    with pytest.raises(ValueError, match=message):
        dataset(popularity)
    assert dataset({"item_clicks": s.Popularity(of="item", label="click")})
