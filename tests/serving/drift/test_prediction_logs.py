"""Logs of a server's predict requests are read as rows, whatever the signature."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from mixrank.schemas.encode import columns, encode
from mixrank.schemas.synthetic import toy_rows
from mixrank.schemas.wire import entry
from mixrank.serving.drift import LoggedRows
from mixrank.serving.export.columns import request_and_item, to_columns, to_request_columns


def log_of(signature, inputs, outputs=None, seconds=0):
    log = prediction_log_pb2.PredictionLog()
    log.log_metadata.timestamp_secs = seconds
    log.predict_log.request.model_spec.signature_name = signature
    for message, arrays in (
        (log.predict_log.request.inputs, inputs),
        (log.predict_log.response.outputs, outputs or {}),
    ):
        for name, value in arrays.items():
            message[name].CopyFrom(tf.make_tensor_proto(value))
    return log.SerializeToString()


def write(path, records, compression=""):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


def read(path, spec, **options):
    """Column -> one list of all batches."""
    found = {}
    for batch in LoggedRows(path, spec, **options):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            found.setdefault(name, []).extend(column.to_pylist())
    return found


@pytest.fixture(scope="module")
def rows(toy_spec):
    return list(toy_rows(toy_spec, 6, seed=8, missing=0.3))


@pytest.fixture(scope="module")
def plain(toy_spec, rows, tmp_path_factory):
    """Column -> lists, as the rows are read from JSON, which other tests look at."""
    import json

    from mixrank.schemas.encode import to_instance

    path = tmp_path_factory.mktemp("plain") / "rows.jsonl"
    path.write_text("".join(json.dumps(to_instance(toy_spec, row)) + "\n" for row in rows))
    return read(path, toy_spec)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert [[str(each) for each in row] for row in found[name]] == [[str(each) for each in row] for row in values]


@pytest.mark.parametrize("size", [2, 4096])
def test_rows_of_all_signatures_are_those_that_were_sent(toy_spec, rows, plain, tmp_path, size):
    ranked = [request_and_item(toy_spec, row) for row in rows[4:]]
    records = [
        log_of("score_rows", to_columns(toy_spec, rows[:3]), {"click": np.full((3, 1), 0.25, np.float32)}, 5),
        log_of("score_rows", to_columns(toy_spec, rows[3:4]), {"click": np.full((1, 1), 0.5, np.float32)}, 6),
        *(log_of("rank_candidates", to_request_columns(toy_spec, own, [item])) for own, item in ranked),
    ]
    found = read(write(tmp_path / "log.tfrecord.gz", records, "GZIP"), toy_spec, batch_size=size, about=True)
    assert found.pop("score_click") == [0.25, 0.25, 0.25, 0.5]
    assert found.pop("logged_at") == [5000, 5000, 5000, 6000, None, None]
    same(found, plain)


def test_every_candidate_of_a_request_is_a_row(toy_spec, rows, tmp_path):
    own, _ = request_and_item(toy_spec, rows[0])
    items = [request_and_item(toy_spec, row)[1] for row in rows]
    path = write(tmp_path / "log", [log_of("rank_candidates", to_request_columns(toy_spec, own, items))])
    found = read(path, toy_spec)
    assert found["clip"] == [[row["clip"].encode()] for row in rows]
    assert found["person"] == [[rows[0]["person"]]] * 6
    assert len({str(each) for each in found["global_gap"]}) == 1 and len(found["global_gap"]) == 6


def test_an_example_may_carry_an_impression_id_keys_and_a_time(toy_spec, rows, tmp_path):
    examples = []
    for number, row in enumerate(rows):
        extra = entry("impression_id", "str", [f"id {number}"] if number else [])
        serialized = encode(toy_spec, row)
        example = tf.train.Example.FromString(serialized)
        example.features.MergeFromString(extra)
        examples.append(example.SerializeToString())
    path = write(tmp_path / "log", [log_of("", {"examples": np.array(examples, object)}, seconds=9)])
    found = read(path, toy_spec, about=True)
    assert found["impression_id"] == [None, *(f"id {number}" for number in range(1, 6))]
    assert found["at"] == [[row["at"]] for row in rows] and found["logged_at"] == [9000] * 6
    served = {column.name for column in columns(toy_spec)}
    assert set(found) == served | {"impression_id", "logged_at"}
    # Drift compares columns of the spec alone.
    assert set(read(path, toy_spec)) == served


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (lambda spec, rows: b"no log", "log, request 2: it is no PredictionLog"),
        (lambda spec, rows: encode(spec, rows[0]), "log, request 2: it is no PredictionLog of a predict request"),
        (
            lambda spec, rows: log_of("words", {"word": np.array([b"a"])}),
            "request 2: the signature `words` has no rows",
        ),
        (lambda spec, rows: log_of("", {"word": np.array([b"a"])}), "takes `examples`, received .'word'."),
        (
            lambda spec, rows: log_of("score_rows", {"person": np.arange(2), "clip": np.array([b"a"])}),
            r"request 2: its columns do not have one number of rows, but \[1, 2\]",
        ),
        (
            lambda spec, rows: log_of("score_rows", {"person": np.arange(2)}),
            "request 2: `clip` is not in all requests|in all",
        ),
    ],
    ids=["rubbish", "an example", "another signature", "no examples", "uneven", "a column less"],
)
def test_a_request_that_cannot_be_read_is_named(toy_spec, rows, tmp_path, record, said):
    good = log_of("score_rows", to_columns(toy_spec, rows[:1]))
    with pytest.raises(ValueError, match=said):
        read(write(tmp_path / "log", [good, record(toy_spec, rows)]), toy_spec)


def test_a_column_of_another_type_and_a_file_that_is_cut_off_are_named(toy_spec, rows, tmp_path):
    path = write(tmp_path / "log", [log_of("score_rows", {"person": np.array([1.5], np.float32)})])
    with pytest.raises(ValueError, match=r"log: column `person` takes int values"):
        read(path, toy_spec)
    path = write(tmp_path / "log", [log_of("score_rows", to_columns(toy_spec, rows))] * 2)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="log cannot be read after row 1: it is cut off"):
        read(path, toy_spec)
