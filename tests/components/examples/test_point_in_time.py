"""User shards against a reference that looks at every pair of rows, on random logs full of ties and duplicates."""

import datetime
import zoneinfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixrank import schemas as s
from mixrank.components.examples.columns import examples
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.joined_log import FILE, ROW
from mixrank.components.examples.user_shard import build
from mixrank.schemas.encode import PADDING, decode

FIELDS = ("item", "author", "tags", "price", "action", "gap")
HOUR = 3_600_000
START = 1_648_760_400_000  # 2022-03-31 21:00 UTC
FLAGS = ("click", "like")
LENGTHS = {"before": 3, "within": 2}
AUTHORS = {0: "x", 1: "y", 2: None}
TAGS = {0: [], 1: [7], 2: [8, 9, 10]}


def dataset(window, only, order="oldest_first"):
    spec = s.FeatureSpec(
        name="random",
        user=s.Key("user", dtype="str"),
        item=s.Key("item"),
        time=s.EventTime("time"),
        scenario=s.Scenario("place", values=(0, 1)),
        labels=(s.Label("click"),),
        features=(
            s.Categorical("item", group="item"),
            s.Categorical("author", group="item", dtype="str"),
            s.Categorical("price", group="item"),
            s.MultiCategorical("tags", group="item", dtype="int", max_length=2),
            s.Numeric("age", group="user"),
            s.Action("action", flags=FLAGS),
            s.TimeGap("gap"),
            s.History("before", of=FIELDS, length=LENGTHS["before"], window="before", only=only),
            s.History("within", of=FIELDS, length=LENGTHS["within"], window="within"),
        ),
    )
    return s.Dataset(
        spec=spec,
        source=s.LogSource(
            log=s.Table(files=("log.parquet",)),
            joins=(
                s.Join(on="user", table=s.Table(files=("u.parquet",))),
                s.Join(on="item", table=s.Table(files=("i.parquet",))),
            ),
            prior=s.Prior(
                table=s.Table(files=("p.parquet",)),
                items="seen",
                order=order,
                flags={"like": "liked"},
                always=("click",),
            ),
            window=window,
            split=s.SplitByUserTail(valid=0.2, eval=0.3),
        ),
    )


def reference(data, log, ages, prior):
    """(split, row) of every kept row, by comparing it with all others."""
    seen, rows = set(), []
    for row in log:
        # Equal rows may list their columns in another order.
        identity = tuple(row[name] for name in sorted(row))
        if identity not in seen:
            seen.add(identity)
            rows.append(row)
    result = []
    for row in rows:
        mine = [other for other in rows if other["user"] == row["user"]]
        mine.sort(key=lambda other: other["time"])
        entry = {
            **{name: row[name] for name in ("user", "item", "time", "place", "click", "price")},
            "age": ages.get(row["user"]),
            "author": AUTHORS.get(row["item"]),
            "tags": TAGS.get(row["item"], [])[:2],
        }
        for history in data.spec.histories:
            past = [
                other
                for other in reversed(mine)
                if other["time"] < row["time"]
                and (other["time"] < begin(row["time"], data.source.window)) == (history.window == "before")
            ]
            events = [
                (
                    e["item"],
                    e["price"],
                    sum(e[f] << bit for bit, f in enumerate(FLAGS)),
                    (row["time"] - e["time"]) // 1000,
                )
                for e in past
                if history.only is None or e[history.only]
            ]
            if history.window == "before" and row["user"] in prior:
                items, liked = prior[row["user"]]
                newest = items if data.source.prior.order == "newest_first" else items[::-1]
                earlier = [(item, PADDING["int"], 1 + 2 * (item in liked), -1) for item in newest]
                events += [event for event in earlier if history.only != "like" or event[2] == 3]
            events = events[: history.length]
            entry[f"{history.name}_item"] = [event[0] for event in events]
            entry[f"{history.name}_price"] = [PADDING["int"] if e[1] is None else e[1] for e in events]
            entry[f"{history.name}_action"] = [event[2] for event in events]
            entry[f"{history.name}_gap"] = [event[3] for event in events]
            entry[f"{history.name}_author"] = [AUTHORS.get(event[0]) or "" for event in events]
            entry[f"{history.name}_tags"] = [
                tag for event in events for tag in (TAGS.get(event[0], []) + [PADDING["int"]] * 2)[:2]
            ]
        earlier = sum(other["time"] < row["time"] for other in mine)
        train, valid = int(len(mine) * 0.5 + 0.5 + 1e-6), int(len(mine) * 0.7 + 0.5 + 1e-6)
        result.append(("train" if earlier < train else "valid" if earlier < valid else "eval", entry))
    return result


