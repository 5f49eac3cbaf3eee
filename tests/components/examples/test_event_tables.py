"""Histories of event tables against a join that looks at every pair of rows, on random logs full of ties."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank import schemas as s
from mixrank.components.examples.columns import examples
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.joined_log import FILE, ROW
from mixrank.components.examples.user_shard import build
from mixrank.components.gates import JoinFigures
from mixrank.schemas.encode import PADDING, decode

WINDOW = 20_000
# Item 3 is in no table of items.
AUTHORS = {0: "x", 1: "y", 2: None}


def dataset(only=None):
    return s.Dataset(
        spec=s.FeatureSpec(
            name="random",
            user=s.Key("user"),
            item=s.Key("item"),
            time=s.EventTime("time"),
            scenario=s.Scenario("place", values=(0, 1)),
            labels=(s.Label("click"),),
            features=(
                s.Categorical("item", group="item"),
                s.Categorical("author", group="item", dtype="str"),
                s.Categorical("age", group="item", dtype="str"),
                s.Numeric("year", group="item"),
                s.Numeric("amount", group="event"),
                s.Numeric("dwell", group="event"),
                s.Vector("mood", group="event", dim=2),
                s.Action("action", flags=("click",)),
                s.Action("bought", flags=("paid", "returned")),
                s.TimeGap("gap"),
                s.History("seen", of=("item", "author", "action", "gap", "dwell"), length=3, window="before"),
                s.History("today", of=("gap", "item"), length=2, window="within"),
                s.History(
                    "orders",
                    of=("item", "author", "bought", "gap", "age", "year", "amount"),
                    length=2,
                    window="before",
                    events="orders",
                    only=only,
                ),
                s.History("basket", of=("gap", "item"), length=3, window="within", events="orders"),
                s.MultiCategorical("words", group="event", vocab=s.Hash(size=9), max_length=2, weights="worth"),
                s.History("asked", of=("author", "mood", "gap", "words"), length=2, window="within", events="searches"),
            ),
        ),
        source=s.LogSource(
            log=s.Table(files=("log.parquet",)),
            joins=(s.Join(on="item", table=s.Table(files=("i.parquet",))),),
            derive={"age": s.Cut("year", edges=(2000.0,), names=("old", "new"))},
            events={
                "orders": s.EventTable(table=s.Table(files=("o.parquet",)), time=s.EventTime("ordered_at")),
                "searches": s.EventTable(table=s.Table(files=("s.parquet",))),
            },
            window=s.Sliding(seconds=WINDOW // 1000),
            split=s.SplitByHash(valid=0, eval=0.5),
        ),
    )


def reference(data, log, orders, searches):
    """The rows with their histories, by comparing each with all events."""
    distinct = lambda rows: [row for place, row in enumerate(rows) if row not in rows[:place]]  # noqa: E731
    known = {
        None: [{**row, "author": AUTHORS.get(row["item"])} for row in distinct(log)],
        "orders": [{**row, "time": row["ordered_at"], "author": AUTHORS.get(row["item"])} for row in distinct(orders)],
        "searches": distinct(searches),
    }
    years = {0: 1990.0, 1: 2010.0, 2: None}
    found = []
    for row in known[None]:
        entry = {name: row[name] for name in ("user", "item", "time", "place", "click", "author")}
        entry["year"] = years.get(row["item"])
        entry["age"] = _age(years.get(row["item"]))
        for history in data.spec.histories:
            begin = row["time"] - WINDOW
            past = [
                event
                for event in known[history.events]
                if event["user"] == row["user"]
                and (event["time"] < begin if history.window == "before" else begin <= event["time"] < row["time"])
                and (history.only is None or event[history.only])
            ]
            # Of two at the same time, the later one in the table is the newer.
            past = sorted(past, key=lambda event: event["time"])[::-1][: history.length]
            values = {
                "item": lambda e: e["item"],
                "author": lambda e: e["author"] or PADDING["str"],
                "age": lambda e: _age(years.get(e["item"])) or PADDING["str"],
                "gap": lambda e, row=row: (row["time"] - e["time"]) // 1000,
                "action": lambda e: e["click"],
                "bought": lambda e: e["paid"] + 2 * e["returned"],
                "year": lambda e: years.get(e["item"]),
                "amount": lambda e: e["amount"],
                "dwell": lambda e: e["dwell"],
                "mood": lambda e: e["mood"] or [None, None],
                "words": lambda e: [*(e["words"] or [])[:2], "", ""][:2],
                "worth": lambda e: [*(e["worth"] or [])[:2], None, None][:2],
            }
            for name in (*history.of, *(["worth"] if "words" in history.of else [])):
                found_values = [values[name](event) for event in past]
                entry[history.column(name)] = (
                    [x for pair in found_values for x in pair] if name in ("mood", "words", "worth") else found_values
                )
        found.append(entry)
    return found


def _age(year):
    return None if year is None else "new" if year >= 2000 else "old"


def tables_of(log, orders, searches):
    def columns(rows, names, **texts):
        return {
            name: Coded.from_arrow(pa.array([row[name] for row in rows], texts.get(name, pa.int64()))) for name in names
        }

    numbered = {FILE: [0] * len(log), ROW: list(range(len(log)))}
    return {
        "log": columns(log, ("user", "item", "time", "place", "click", "dwell"), dwell=pa.float64())
        | {name: Coded.from_arrow(pa.array(values, pa.int64())) for name, values in numbered.items()},
        "item_0": {
            "item": Coded.from_arrow(pa.array(list(AUTHORS), pa.int64())),
            "author": Coded.from_arrow(pa.array(list(AUTHORS.values()), pa.string())),
            "year": Coded.from_arrow(pa.array([1990.0, 2010.0, None], pa.float64())),
        },
        "events_orders": columns(
            orders, ("user", "ordered_at", "item", "paid", "returned", "amount"), amount=pa.float64()
        ),
        "events_searches": columns(
            searches,
            ("user", "time", "author", "mood", "words", "worth"),
            author=pa.string(),
            mood=pa.list_(pa.float64()),
            words=pa.list_(pa.string()),
            worth=pa.list_(pa.float64()),
        ),
    }


USERS = st.sampled_from([1, 2, 3])
# Few seconds, on both sides of the window's begin, and ends of a millisecond inside them.
TIMES = st.tuples(st.sampled_from([0, 1, 19, 20, 21, 40]), st.sampled_from([0, 1, 999])).map(
    lambda pair: 1_650_000_000_000 + 1000 * pair[0] + pair[1]
)
BIT, ITEM = st.integers(0, 1), st.integers(0, 3)
AMOUNT = st.sampled_from([None, 0.0, 2.5])
LOG = st.fixed_dictionaries({"user": USERS, "item": ITEM, "time": TIMES, "place": BIT, "click": BIT, "dwell": AMOUNT})
ORDER = st.fixed_dictionaries(
    {"user": USERS, "item": ITEM, "ordered_at": TIMES, "paid": BIT, "returned": BIT, "amount": AMOUNT}
)
SEARCH = st.fixed_dictionaries(
    {
        "user": st.sampled_from([1, 3, 4]),
        "time": TIMES,
        "author": st.sampled_from([None, "x", "z"]),
        "mood": st.sampled_from([None, [0.5, -1.0]]),
        "said": st.sampled_from([(None, None), (["a"], [0.5]), (["b"], None), (["a", "b", "c"], [1.0, 0.0, 2.0])]),
    }
).map(lambda row: {**row, "words": row["said"][0], "worth": row["said"][1]})


def _sorted(rows):
    return sorted(rows, key=lambda row: repr(sorted(row.items())))


def _built(data, shard):
    rows = np.arange(len(shard.split))
    decoded = (decode(data.spec, serialized) for serialized in examples(shard.columns, rows))
    return [{name: _known(value) for name, value in row.items()} for row in decoded]


def _known(value):
    if isinstance(value, list):
        return [_known(each) for each in value]
    return None if value != value else value


@pytest.mark.slow
@settings(max_examples=150)
@given(
    log=st.lists(LOG, min_size=1, max_size=12),
    orders=st.lists(ORDER, max_size=12),
    searches=st.lists(SEARCH, max_size=8),
    only=st.sampled_from([None, "paid", "returned"]),
)
def test_rows_equal_a_join_that_compares_all_pairs(log, orders, searches, only):
    data = dataset(only)
    shard = build(data, tables_of(log, orders, searches))
    assert _sorted(_built(data, shard)) == _sorted(reference(data, log, orders, searches))


@pytest.mark.slow
@settings(max_examples=50)
@given(
    log=st.lists(LOG, min_size=1, max_size=8),
    orders=st.lists(ORDER, max_size=12),
    searches=st.lists(SEARCH, max_size=8),
    later=TIMES,
)
def test_rows_up_to_a_moment_do_not_change_with_later_events(log, orders, searches, later):
    data = dataset()
    known = [row for row in log if row["time"] <= later]
    if not known:
        return
    # An event at the very millisecond of a row is as unknown to it as a later one.
    early = [e for e in orders if e["ordered_at"] < later], [e for e in searches if e["time"] < later]
    alone = _built(data, build(data, tables_of(known, *early)))
    among = [row for row in _built(data, build(data, tables_of(log, orders, searches))) if row["time"] <= later]
    assert _sorted(alone) == _sorted(among)


def test_events_that_do_not_fit_and_users_without_rows_are_counted():
    start = 1_650_000_000_000
    log = [
        {"user": 1, "item": 0, "time": start + 60_000, "place": 0, "click": 0, "dwell": None},
        {"user": 2, "item": 0, "time": start + 60_000, "place": 0, "click": 0, "dwell": None},
    ]
    order = {"user": 1, "item": 1, "ordered_at": start, "paid": 1, "returned": 0, "amount": 1.0}
    orders = [{**order, "ordered_at": start + second} for second in range(5)] + [order, {**order, "user": 9}]
    data = dataset()
    figures = build(data, tables_of(log, orders, [])).figures
    # The repeated order counts once; user 9 has no impression.
    assert figures.event_tables["orders"] == JoinFigures(rows=6, matched=5)
    found = figures.histories["orders"].values()
    assert sum(each.rows for each in found) == 2 and sum(each.empty for each in found) == 1
    assert sum(each.events for each in found) == 2
    assert (sum(each.cut_rows for each in found), sum(each.cut_events for each in found)) == (1, 3)
