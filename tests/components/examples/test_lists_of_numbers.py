"""Vectors and weights, from the files of a log to its examples."""

from __future__ import annotations

import json

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

LOOKS = [[0.5, -1.25], [0.5], None, [2.0, 0.0], [1.0, 2.0]]
TAGS = ["a:0.5|b", "a", None, "b:x", "c:2|a:0|b:3"]


def write_csv(file):
    rows = [f'{n},7,{n},home,1,"{json.dumps(look) if look else ""}",{tag or ""}' for n, look, tag in rows_of()]
    file.with_suffix(".csv").write_text("\n".join(["user,item,at,page,click,look,tag", *rows]) + "\n")


def write_parquet(file):
    pq.write_table(pa.Table.from_pylist(records()), file.with_suffix(".parquet"))


def write_json(file):
    file.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in records()))


def write_tfrecord(file):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(file.with_suffix(".tfrecord"))) as writer:
        for row in records():
            features = tf.train.Features()
            for name, value in row.items():
                if isinstance(value, list):
                    features.feature[name].float_list.value.extend(value)
                elif isinstance(value, int):
                    features.feature[name].int64_list.value.append(value)
                elif value is not None:
                    features.feature[name].bytes_list.value.append(value.encode())
            writer.write(tf.train.Example(features=features).SerializeToString())


def rows_of():
    return [(number, look, tag) for number, (look, tag) in enumerate(zip(LOOKS, TAGS, strict=True))]


def records():
    plain = {"item": 7, "page": "home", "click": 1}
    return [{"user": n, "at": n, "look": look, "tag": tag, **plain} for n, look, tag in rows_of()]


def dataset():
    spec = s.FeatureSpec(
        name="shop",
        user=s.Key("user"),
        item=s.Key("item"),
        time=s.EventTime("at"),
        scenario=s.Scenario("page", values=("home", "cart")),
        labels=(s.Label("click"),),
        features=(
            s.Vector("look", group="item", dim=2, separator=","),
            s.MultiCategorical(
                "tag", group="item", separator="|", weight_separator=":", weights="tag_weight", max_length=2
            ),
        ),
    )
    source = s.LogSource(log=s.Table(files=("log.*",)), split=s.SplitByUserTail(valid=0, eval=0.5))
    return s.Dataset(spec=spec, source=source)


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_json, write_tfrecord])
def test_a_vector_and_weights_reach_the_examples_or_their_row_is_bad(write, tmp_path):
    write(tmp_path / "log")
    shop = dataset()
    (table,) = find_tables(shop, str(tmp_path)).values()
    good, letters = [], []
    for number, piece in table.pieces():
        for batch in read_batches(table, number, piece):
            columns, bad = checked_rows(table, number, batch)
            good.append(pa.table(columns))
            letters += bad
    assert [(each["row"], each["column"], each["reason"]) for each in letters] == [
        (2, "look", "has 1 numbers, expected 2"),
        (4, "tag", "is not a number"),
    ]
    whole = pa.concat_tables(good)
    shard = build_whole(shop, {"log": {name: Coded.from_arrow(whole[name]) for name in whole.column_names}})
    rows = [decode(shop.spec, each) for each in examples(shard.columns, np.arange(3))]
    for row in rows:
        check_row(shop.spec, row, labels=True)
    rows.sort(key=lambda row: row["user"])
    assert [row["look"] for row in rows] == [[0.5, -1.25], [], [1.0, 2.0]]
    # What is beyond the length is dropped, with its weight.
    assert [row["tag"] for row in rows] == [["a", "b"], [], ["c", "a"]]
    assert [row["tag_weight"] for row in rows] == [[0.5, 1.0], [], [2.0, 0.0]]


def test_weights_of_another_column_are_as_many_as_the_values(tmp_path):
    shop = dataset()
    tag = s.MultiCategorical("tag", group="item", weights="tag_weight", max_length=2)
    spec = s.FeatureSpec(**{**dict(shop.spec), "features": (tag,)})
    rows = [
        {"user": n, "item": 7, "at": n, "page": "home", "click": 1, "tag": tags, "tag_weight": weights}
        for n, (tags, weights) in enumerate(
            [(["a", "b"], [1.0, 2.0]), (["a"], [1.0, 2.0]), (["a"], []), (["b"], [-1.0])]
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    (table,) = find_tables(shop.model_copy(update={"spec": spec}), str(tmp_path)).values()
    (piece,) = table.pieces()
    (batch,) = read_batches(table, *piece)
    columns, letters = checked_rows(table, 0, batch)
    assert columns["tag_weight"].to_pylist() == [[1.0, 2.0], []]
    assert [(each["row"], each["column"], each["reason"]) for each in letters] == [
        (2, "tag_weight", "has 2 weights for 1 values"),
        (4, "tag_weight", "has a weight below 0"),
    ]
