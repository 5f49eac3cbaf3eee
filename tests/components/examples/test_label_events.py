"""Labels from later events, and the histories that see them, against references that compare all pairs of rows."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank import schemas as s
from mixrank.components.examples.columns import examples
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.joined_log import FILE, ROW
from mixrank.components.examples.label_events import outcome
from mixrank.components.examples.popularity import count
from mixrank.components.examples.user_shard import build
from mixrank.schemas.encode import decode

MINUTE = 60_000
START = 1_700_000_000_000 // MINUTE * MINUTE
WITHIN = 30
FIELDS = ("item", "action", "gap")
EVENT = st.fixed_dictionaries(
    {"user": st.sampled_from(["a", "b"]), "item": st.integers(0, 2), "time": st.integers(0, 12).map(lambda n: n * 10)}
)
IMPRESSION = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["a", "b"]),
        "item": st.integers(0, 2),
        "time": st.integers(0, 12).map(lambda n: n * 10),
        "like": st.integers(0, 1),
    }
)


def coded(values, kind):
    return Coded.from_arrow(pa.array(values, kind))


def outcome_by_pandas(log, events, within):
    """Moment of the first event of every impression, None without one, and the number of events that have one."""
    log = pd.DataFrame(log)
    moments, matched = [None] * len(log), 0
    for event in events:
        before = log[(log.user == event["user"]) & (log.item == event["item"]) & (log.time <= event["time"])]
        if before.empty:
            continue
        latest = before.sort_values("time", kind="stable").index[-1]
        if event["time"] - log.time[latest] <= within:
            matched += 1
            moments[latest] = min(event["time"], moments[latest] if moments[latest] is not None else event["time"])
    return moments, matched


@settings(max_examples=50, deadline=None)
@given(
    log=st.lists(IMPRESSION, min_size=1, max_size=12),
    events=st.lists(EVENT, max_size=12),
    within=st.sampled_from([1, 25]),
)
def test_an_event_belongs_to_the_latest_impression_before_it(log, events, within):
    keys = [("user", pa.string()), ("item", pa.int64())]
    time, event_time = np.array([r["time"] for r in log]), np.array([e["time"] for e in events], dtype=np.int64)
    found = outcome(
        [coded([row[name] for row in log], kind) for name, kind in keys],
        time,
        [coded([event[name] for event in events], kind) for name, kind in keys],
        event_time,
        within,
    )
    moments, matched = outcome_by_pandas(log, events, within)
    assert found.moment.tolist() == moments and found.matched == matched
    assert found.label.tolist() == [int(moment is not None) for moment in moments]


def test_a_missing_key_matches_nothing():
    requests = coded(["r1", None], pa.string())
    found = outcome([requests], np.array([0, 0]), [coded([None, "r1"], pa.string())], np.array([5, 5]), 10)
    assert found.label.tolist() == [1, 0] and found.matched == 1


def dataset(only):
    return s.Dataset(
        spec=s.FeatureSpec(
            name="shop",
            user=s.Key("user", dtype="str"),
            item=s.Key("item"),
            time=s.EventTime("time"),
            scenario=s.Scenario("place", values=(0,)),
            labels=(s.Label("click"),),
            features=(
                s.Categorical("item", group="item"),
                s.Action("action", flags=("click", "like")),
                s.TimeGap("gap"),
                s.History("before", of=FIELDS, length=4, window="before", only=only),
                s.History("within", of=FIELDS, length=4, window="within", only=only),
            ),
        ),
        source=s.LogSource(
            log=s.Table(files=("log.parquet",)),
            labels={"click": s.LabelFrom(table=s.Table(files=("clicks.parquet",)), within=f"{WITHIN}m")},
            window=s.Sliding(seconds=45 * 60),
            split=s.SplitByUserTail(valid=0, eval=0.5),
        ),
    )


def built(data, log, events):
    tables = {
        "log": {
            "user": coded([r["user"] for r in log], pa.string()),
            "item": coded([r["item"] for r in log], pa.int64()),
            "time": coded([START + r["time"] * MINUTE for r in log], pa.int64()),
            "like": coded([r["like"] for r in log], pa.int64()),
            "place": coded([0] * len(log), pa.int64()),
            FILE: coded([0] * len(log), pa.int64()),
            ROW: coded(list(range(len(log))), pa.int64()),
        },
        "label_click": {
            "user": coded([e["user"] for e in events], pa.string()),
            "item": coded([e["item"] for e in events], pa.int64()),
            "time": coded([START + e["time"] * MINUTE for e in events], pa.int64()),
        },
    }
    shard = build(data, tables)
    return [decode(data.spec, row) for row in examples(shard.columns, np.arange(len(shard.split)))]


def reference(log, events, only):
    """The rows as they should be, each by looking at all others."""
    unique = [row for place, row in enumerate(log) if row not in log[:place]]
    moments, _ = outcome_by_pandas(unique, events, WITHIN)
    rows = [
        {**row, "moment": moment, "place": place}
        for place, (row, moment) in enumerate(zip(unique, moments, strict=True))
    ]
    result = []
    for row in rows:
        entry = {"user": row["user"], "time": START + row["time"] * MINUTE, "click": int(row["moment"] is not None)}
        past = []
        for other in rows:
            at = other["moment"] if only == "click" else other["time"]
            if (
                other["user"] != row["user"]
                or at is None
                or at >= row["time"]
                or (only == "like" and not other["like"])
            ):
                continue
            clicked = other["moment"] is not None and other["moment"] < row["time"]
            past.append((at, other["time"], other["place"], other["item"], int(clicked) + 2 * other["like"]))
        past.sort(reverse=True)
        for window in ("before", "within"):
            mine = [e for e in past if (e[0] < row["time"] - 45) == (window == "before")][:4]
            entry[f"{window}_item"] = [e[3] for e in mine]
            entry[f"{window}_action"] = [e[4] for e in mine]
            entry[f"{window}_gap"] = [(row["time"] - e[0]) * 60 for e in mine]
        result.append(entry)
    return result


@settings(max_examples=50, deadline=None)
@given(
    log=st.lists(IMPRESSION, min_size=1, max_size=12),
    events=st.lists(EVENT, max_size=8),
    only=st.sampled_from([None, "click", "like"]),
)
def test_no_history_knows_a_click_before_it_happened(log, events, only):
    found = built(dataset(only), log, events)
    expected = reference(log, events, only)
    keys = expected[0].keys()

    def ordered(rows):
        return sorted(repr({name: row[name] for name in keys}) for row in rows)

    assert ordered(found) == ordered(expected)


def test_popularity_counts_a_late_click_on_the_day_of_the_click():
    midnight = round(datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC).timestamp() * 1000)
    columns = {
        "item": coded([7, 7], pa.int64()),
        "click": coded([1, 0], pa.int64()),
        "_moment_click": coded([midnight + MINUTE, None], pa.int64()),
    }
    table = count({"rate": s.Popularity(of="item", label="click")}, columns, np.array([midnight - MINUTE] * 2))
    per_day = table[table["value"] == "7"].sort_values("day")[["positives", "rows"]].to_numpy().tolist()
    assert per_day == [[0, 2], [1, 0]]
