"""A log that is read day by day, each file once, gives the rows that a whole log gives."""

from __future__ import annotations

import collections

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank import schemas as s
from mixrank.components.examples import DayState, find_tables, read_log, read_others, write_day
from mixrank.components.examples.calendar import local_days
from mixrank.components.examples.columns import examples
from mixrank.components.examples.days.carried import carried, with_places
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.joined_log import FILE, ROW, joined_log
from mixrank.components.examples.popularity import count, daily_counts, folded, merge
from mixrank.components.examples.splits import with_days
from mixrank.components.examples.user_shard import build

HOUR = 3_600_000
START = 1_648_771_200_000  # 2022-04-01
DAYS = [str(np.datetime64("2022-04-01") + number) for number in range(4)]
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


USERS, TIMES = st.sampled_from(["a", "b"]), st.integers(0, 24 * len(DAYS) - 1)
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
@settings(max_examples=25)
@given(log=LOG, likes=EVENTS, orders=EVENTS)
def test_day_by_day_equals_the_whole_log(window, log, likes, orders):
    data = dataset(window)
    rows = [("log", row | {FILE: 0, ROW: number}) for number, row in enumerate(log)]
    rows += [("label_like", row) for row in likes] + [("events_orders", row) for row in orders]
    state = DayByDay(data)
    for day in DAYS:
        assert state.advance(rows, day) == whole(data, rows, day)


def test_what_no_history_can_hold_is_left_behind():
    data = dataset(s.CalendarDay())
    rows = [("log", row_of("a", 0, step, 0, 0) | {FILE: 0, ROW: step}) for step in range(20)]
    state = DayByDay(data)
    state.advance(rows, "2022-04-01")
    # The newest two, and those of the last nine hours, to which a like may come.
    assert [row["time"] for _, row in state.rows] == [START + step * HOUR + 250 for step in range(15, 20)]
    assert state.left_behind["before"] == {"a": 15}


PATTERNS = {"log": "log/*.parquet", "label_like": "likes/*.parquet", "events_orders": "orders/*.parquet"}


@pytest.fixture(scope="module")
def data():
    found = dataset(s.CalendarDay(timezone="Asia/Shanghai", starts_at=4)).model_dump(mode="json")
    found["source"]["log"]["files"] = [PATTERNS["log"]]
    found["source"]["labels"]["like"]["table"]["files"] = [PATTERNS["label_like"]]
    found["source"]["events"]["orders"]["table"]["files"] = [PATTERNS["events_orders"]]
    return s.Dataset.model_validate(found)


@pytest.fixture(scope="module")
def rows():
    """Of five users, a few of them every hour, over four days."""
    draw = np.random.default_rng(4)
    found = []
    for step in range(24 * len(DAYS)):
        for _ in range(3):
            user = f"u{draw.integers(5)}"
            row = row_of(user, int(draw.integers(3)), step, int(draw.integers(2)), int(draw.integers(2)))
            found.append(("log", row))
            late = {"user": user, "item": row["item"], "time": row["time"] + int(draw.integers(1, 12)) * 3_600_000}
            if draw.random() < 0.3 and day_of(late) in DAYS:
                found.append(("label_like", late))
            if draw.random() < 0.2:
                found.append(("events_orders", {"user": user, "item": row["item"], "time": row["time"] - 7}))
    return found


def write(folder, rows, name):
    """The rows as one file of each table; what `ROW` counts is made by the reader."""
    for table, pattern in PATTERNS.items():
        own = [{k: v for k, v in row.items() if not k.startswith("_")} for each, row in rows if each == table]
        place = folder / pattern.partition("/")[0]
        place.mkdir(exist_ok=True)
        if own:
            types = pa.schema([(k, v) for k, v in TYPES[table].items() if not k.startswith("_")])
            pa.parquet.write_table(pa.Table.from_pylist(own, types), place / f"{name}.parquet")


