"""A log that is read day by day gives the rows that a whole log gives, on random logs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank import schemas as s
from mixrank.components.examples.calendar import local_days
from mixrank.components.examples.carried import carried, with_places
from mixrank.components.examples.columns import examples
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.joined_log import FILE, ROW, joined_log
from mixrank.components.examples.popularity import count, daily_counts, folded, merge
from mixrank.components.examples.splits import with_days
from mixrank.components.examples.user_shard import build

HOUR = 3_600_000
START = 1_648_771_200_000  # 2022-04-01
DAYS = 4
FIELDS = ("item", "action", "gap")
TYPES = {
    "log": {
        "user": pa.string(),
        "item": pa.int64(),
        "time": pa.int64(),
        "place": pa.int64(),
        "click": pa.int64(),
        FILE: pa.int64(),
        ROW: pa.int64(),
    },
    "label_like": {"user": pa.string(), "item": pa.int64(), "time": pa.int64()},
    "events_orders": {"user": pa.string(), "item": pa.int64(), "time": pa.int64()},
}


def dataset(window):
    spec = s.FeatureSpec(
        name="random",
        user=s.Key("user", dtype="str"),
        item=s.Key("item"),
        time=s.EventTime("time"),
        scenario=s.Scenario("place", values=(0, 1)),
        labels=(s.Label("click"), s.Label("like", matures_after="6h")),
        features=(
            s.Categorical("item", group="item"),
            s.Numeric("clicks", group="item"),
            s.Numeric("own", group="item"),
            s.Numeric("likes", group="item"),
            s.Action("action", flags=("click", "like")),
            s.TimeGap("gap"),
            s.History("before", of=FIELDS, length=2, window="before"),
            s.History("within", of=FIELDS, length=2, window="within"),
            s.History("liked", of=FIELDS, length=1, window="before", only="like"),
            s.History("clicked", of=FIELDS, length=3, window="before", only="click"),
            s.History("orders", of=("item", "gap"), events="orders", length=2, window="before"),
        ),
    )
    return s.Dataset(
        spec=spec,
        source=s.LogSource(
            log=s.Table(files=("log.parquet",)),
            labels={"like": s.LabelFrom(table=s.Table(files=("likes.parquet",)), within="9h")},
            events={"orders": s.EventTable(table=s.Table(files=("orders.parquet",)))},
            popularity={
                "clicks": s.Popularity(of="item", label="click", half_life=1.5),
                "own": s.Popularity(of=("user", "item")),
                "likes": s.Popularity(of="item", label="like", timezone="Asia/Shanghai"),
            },
            window=window,
            split=s.SplitByDay(splits={"train": ("2022-03-01", "2022-03-01"), "eval": ("2022-03-02", "2022-03-02")}),
        ),
    )


def tables_of(rows):
    """Table -> columns; rows are (table, row)."""
    found = {}
    for name, types in TYPES.items():
        own = [row for table, row in rows if table == name]
        found[name] = {
            column: Coded.from_arrow(pa.array([row[column] for row in own], kind)) for column, kind in types.items()
        }
    return found


def day_of(row):
    return str(local_days(np.array([row["time"]]), "UTC", 0)[0])


def on_day(data, day):
    later = str(np.datetime64(day) + 1)
    return with_days(data, f'{{"train": ["{day}", "{day}"], "eval": ["{later}", "{later}"]}}')


def written(shard):
    rows = np.flatnonzero(shard.split == 0)
    return sorted(examples(shard.columns, rows)), shard.figures.histories, shard.figures.rows


def whole(data, rows, day):
    """The rows of a day, from everything up to its end."""
    tables = tables_of([(table, row) for table, row in rows if day_of(row) <= day])
    log, *_ = joined_log(data, tables)
    counts = merge([count(data.source.popularity, log, log["time"].numbers())])
    return written(build(on_day(data, day), tables, daily_counts(data.source.popularity, counts)))


class DayByDay:
    """What one day hands to the next."""

    def __init__(self, data):
        self.data, self.rows, self.counts, self.left_behind = data, [], None, {}

    def advance(self, rows, day):
        rules, since = self.data.source.popularity, int(np.datetime64(day, "ms").astype(np.int64))
        until = since + 24 * HOUR
        earlier = tables_of(self.rows)
        self.rows = self.rows + [(table, row) for table, row in rows if day_of(row) == day]
        tables = with_places(tables_of(self.rows))
        counted = [
            count(rules, log, log["time"].numbers())
            for log in (joined_log(self.data, each)[0] for each in (tables, earlier))
        ]
        counted[1][["positives", "rows"]] *= -1
        counts = merge([*counted, *([] if self.counts is None else [self.counts])])
        today = on_day(self.data, day)
        shard = build(today, tables, daily_counts(rules, counts), since=since, left_behind=self.left_behind)
        kept = carried(self.data, shard, tables, until, self.left_behind)
        self.counts, self.left_behind = folded(rules, counts, until), kept.left_behind
        numbered = {name: [each for each in self.rows if each[0] == name] for name in TYPES}
        self.rows = [numbered[name][place] for name, places in kept.rows.items() for place in places.tolist()]
        return written(shard)


def row_of(user, item, step, place, click):
    return {"user": user, "item": item, "time": START + step * HOUR + 250, "place": place, "click": click}


USERS, TIMES = st.sampled_from(["a", "b"]), st.integers(0, 24 * DAYS - 1)
LOG = st.lists(st.builds(row_of, USERS, st.integers(0, 2), TIMES, st.integers(0, 1), st.integers(0, 1)), max_size=25)
EVENTS = st.lists(
    st.builds(lambda u, i, t: {"user": u, "item": i, "time": START + t * HOUR}, USERS, st.integers(0, 2), TIMES),
    max_size=8,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "window",
    [s.CalendarDay(), s.CalendarDay(timezone="Asia/Shanghai", starts_at=4), s.Sliding(seconds=7 * 3600)],
    ids=["utc", "shanghai_from_4", "seven_hours"],
)
@settings(max_examples=60, deadline=None)
@given(log=LOG, likes=EVENTS, orders=EVENTS)
def test_day_by_day_equals_the_whole_log(window, log, likes, orders):
    data = dataset(window)
    rows = [("log", row | {FILE: 0, ROW: number}) for number, row in enumerate(log)]
    rows += [("label_like", row) for row in likes] + [("events_orders", row) for row in orders]
    state = DayByDay(data)
    for day in (str(np.datetime64("2022-04-01") + number) for number in range(DAYS)):
        assert state.advance(rows, day) == whole(data, rows, day)


def test_what_no_history_can_hold_is_left_behind():
    data = dataset(s.CalendarDay())
    rows = [("log", row_of("a", 0, step, 0, 0) | {FILE: 0, ROW: step}) for step in range(20)]
    state = DayByDay(data)
    state.advance(rows, "2022-04-01")
    # The newest two, and those of the last nine hours, to which a like may come.
    assert [row["time"] for _, row in state.rows] == [START + step * HOUR + 250 for step in range(15, 20)]
    assert state.left_behind["before"] == {"a": 15}