def begin(time, window):
    """Start of the day or of the sliding window, with the standard library."""
    if isinstance(window, s.Sliding):
        return time - 1000 * window.seconds
    zone = zoneinfo.ZoneInfo(window.timezone)
    local = datetime.datetime.fromtimestamp(time / 1000, zone)
    start = local.replace(hour=window.starts_at, minute=0, second=0, microsecond=0)
    if start > local:
        start = (local - datetime.timedelta(days=1)).replace(hour=window.starts_at, minute=0, second=0, microsecond=0)
    return round(start.timestamp() * 1000)


def column(values, kind):
    return Coded.from_arrow(pa.array(values, kind))


def built(data, log, ages, prior):
    """(split, row) of every row the shard would write."""
    ints = {name: column([row[name] for row in log], pa.int64()) for name in log[0] if name != "user"}
    tables = {
        "log": {
            **ints,
            "user": column([row["user"] for row in log], pa.string()),
            FILE: column([0] * len(log), pa.int64()),
            ROW: column(list(range(len(log))), pa.int64()),
        },
        "user_0": {
            "user": column(list(ages), pa.string()),
            "age": column(list(ages.values()), pa.float64()),
        },
        "item_1": {
            "item": column(list(AUTHORS), pa.int64()),
            "author": column(list(AUTHORS.values()), pa.string()),
            "tags": column(list(TAGS.values()), pa.list_(pa.int64())),
        },
        "prior": {
            "user": column(list(prior), pa.string()),
            "seen": column([items for items, _ in prior.values()], pa.list_(pa.int64())),
            "liked": column([liked for _, liked in prior.values()], pa.list_(pa.int64())),
        },
    }
    shard = build(data, tables)
    rows = np.arange(len(shard.split))
    return [
        (s.SPLITS[split], decode(data.spec, serialized))
        for split, serialized in zip(shard.split, examples(shard.columns, rows), strict=True)
    ]


def ordered(rows):
    return sorted(rows, key=lambda pair: repr((pair[0], sorted(pair[1].items(), key=lambda item: item[0]))))


ROWS = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["a", "b", "c"]),
        "item": st.integers(0, 3),
        "time": st.integers(0, 9).map(lambda step: START + step * 3 * HOUR + 500 * (step % 3)),
        "place": st.integers(0, 1),
        "price": st.one_of(st.none(), st.integers(0, 1)),
        "click": st.integers(0, 1),
        "like": st.integers(0, 1),
    }
)
SAME = {"user": "a", "item": 0, "time": START, "place": 0, "price": None, "click": 0, "like": 0}
ITEMS = st.lists(st.integers(0, 3), max_size=4)
WINDOWS = [
    s.CalendarDay(),
    s.CalendarDay(timezone="Asia/Shanghai", starts_at=4),
    s.Sliding(seconds=6 * 3600),
]


@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS, ids=["utc", "shanghai_from_4", "six_hours"])
@settings(max_examples=60)
@example(log=[SAME, dict(reversed(SAME.items()))], ages={}, prior={}, only=None, order="oldest_first")
@given(
    log=st.lists(ROWS, min_size=1, max_size=20),
    ages=st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([20.0, 30.5])),
    prior=st.dictionaries(st.sampled_from(["a", "c", "stranger"]), st.tuples(ITEMS, ITEMS)),
    only=st.sampled_from([None, "click", "like"]),
    order=st.sampled_from(["oldest_first", "newest_first"]),
)
def test_shard_equals_a_reference_that_compares_all_pairs_of_rows(window, log, ages, prior, only, order):
    data = dataset(window, only, order)
    assert ordered(built(data, log, ages, prior)) == ordered(reference(data, log, ages, prior))


@pytest.mark.slow
@settings(max_examples=60)
@given(log=st.lists(ROWS, min_size=1, max_size=20), window=st.sampled_from(WINDOWS))
def test_no_history_holds_an_event_of_the_future_and_the_two_never_overlap(log, window):
    for _, row in built(dataset(window, None), log, {}, {}):
        before, within = row["before_gap"], row["within_gap"]
        assert all(gap >= 0 for gap in before + within)
        assert before == sorted(before) and within == sorted(within), "newest first"
        bound = row["time"] - begin(row["time"], window)
        assert all(gap * 1000 <= bound < (other + 1) * 1000 for gap in within for other in before)


@settings(max_examples=30)
@given(log=st.lists(ROWS, min_size=1, max_size=12), moment=st.integers(0, 9))
def test_rows_up_to_a_moment_do_not_change_with_what_follows(log, moment):
    data = dataset(WINDOWS[0], None)
    bound = START + moment * 3 * HOUR + 500 * (moment % 3)
    known = [row for row in log if row["time"] <= bound]
    if known:
        alone = [("", row) for _, row in built(data, known, {}, {})]
        among = [("", row) for _, row in built(data, log, {}, {}) if row["time"] <= bound]
        assert ordered(alone) == ordered(among)