class Reader:
    def __init__(self, data, raw, home):
        self.data, self.raw, self.home, self.state = data, raw, home, DayState()

    def log(self):
        return read_log(str(self.home / "log"), self.data, find_tables(self.data, str(self.raw)), 2, beam.Pipeline)

    def take(self, day, *, writes=True):
        log, tables = self.log(), find_tables(self.data, str(self.raw))
        others = read_others(tables, log.num_shards, str(self.home / f"others-{day}"), beam.Pipeline)
        self.state, figures = write_day(
            self.data,
            log,
            tables,
            others,
            before=self.state,
            day=day,
            examples=str(self.home / day / "examples") if writes else None,
            after=str(self.home / day / "state"),
            scratch=str(self.home / "scratch"),
            pipeline=beam.Pipeline,
        )
        files = [str(path) for path in (self.home / day / "examples" / "Split-train").glob("*")]
        return sorted(each.numpy() for each in tf.data.TFRecordDataset(files, "GZIP")) if writes else [], figures


def numbered(rows):
    """As the reader of files numbers them, for the reference."""
    count = collections.Counter()
    found = []
    for table, row in rows:
        count[table] += 1
        found.append((table, row | ({"_file": 0, "_row": count[table]} if table == "log" else {})))
    return found


@pytest.mark.slow
def test_files_that_arrive_by_day_give_the_rows_of_the_whole_log(data, rows, tmp_path):
    (raw := tmp_path / "raw").mkdir()
    reader, expected = Reader(data, raw, tmp_path / "home"), numbered(rows)
    # The first two days at once, of which the first is only looked back on; a file a day from then on.
    write(raw, [each for each in rows if day_of(each[1]) in DAYS[:2]], "begin")
    reader.take(DAYS[0], writes=False)
    for day in DAYS[1:]:
        if day in DAYS[2:]:
            write(raw, [each for each in rows if day_of(each[1]) == day], day)
        examples, figures = reader.take(day)
        wanted, histories, counted = whole(data, expected, day)
        assert examples == wanted
        assert (figures.histories, figures.rows) == (histories, counted)
        assert len(examples) > 50


@pytest.mark.slow
def test_a_file_is_read_once_and_again_when_it_changes(data, rows, tmp_path):
    (raw := tmp_path / "raw").mkdir()
    reader = Reader(data, raw, tmp_path / "home")
    write(raw, [each for each in rows if day_of(each[1]) == DAYS[0]], "a")
    first = reader.log()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "home" / "log" / "rows").rglob("*.arrow")}
    assert first.days() == [DAYS[0]] and files
    # A reading that was interrupted leaves rows that no summary names.
    write(raw, [each for each in rows if day_of(each[1]) == DAYS[1]], "b")
    second = reader.log()
    assert second.days() == DAYS[:2]
    assert {path: path.stat().st_mtime_ns for path in files} == files
    (summary,) = [path for path in (tmp_path / "home/log/files").glob("*") if "log/b.parquet" in path.read_text()]
    summary.unlink()
    assert reader.log() == second
    same = first.fingerprint(lambda day: day == DAYS[0])
    assert second.fingerprint(lambda day: day == DAYS[0]) == same
    frame = pd.read_parquet(raw / "log" / "a.parquet")
    pd.concat([frame, frame.assign(item=2)]).to_parquet(raw / "log" / "a.parquet")
    third = reader.log()
    assert third.rows_of(DAYS[0])["log"] == 2 * first.rows_of(DAYS[0])["log"]
    assert third.fingerprint(lambda day: day == DAYS[0]) != same
    (raw / "log" / "a.parquet").unlink()
    assert reader.log().days() == DAYS[:2]


def test_a_log_that_is_not_split_by_day_is_refused(data, tmp_path):
    other = data.model_copy(update={"source": data.source.model_copy(update={"split": s.SplitByHash()})})
    with pytest.raises(ValueError, match="random is split by_hash; only a log that is split by day has days"):
        read_log(str(tmp_path), other, {}, None, beam.Pipeline)
