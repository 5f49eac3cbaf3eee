"""The column of the ranking request on its way from the log to the metrics."""

import numpy as np
import pandas as pd
import pytest

from mixrank import schemas as s
from mixrank.components.examples.columns import examples
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.raw_tables import FILE, ROW, checked_rows, find_tables, read_batches
from mixrank.components.examples.user_shard import build
from mixrank.schemas.encode import check_row, columns, decode, encode
from mixrank.schemas.synthetic import toy_rows

SPEC = s.FeatureSpec(
    name="shop",
    user=s.Key("member"),
    item=s.Key("article"),
    time=s.EventTime("at"),
    scenario=s.Scenario("page", values=(1, 2)),
    labels=(s.Label("click"),),
    features=(s.Categorical("article", group="item", vocab=s.Hash(size=50), dim=2),),
    request=s.Request("search", dtype="str"),
)
DATA = s.Dataset(
    spec=SPEC, source=s.LogSource(log=s.Table(files=("log.csv",)), split=s.SplitByUserTail(valid=0.1, eval=0.2))
)
LOG = {
    "member": [7, 7, 7, 8],
    "article": [1, 1, 2, 1],
    "at": [1000, 1000, 1000, 2000],
    "page": [1, 1, 1, 2],
    "click": [0, 0, 1, 1],
    "search": ["a", "b", "b", "c"],
}


def test_rows_of_two_requests_are_no_duplicates():
    log = {name: Coded(np.arange(1, 5), [None, *values]) for name, values in LOG.items()}
    log |= {FILE: Coded(np.ones(4, int), [None, 0]), ROW: Coded(np.arange(1, 5), [None, 1, 2, 3, 4])}
    shard = build(DATA, {"log": log})
    rows = [decode(SPEC, row) for row in examples(shard.columns, np.arange(4))]
    found = [(row["article"], row["search"]) for row in rows]
    assert found == list(zip(LOG["article"], LOG["search"], strict=True))


def test_a_row_without_its_request_is_bad(tmp_path):
    lines = ["member,article,at,page,click,search", "7,1,1000,1,0,a", "7,2,1000,1,1,"]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    (table,) = find_tables(DATA, str(tmp_path)).values()
    batches = [batch for number, piece in table.pieces() for batch in read_batches(table, number, piece)]
    good, letters = zip(*(checked_rows(table, 0, batch) for batch in batches), strict=True)
    assert [value for each in good for value in each["search"].to_pylist()] == ["a"]
    assert [letter["column"] for each in letters for letter in each] == ["search"]


def test_a_served_request_does_not_carry_it_and_a_training_row_must():
    (column,) = [column for column in columns(SPEC) if column.name == "search"]
    assert (column.serving, column.required, column.kind) == (False, False, "str")
    (row, *_) = toy_rows(SPEC, 3)
    assert decode(SPEC, encode(SPEC, row))["search"] == row["search"]
    del row["search"]
    check_row(SPEC, row)
    with pytest.raises(ValueError, match="column `search` is required but missing"):
        check_row(SPEC, row, labels=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [("click", "column `click` is declared twice: as request and as label"), ("member", "must be a column of its own")],
)
def test_a_request_has_a_column_of_its_own(name, message):
    with pytest.raises(ValueError, match=message):
        s.FeatureSpec(**{**dict(SPEC), "request": s.Request(name)})


@pytest.mark.parametrize("dtype", ["int", "str"])
def test_transformed_rows_and_predictions_keep_it(tmp_path, dtype):
    import tensorflow as tf

    from mixrank.components.training.batches import TransformedRows
    from mixrank.components.training.predictions import predict, validation_metrics
    from mixrank.components.transform import transform

    spec = s.FeatureSpec(**{**dict(SPEC), "request": s.Request("search", dtype=dtype)})
    rows = list(toy_rows(spec, 40))
    inputs = {c.name: tf.ragged.constant([[row[c.name]] for row in rows]) for c in columns(spec)}
    inputs = {n: v if v.dtype == tf.string else tf.cast(v, tf.int64) for n, v in inputs.items()}
    outputs = transform(spec, inputs)
    raw = [row["search"] for row in rows]
    assert [v if dtype == "int" else v.decode() for v in outputs["key_request"].numpy()] == raw

    file = str(tmp_path / "rows.gz")
    kinds = {tf.int64: "int64_list", tf.string: "bytes_list", tf.float32: "float_list"}
    with tf.io.TFRecordWriter(file, "GZIP") as writer:
        for number in range(40):
            example = tf.train.Example()
            for name, values in outputs.items():
                getattr(example.features.feature[name], kinds[values.dtype]).value.append(values.numpy()[number])
            writer.write(example.SerializeToString())
    parsing = {name: tf.io.FixedLenFeature([], values.dtype) for name, values in outputs.items()}
    transformed = TransformedRows((file,), parsing, ("click",), ("article", "page"))
    found = predict(spec, lambda row: {"click": tf.cast(row["article"], tf.float32) / 50}, transformed)
    assert list(found) == ["member", "article", "at", "search", "page", "label_click", "score_click"]
    pd.testing.assert_series_equal(found["search"], pd.Series(raw, name="search"))
    assert {"click.request_ndcg@10", "click.request_mrr"} <= set(validation_metrics(spec, found))
    without = s.FeatureSpec(**{**dict(spec), "request": None})
    assert not any("request" in name for name in validation_metrics(without, found))


def test_the_candidates_of_a_request_cannot_have_requests_of_their_own():
    source = {**dict(DATA.source), "explode": s.Explode(("article", "search"))}
    with pytest.raises(ValueError, match="lists `search` in `columns`, which is the request and not one per item"):
        s.Dataset(spec=SPEC, source=s.LogSource(**source))
