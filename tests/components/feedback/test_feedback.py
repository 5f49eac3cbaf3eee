"""Joins over many shards, what is refused, and that a folder is whole or not there."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank import schemas as s
from mixrank.components.feedback import Feedback, join_feedback, shards
from mixrank.components.feedback import feedback as module
from mixrank.schemas.encode import decode
from mixrank.schemas.files import leftovers

SPEC = s.FeatureSpec(
    name="shop",
    user=s.Key("user"),
    item=s.Key("item", dtype="str"),
    time=s.EventTime("time", unit="s"),
    scenario=s.Scenario("place", values=("home", "cart")),
    labels=(s.Label("click"), s.Label("stars", kind="ordinal", classes=(1, 2, 3), given="click")),
    features=(s.Categorical("item", group="item", dtype="str", dim=4), s.Numeric("price", group="item")),
)
HOUR_MS = 3_600_000


def row(number, **changes):
    known = {"user": number % 5, "item": f"v{number % 7}", "place": "home", "price": number / 3, "time": 1000 * number}
    return {**known, "impression_id": f"i{number}", **changes}


def served(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def outcomes(path, rows):
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


def clicked(number, **changes):
    # Seconds, as in the log.
    return {"impression_id": f"i{number}", "time": number + 1, "click": 1, "stars": 2, **changes}


def join(tmp_path, logs, tables, name="out", **options):
    options = {"within_hours": 1, "until_ms": 2**42, **options}
    return join_feedback(SPEC, logs, tables, tmp_path / name, **options)


def rows_of(folder):
    files = sorted(map(str, (folder / "Split-train").glob("*.gz")))
    return [decode(SPEC, each.numpy()) for each in tf.data.TFRecordDataset(files, "GZIP")]


@pytest.mark.slow
def test_a_join_over_many_shards_finds_the_same(tmp_path, monkeypatch):
    log = served(tmp_path / "log.jsonl", [row(number) for number in range(2000)])
    table = outcomes(tmp_path / "clicks.csv", [clicked(number) for number in range(0, 2000, 3)])
    one = join(tmp_path, [log], [table], "one")
    monkeypatch.setattr(shards, "SHARD_BYTES", 10_000)
    monkeypatch.setattr(shards, "BUFFER_BYTES", 20_000)
    many = join(tmp_path, [log], [table], "many")
    assert many == one and one.rows == 2000 and one.positives == {"click": 667, "stars": 667}
    assert len(list((tmp_path / "many" / "Split-train").glob("*.gz"))) == 5
    found = [sorted(rows_of(tmp_path / name), key=lambda each: each["time"]) for name in ("one", "many")]
    assert found[0] == found[1]
    assert found[0][3] == {
        "user": 3, "time": 3000, "place": "home", "click": 1, "stars": 2, "item": "v3", "price": 1.0,
    }  # fmt: skip
    assert found[0][4]["click"] == found[0][4]["stars"] == 0
    # The rows of a user are together in one file.
    users = [{each["user"] for each in rows_of_file(path)} for path in (tmp_path / "many" / "Split-train").glob("*.gz")]
    assert sorted(user for each in users for user in each) == list(range(5))


def rows_of_file(path):
    return [decode(SPEC, each.numpy()) for each in tf.data.TFRecordDataset(str(path), "GZIP")]


@pytest.mark.slow
@settings(max_examples=25)
@given(st.data())
def test_nothing_is_lost_and_nothing_is_there_twice(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("join")
    number = st.integers(0, 6)
    ids = data.draw(st.lists(number, min_size=1, max_size=12))
    log = served(
        tmp_path / "log.jsonl",
        [row(each, time=1000 * data.draw(number), n=place) for place, each in enumerate(ids)],
    )
    told = data.draw(st.lists(st.tuples(number, number, st.integers(0, 1)), min_size=1, max_size=12))
    table = outcomes(tmp_path / "o.csv", [clicked(each, time=time, click=click) for each, time, click in told])
    out = tmp_path / "out"
    found = join(tmp_path, [log], [table], within_hours=2 / 3600, until_ms=1000 * data.draw(number))
    assert sum(found.served.values()) == len(ids) and sum(found.outcomes.values()) == len(told)
    tables = {
        name: pd.concat([pd.read_parquet(path) for path in sorted((out / name).glob("*"))] or [pd.DataFrame()])
        for name in ("waiting/served", "left_over/served", "waiting/outcomes", "left_over/outcomes")
    }
    rows = rows_of(out)
    assert len(rows) + len(tables["waiting/served"]) + len(tables["left_over/served"]) == len(ids)
    assert len(tables["waiting/served"]) == found.served["its window has not passed"]
    assert len(tables["waiting/outcomes"]) == found.outcomes["the window of its impression has not passed"]
    left = len(told) - found.outcomes["used"] - len(tables["waiting/outcomes"])
    assert len(tables["left_over/outcomes"]) == left
    for name in ("served", "outcomes"):
        counts = (
            tables[f"left_over/{name}"].get("left_over_reason", pd.Series([], dtype=object)).value_counts().to_dict()
        )
        own = found.served if name == "served" else found.outcomes
        assert counts == {reason: own[reason] for reason in counts}


def test_a_label_that_counts_only_with_another_may_be_missing_without_it(tmp_path):
    log = served(tmp_path / "log.jsonl", [row(number) for number in range(3)])
    table = outcomes(tmp_path / "o.csv", [clicked(0), clicked(1, click=0, stars=None), clicked(2, stars=3)])
    join(tmp_path, [log], [table])
    assert {each["time"]: (each["click"], each["stars"]) for each in rows_of(tmp_path / "out")} == {
        0: (1, 2), 1000: (0, 0), 2000: (1, 3),
    }  # fmt: skip


def test_labels_may_come_in_tables_of_their_own(tmp_path):
    log = served(tmp_path / "log.jsonl", [row(number) for number in range(3)])
    clicks = outcomes(tmp_path / "clicks.csv", [{"impression_id": "i0", "time": 1, "click": 1}])
    stars = outcomes(tmp_path / "stars.csv", [{"impression_id": "i0", "time": 9, "stars": 3}])
    found = join(tmp_path, [log], [clicks, stars])
    assert found.outcomes["used"] == 2 and found.with_outcome == 1
    assert sorted((each["click"], each["stars"]) for each in rows_of(tmp_path / "out")) == [(0, 0), (0, 0), (1, 3)]


def test_rows_that_lack_what_training_needs_are_left_over_and_counted(tmp_path):
    rows = [row(0), row(1, place=""), row(2, item=None), {**row(3), "time": None}]
    found = join(tmp_path, [served(tmp_path / "log.jsonl", rows)], [outcomes(tmp_path / "o.csv", [clicked(0)])])
    assert found.rows == 1 and found.missing == {"place": 1, "item": 1}
    assert found.served["has no time"] == 1
    left = pd.read_parquet(tmp_path / "out" / "left_over" / "served")
    assert dict(zip(left["impression_id"], left["left_over_reason"], strict=True)) == {
        "i1": "lacks a column that rows for training need",
        "i2": "lacks a column that rows for training need",
        "i3": "has no time",
    }


def test_without_times_of_outcomes_they_are_known_up_to_the_newest_served_row(tmp_path):
    log = served(tmp_path / "log.jsonl", [row(number, time=number * HOUR_MS) for number in range(10)])
    table = outcomes(tmp_path / "o.csv", [{"impression_id": "i2", "click": 1, "stars": 1}])
    found = join(tmp_path, [log], [table], until_ms=None, within_hours=2)
    assert found.until_ms == 9 * HOUR_MS
    assert (found.rows, found.served["its window has not passed"]) == (8, 2)
    assert found.outcomes["used"] == 1
    assert Feedback.model_validate_json((tmp_path / "out" / "feedback.json").read_text()) == found


def test_rows_wait_while_no_outcome_is_known(tmp_path):
    log = served(tmp_path / "log.jsonl", [row(number, time=number * HOUR_MS) for number in range(10)])
    (tmp_path / "none.csv").write_text("impression_id,time,click,stars\n")
    found = join(tmp_path, [log], [str(tmp_path / "none.csv")], "none", until_ms=None)
    assert (found.rows, found.served["its window has not passed"]) == (0, 10)
    table = outcomes(tmp_path / "o.csv", [clicked(3, time=4 * 3600)])
    found = join(tmp_path, [log], [table], "some", until_ms=None)
    assert (found.until_ms, found.rows, found.outcomes["used"]) == (4 * HOUR_MS, 4, 1)


def test_columns_that_are_too_many_or_nowhere_are_said(tmp_path):
    rows = [{name: value for name, value in row(number, banner="a").items() if name != "price"} for number in range(2)]
    found = join(tmp_path, [served(tmp_path / "log.jsonl", rows)], [outcomes(tmp_path / "o.csv", [clicked(0)])])
    assert (found.ignored, found.absent) == (("banner",), ("price",))


GOOD = [{"impression_id": "i0", "time": 1, "click": 1, "stars": 2}]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"impression": "i0", "click": 1, "stars": 2}], r"o\.csv has no column `user`; .*: outcomes are joined by"),
        ([{"user": 1, "item": "a", "click": 1, "stars": 1}], r"o\.csv has no column `time`; .* or by `user`, `item`"),
        ([{"impression_id": "i0", "time": 1}], r"o\.csv has none of the labels click, stars"),
        ([{"impression_id": "i0", "clicks": 1, "stars": 1}], "for the label `click`; did you mean `clicks`"),
        ([{**GOOD[0], "click": 2}], r"o\.csv, row 1, column `click`"),
        ([*GOOD, {**GOOD[0], "stars": 9}], r"o\.csv, row 2, column `stars` is not 1, 2 or 3"),
        ([{**GOOD[0], "time": "soon"}], r"o\.csv, row 1, column `time` is not a"),
        ([{**GOOD[0], "time": 10**15}], r"o\.csv, row 1, column `time`"),
    ],
)
def test_outcomes_that_do_not_fit_are_named(tmp_path, rows, said):
    log = served(tmp_path / "log.jsonl", [row(0)])
    with pytest.raises(ValueError, match=said):
        join(tmp_path, [log], [outcomes(tmp_path / "o.csv", rows)])
    assert not (tmp_path / "out").exists() and not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_text(json.dumps(row(0)) + '\n{"user": 1, '), "log.jsonl, line 2 is not JSON"),
        (lambda path: served(path, [row(0, price="dear")]), "log.jsonl, row 1, column `price` is not a number"),
        (lambda path: served(path, [row(0, user="a")]), "log.jsonl, row 1, column `user`"),
        (
            lambda path: served(path, [row(0, impression_id=[1])]),
            "column `impression_id` takes large_string",
        ),
        (lambda path: served(path, [row(0, impression_id=None)]), "no served row has one: let the client log"),
        (lambda path: path.write_bytes(b""), "log.jsonl is empty"),
        (lambda path: None, "log.jsonl is neither a file nor a folder"),
    ],
)
def test_a_log_that_does_not_fit_is_named(tmp_path, write, said):
    write(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match=said):
        join(tmp_path, [tmp_path / "log.jsonl"], [outcomes(tmp_path / "o.csv", GOOD)])
    assert not (tmp_path / "out").exists() and not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"within_hours": 0}, "`within_hours` must be a positive number of hours, received 0"),
        ({"within_hours": float("nan")}, "`within_hours` must be a positive"),
        ({"shown": ["o.csv"]}, "no file matches 'o.csv'"),
    ],
)
def test_arguments_out_of_bounds_are_refused(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        join(tmp_path, [served(tmp_path / "log.jsonl", [row(0)])], [outcomes(tmp_path / "o.csv", GOOD)], **options)


def test_outcomes_with_and_without_ids_are_not_mixed_and_shown_needs_ids(tmp_path):
    log = served(tmp_path / "log.jsonl", [row(0)])
    keyed = outcomes(tmp_path / "k.csv", [{"user": 0, "item": "v0", "time": 1, "click": 1, "stars": 2}])
    with pytest.raises(ValueError, match=r"o\.csv has a column `impression_id` and .*k\.csv has none"):
        join(tmp_path, [log], [outcomes(tmp_path / "o.csv", GOOD), keyed])
    with pytest.raises(ValueError, match="`shown` names impressions by `impression_id`, and the outcomes have none"):
        join(tmp_path, [log], [keyed], shown=[keyed])
    assert join(tmp_path, [log], [keyed]).outcomes["used"] == 1


def test_a_folder_that_holds_something_is_left_alone_and_a_kill_leaves_none(tmp_path, monkeypatch):
    log, table = served(tmp_path / "log.jsonl", [row(0)]), outcomes(tmp_path / "o.csv", GOOD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other").touch()
    with pytest.raises(ValueError, match="`out` must be empty"):
        join(tmp_path, [log], [table])

    class Killed(BaseException):
        pass

    def killed(*args, **options):
        raise Killed

    monkeypatch.setattr(module, "write_examples", killed)
    with pytest.raises(Killed):
        join(tmp_path, [log], [table], "new")
    assert not (tmp_path / "new").exists()


def test_keys_that_do_not_fit_into_a_float_are_told_apart(tmp_path):
    big = 2**60
    rows = [row(number, user=big + number, time=0) for number in range(4)]
    users = pd.array([big + 2, None], "Int64")
    table = pd.DataFrame({"user": users, "item": ["v2", "v0"], "time": 1, "click": 1, "stars": 1})
    table.to_parquet(tmp_path / "o.parquet")
    found = join(tmp_path, [served(tmp_path / "log.jsonl", rows)], [str(tmp_path / "o.parquet")])
    assert found.outcomes["used"] == 1 and found.outcomes["has no key to join by"] == 1
    assert [each["user"] for each in rows_of(tmp_path / "out") if each["click"]] == [big + 2]


def test_the_shard_of_a_key_is_the_same_for_text_and_numbers():
    import pyarrow as pa

    keys = shards.shard_of([pa.array(["1", "2", None, "1"]), pa.array(["a", "b", "c", "a"])], 7)
    assert keys[0] == keys[3] and len(keys) == 4 and set(keys) <= set(range(7))
    many = shards.shard_of([pa.array([str(number) for number in range(7000)])], 7)
    assert np.bincount(many).min() > 800


def test_what_a_killed_join_left_is_removed_by_the_next(tmp_path):
    code = "from mixrank.schemas.files import owner; print(owner())"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    left = tmp_path / f".out.{dead}.partial"
    (left / ".scratch").mkdir(parents=True)
    join(tmp_path, [served(tmp_path / "log.jsonl", [row(0)])], [outcomes(tmp_path / "o.csv", GOOD)])
    assert not left.exists() and not list((tmp_path / "out").glob(".*"))


def test_a_log_without_users_is_joined_by_ids_and_its_rows_are_numbered(tmp_path):
    spec = s.FeatureSpec(**{**dict(SPEC), "user": s.Key("row", per_row=True)})
    rows = [{name: value for name, value in row(number).items() if name != "user"} for number in range(4)]
    log, table = served(tmp_path / "log.jsonl", rows), outcomes(tmp_path / "o.csv", [clicked(2)])
    found = join_feedback(spec, [log], [table], tmp_path / "out", within_hours=1, until_ms=2**42)
    assert found.rows == 4
    files = [str(path) for path in (tmp_path / "out" / "Split-train").glob("*.gz")]
    made = [decode(spec, each.numpy()) for each in tf.data.TFRecordDataset(files, "GZIP")]
    assert sorted((each["row"], each["click"]) for each in made) == [(0, 0), (1, 0), (2, 1), (3, 0)]


def test_a_request_that_was_sent_twice_is_one_impression(tmp_path):
    log = served(tmp_path / "log.jsonl", [row(0), row(0, time=5), row(0, time=7)])
    found = join(tmp_path, [log], [outcomes(tmp_path / "o.csv", [clicked(0)])])
    assert found.rows == 1 and found.served["an earlier row is the same impression"] == 2
    assert rows_of(tmp_path / "out")[0]["time"] == 0


def test_texts_that_a_raw_log_reads_as_missing_are_what_was_served(tmp_path):
    rows = [row(0, item="null"), row(1, item="nan"), row(2, item="v2")]
    join(tmp_path, [served(tmp_path / "log.jsonl", rows)], [outcomes(tmp_path / "o.csv", GOOD)])
    assert {each["item"] for each in rows_of(tmp_path / "out")} == {"null", "nan", "v2"}


def test_a_log_whose_negatives_are_sampled_is_refused(tmp_path):
    spec = s.FeatureSpec(**{**dict(SPEC), "labels": (s.Label("click", keep_negatives=0.5),)})
    with pytest.raises(ValueError, match="label `click` has `keep_negatives`"):
        join_feedback(spec, [tmp_path], ["x"], tmp_path / "out", within_hours=1)


def test_a_request_called_impression_id_is_no_key_and_odd_names_do_not_clash(tmp_path):
    spec = s.FeatureSpec(
        name="shop",
        user=s.Key("row"),
        item=s.Key("place"),
        time=s.EventTime("at"),
        scenario=s.Scenario("shown", values=(0, 1)),
        labels=(s.Label("what"),),
        features=(s.Numeric("reason", group="item"), s.Categorical("outcome", group="item", dim=2)),
        request=s.Request("impression_id"),
    )
    known = {"at": 5, "shown": 1, "reason": 0.5, "outcome": 3, "impression_id": 77}
    log = served(tmp_path / "log.jsonl", [{**known, "row": 1, "place": number} for number in range(3)])
    table = outcomes(tmp_path / "o.csv", [{"row": 1, "place": 2, "at": 6, "what": 1, "impression_id": 77}])
    found = join_feedback(spec, [log], [table], tmp_path / "out", within_hours=1, until_ms=2**42)
    assert found.joined_by == ("row", "place") and found.rows == 3
    files = [str(path) for path in (tmp_path / "out" / "Split-train").glob("*.gz")]
    made = [decode(spec, each.numpy()) for each in tf.data.TFRecordDataset(files, "GZIP")]
    assert sorted((each["place"], each["what"], each["impression_id"]) for each in made) == [
        (0, 0, 77), (1, 0, 77), (2, 1, 77),
    ]  # fmt: skip
