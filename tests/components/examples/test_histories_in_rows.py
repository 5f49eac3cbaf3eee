"""Histories that the rows of a log bring themselves, from files to examples."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mixrank import schemas as s
from mixrank.components.examples.columns import examples
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.raw_tables import checked_rows, find_tables, read_batches
from mixrank.components.examples.user_shard import build_whole
from mixrank.schemas.arrow import pq
from mixrank.schemas.encode import check_row, decode

# Oldest first; the numbers of the last two rows are not as many as their ids, and one id is missing.
VIEWED = [["a", "b", "c"], None, [], ["d"], ["a", None], ["a", "b"]]
PAID = [[1.0, None, 3.0], None, [], [0.5], [1.0, 2.0], [1.0]]


def dataset(in_row="oldest_first", separator=None, joins=(), user=None, **table):
    spec = s.FeatureSpec(
        name="shop",
        user=user or s.Key("user"),
        item=s.Key("item", dtype="str"),
        time=s.EventTime("at"),
        scenario=s.Scenario("page", values=("home", "cart")),
        labels=(s.Label("click"),),
        features=(
            s.Categorical("item", group="item", dtype="str"),
            s.Numeric("paid", group="event"),
            s.History("viewed", of=("item", "paid"), length=2, window="within", in_row=in_row, separator=separator),
        ),
    )
    log = s.Table(files=("log.*",), rename={"recently_viewed": "viewed_item"}, **table)
    source = s.LogSource(log=log, joins=joins, split=s.SplitByHash(valid=0, eval=0.5))
    return s.Dataset(spec=spec, source=source)


def records(viewed=VIEWED, paid=PAID):
    plain = {"item": "z", "page": "home", "click": 1}
    return [
        {"user": n, "at": n, "recently_viewed": ids, "viewed_paid": numbers, **plain}
        for n, (ids, numbers) in enumerate(zip(viewed, paid, strict=True))
    ]


def write_csv(folder, rows):
    def text(values):
        return "|".join("" if value is None else str(value) for value in values or ())

    lines = [f"{r['user']},z,{r['at']},home,1,{text(r['recently_viewed'])},{text(r['viewed_paid'])}" for r in rows]
    head = "user,item,at,page,click,recently_viewed,viewed_paid"
    (folder / "log.csv").write_text("\n".join([head, *lines]) + "\n")


def write_parquet(folder, rows):
    pq.write_table(pa.Table.from_pylist(rows), folder / "log.parquet")


def read(data, folder):
    """The rows as examples, by their time, what was cut, and dead letters."""
    good, letters, tables = [], [], {}
    for name, table in find_tables(data, str(folder)).items():
        good = []
        for number, piece in table.pieces():
            for batch in read_batches(table, number, piece):
                columns, bad = checked_rows(table, number, batch)
                good.append(pa.table(columns))
                letters += bad
        whole = pa.concat_tables(good)
        tables[name] = {column: Coded.from_arrow(whole[column]) for column in whole.column_names}
    shard = build_whole(data, tables)
    rows = [decode(data.spec, each) for each in examples(shard.columns, np.arange(len(shard.split)))]
    for row in rows:
        check_row(data.spec, row, labels=True)
    return sorted(rows, key=lambda row: row["at"]), shard, letters


@pytest.mark.parametrize(("write", "separator"), [(write_parquet, None), (write_csv, "|")])
@pytest.mark.parametrize("in_row", ["newest_first", "oldest_first"])
def test_lists_of_a_row_reach_the_examples_or_their_row_is_bad(write, separator, in_row, tmp_path):
    flip = (lambda each: each) if in_row == "oldest_first" else (lambda each: each and each[::-1])
    write(tmp_path, records([flip(each) for each in VIEWED], [flip(each) for each in PAID]))
    rows, shard, letters = read(dataset(in_row, separator), tmp_path)
    place = 2 if in_row == "oldest_first" else 1
    assert [(each["row"], each["column"], each["reason"]) for each in letters] == [
        (5, "recently_viewed", f"lacks value {place} of its list"),
        (6, "viewed_paid", "has 1 values, but `recently_viewed` of the same row has 2"),
    ]
    assert [row["viewed_item"] for row in rows] == [["c", "b"], [], [], ["d"]]
    np.testing.assert_array_equal(rows[0]["viewed_paid"], [3.0, np.nan])
    assert [row["viewed_paid"] for row in rows[1:]] == [[], [], [0.5]]
    found = shard.figures.histories["viewed"].values()
    assert [sum(getattr(each, kind) for each in found) for kind in ("rows", "empty", "events")] == [4, 2, 3]
    # Of three events, two are kept.
    assert [sum(getattr(each, kind) for each in found) for kind in ("cut_rows", "cut_events")] == [1, 1]


def test_lists_may_stand_in_a_table_of_users(tmp_path):
    users = s.Join(on="user", table=s.Table(files=("users.parquet",)))
    write_parquet(tmp_path, [{**row, "user": row["user"] // 2} for row in records()])
    log = pq.read_table(tmp_path / "log.parquet").drop(["recently_viewed", "viewed_paid"])
    pq.write_table(log, tmp_path / "log.parquet")
    lists = [{"user": 0, "viewed_item": ["a", "b", "c"], "viewed_paid": [1.0, 2.0, 3.0]}]
    pq.write_table(pa.Table.from_pylist(lists), tmp_path / "users.parquet")
    rows, _, letters = read(dataset(joins=(users,)), tmp_path)
    assert not letters
    assert [row["viewed_item"] for row in rows] == [["c", "b"], ["c", "b"], [], [], [], []]


def test_a_log_without_users_has_them_too(tmp_path):
    write_parquet(tmp_path, records()[:4])
    rows, *_ = read(dataset(user=s.Key("row", per_row=True)), tmp_path)
    assert [row["viewed_item"] for row in rows] == [["c", "b"], [], [], ["d"]]


def test_all_lists_of_a_history_are_in_one_table(tmp_path):
    items = s.Join(on="item", table=s.Table(files=("items.parquet",)))
    rows = [{name: value for name, value in row.items() if name != "viewed_paid"} for row in records()]
    write_parquet(tmp_path, rows)
    pq.write_table(pa.Table.from_pylist([{"item": "z", "viewed_paid": [1.0]}]), tmp_path / "items.parquet")
    with pytest.raises(ValueError, match=r"history `viewed`: no column `viewed_paid` \(.*log.parquet\).*`rename`"):
        find_tables(dataset(joins=(items,)), str(tmp_path))
    write_parquet(tmp_path, [{**row, "viewed_itm": []} for row in records()])
    with pytest.raises(ValueError, match=r"no column `viewed_item` .*did you mean `viewed_itm`\?"):
        find_tables(
            dataset().model_copy(
                update={
                    "source": s.LogSource(log=s.Table(files=("log.*",)), split=s.SplitByHash(valid=0, eval=0.5)),
                }
            ),
            str(tmp_path),
        )
